#include "ops/cli/needle.h"
#include "core/rng.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* Owns the words of the synthetic world that needles are made of. It knows no model. */

const double needle_depth[NEEDLE_DEPTHS] = { 0, 0.25, 0.5, 0.75, 1 };
const uint32_t needle_lines[NEEDLE_LENGTHS] = { 20, 45, 90 };

typedef struct { uint64_t seed, at; } dice;

static uint32_t roll(dice *d, uint32_t n) { return (uint32_t)(rng_u64(d->seed, d->at++) % n); }

#define PICK(d, words) words[roll(d, sizeof words / sizeof *words)]

static const char *const onsets[] = { "b", "br", "c", "d", "dr", "f", "g", "gr", "h", "j", "k", "kr", "l", "m", "n", "p", "r", "s", "st",
                                      "t", "tr", "v", "w", "z", "th", "sh" };
static const char *const rhymes[] = { "a", "e", "i", "o", "u", "ar", "en", "or", "il", "an", "is" };
static const char *const endings[] = { "", "n", "r", "s", "l", "m", "th", "ck", "ra", "na", "lo", "vi", "da" };
static const char *const place_first[] = { "Port", "Old", "North", "East", "Lower", "Upper", "High", "Stone", "Green", "White", "Mill",
                                           "River" };
static const char *const place_second[] = { "Elms", "Harbor", "Ridge", "Ford", "Hollow", "Bridge", "Gate", "Cross", "Marsh", "Field",
                                            "Bay", "Grove", "Haven", "Wick", "Dale" };
static const char *const colours[] = { "red", "blue", "green", "yellow", "white", "black", "silver", "golden", "brown", "purple",
                                       "orange", "grey" };
static const char *const pets[] = { "dog", "cat", "goat", "owl", "horse", "fox", "rabbit", "goose", "mule", "parrot", "turtle", "hen" };
static const char *const objects[] = { "boat", "door", "lamp", "cloak", "cart", "hat", "flag", "tent" };
static const char *const filler[] = {
    "The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.",
    "The river runs past the mill.", "A cold wind came down from the hills.", "The market opens early in the morning.",
    "Rain fell on the roofs of the town.", "Two boats lay at the quay.", "The bell rang twice.", "Nobody was on the road that day.",
};

static void make_name(dice *d, char *out, size_t cap)
{
    static const uint32_t syllables[] = { 2, 2, 3 };
    size_t n = 0;
    *out = 0;
    for (uint32_t i = PICK(d, syllables); i; i--) n += (size_t)snprintf(out + n, cap - n, "%s%s", PICK(d, onsets), PICK(d, rhymes));
    snprintf(out + n, cap - n, "%s", PICK(d, endings));
    *out = (char)toupper((unsigned char)*out);
}

static void make_place(dice *d, char *out, size_t cap)
{
    if (roll(d, 10) < 6) snprintf(out, cap, "%s %s", PICK(d, place_first), PICK(d, place_second));
    else make_name(d, out, cap);
}

static void make_pet(dice *d, char *out, size_t cap)
{
    char name[40];
    const char *kind = PICK(d, pets);
    make_name(d, name, sizeof name);
    snprintf(out, cap, "%s named %s", kind, name);
}

static void make_colour(dice *d, char *out, size_t cap) { snprintf(out, cap, "%s", PICK(d, colours)); }
static void make_year(dice *d, char *out, size_t cap) { snprintf(out, cap, "%u", 1100 + roll(d, 800)); }
static void make_code(dice *d, char *out, size_t cap) { snprintf(out, cap, "%05u", roll(d, 100000)); }

/* How a fact gets its value, is told and is asked about. N: the name, V: the value, O: an object. No other capitals N, V, O. */
static const struct { void (*make)(dice *, char *, size_t); const char *told[3], *asked[2]; } kinds[] = {
    { make_code, { "The pass code of {N} is {V}.", "{N} chose the pass code {V}.", "To open the gate {N} uses the pass code {V}." },
      { "What is the pass code of {N}?", "Which pass code does {N} use?" } },
    { make_place, { "{N} lives in {V}.", "The home of {N} is in {V}.", "For many years {N} has lived in {V}." },
      { "Where does {N} live?", "In which place is the home of {N}?" } },
    { make_pet, { "{N} has a {V}.", "{N} keeps a {V}.", "Everywhere {N} goes, a {V} comes along." },
      { "Which animal does {N} keep?", "What pet does {N} have?" } },
    { make_colour, { "The {O} of {N} is {V}.", "{N} owns a {V} {O}.", "{N} painted the {O} {V}." },
      { "What colour is the {O} of {N}?", "Which colour does the {O} of {N} have?" } },
    { make_year, { "{N} was born in the year {V}.", "The birth year of {N} is {V}.", "In {V}, {N} was born." },
      { "In which year was {N} born?", "When was {N} born?" } },
};
enum { KINDS = sizeof kinds / sizeof *kinds };

typedef struct { uint32_t kind; char name[40], value[80]; const char *object; } fact;

static bool put(text *out, const char *form, const fact *f)
{
    bool ok = true;
    for (; ok && *form; form++) {
        if (*form != '{') {
            ok = text_add(out, form, 1);
            continue;
        }
        ok = text_adds(out, form[1] == 'N' ? f->name : form[1] == 'V' ? f->value : f->object);
        form += 2;
    }
    return ok;
}

static fact make_fact(dice *d)
{
    fact f = { .kind = roll(d, KINDS), .object = PICK(d, objects) };
    make_name(d, f.name, sizeof f.name);
    kinds[f.kind].make(d, f.value, sizeof f.value);
    return f;
}

static bool write_context(needle *n, dice *d, const fact *f)
{
    uint32_t lines = needle_lines[n->length], place = (uint32_t)(needle_depth[n->depth] * lines + 0.5);
    bool ok = text_adds(&n->context, "Context:\n[1]");
    for (uint32_t i = 0; ok && i <= lines; i++) {
        ok = text_adds(&n->context, " ");
        if (i == place) {
            n->at = n->context.len;
            ok = ok && put(&n->context, kinds[f->kind].told[roll(d, 3)], f);
            n->len = n->context.len - n->at;
        } else {
            ok = ok && text_adds(&n->context, PICK(d, filler));
        }
    }
    return ok && text_adds(&n->context, "\n");
}

err_code needle_make(needle *n, uint64_t seed, uint32_t i, err *e)
{
    dice d = { seed, (uint64_t)i << 16 };
    text_clear(&n->context);
    text_clear(&n->question);
    n->depth = i % NEEDLE_DEPTHS;
    n->length = i / NEEDLE_DEPTHS % NEEDLE_LENGTHS;
    fact f = make_fact(&d);
    snprintf(n->answer, sizeof n->answer, "%s", f.value);
    bool ok = write_context(n, &d, &f) && text_adds(&n->question, "Question: ")
              && put(&n->question, kinds[f.kind].asked[roll(&d, 2)], &f) && text_adds(&n->question, "\nAnswer:");
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a needle");
}

void needle_free(needle *n)
{
    text_free(&n->context);
    text_free(&n->question);
}
