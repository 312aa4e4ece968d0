#include "kvstore/policy.h"
#include <ini.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names --------------------------------------------------------------------------------------------------------- */

#define X(N, name) name,
static const char *const pack_names[] = { KV_PACK_MAP(X) NULL };
static const char *const score_names[] = { KV_SCORE_MAP(X) NULL };
static const char *const budget_names[] = { KV_BUDGET_MAP(X) NULL };
static const char *const select_names[] = { KV_SELECT_MAP(X) NULL };
static const char *const merge_names[] = { KV_MERGE_MAP(X) NULL };
static const char *const prune_names[] = { KV_PRUNE_MAP(X) NULL };
static const char *const retrieve_names[] = { KV_RETRIEVE_MAP(X) NULL };
static const char *const roles_names[] = { KV_ROLES_MAP(X) NULL };
#undef X

/* What a key is. The text of a number goes through %.9g, which brings every float back. */
typedef enum { NAME, PACK_K, PACK_V, LEVELS, UINT, REAL, WORD, SEED } key_type;
typedef struct {
    const char *section, *name;
    key_type type;
    size_t at;
    double min, max;
    const char *const *words;
} key;

#define AT(f) offsetof(kv_policy, f)
static const key keys[] = {
    { "policy", "name", NAME, AT(name), 0, 0, NULL },
    { "format", "k", PACK_K, AT(k), 0, 0, NULL },
    { "format", "v", PACK_V, AT(v), 0, 0, NULL },
    { "format", "k2", PACK_K, AT(k2), 0, 0, NULL },
    { "format", "v2", PACK_V, AT(v2), 0, 0, NULL },
    { "format", "levels", LEVELS, AT(levels), 0, 0, NULL },
    { "format", "residual", UINT, AT(residual), 0, 1 << 20, NULL },
    { "keep", "score", WORD, AT(score), 0, 0, score_names },
    { "keep", "budget", WORD, AT(budget), 0, 0, budget_names },
    { "keep", "select", WORD, AT(select), 0, 0, select_names },
    { "keep", "roles", WORD, AT(roles), 0, 0, roles_names },
    { "keep", "sinks", UINT, AT(sinks), 0, 1 << 20, NULL },
    { "keep", "window", UINT, AT(window), 0, 1 << 24, NULL },
    { "keep", "rows", UINT, AT(rows), 0, 1 << 24, NULL },
    { "keep", "share", REAL, AT(share), 0, 1, NULL },
    { "keep", "queries", UINT, AT(window_queries), 1, 512, NULL },
    { "keep", "pool", UINT, AT(pool), 1, 255, NULL },
    { "keep", "tau", REAL, AT(tau), 0, 1, NULL },
    { "keep", "alpha", REAL, AT(alpha), 0, 1, NULL },
    { "keep", "seed", SEED, AT(seed), 0, 0, NULL },
    { "change", "merge", WORD, AT(merge), 0, 0, merge_names },
    { "change", "prune", WORD, AT(prune), 0, 0, prune_names },
    { "change", "prune_share", REAL, AT(prune_share), 0, 0.9, NULL },
    { "change", "retrieve", WORD, AT(retrieve), 0, 0, retrieve_names },
    { "change", "retrieve_rows", UINT, AT(retrieve_rows), 1, KV_RETRIEVE_MOST, NULL },
    { "change", "retrieve_every", UINT, AT(retrieve_every), 0, 512, NULL },
};
enum { KEYS = sizeof keys / sizeof *keys };
_Static_assert(sizeof(kv_score_kind) == sizeof(uint32_t), "words are set as 32 bits");

kv_policy kv_policy_identity(void)
{
    return (kv_policy){ .name = "identity", .share = 1, .window_queries = 32, .pool = 1, .tau = 0.96f, .alpha = 0.2f,
                        .prune_share = 0.4f, .retrieve_rows = 256, .retrieve_every = 0 };
}

static bool bits_fit(unsigned bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

err_code kv_pack_parse(const char *name, bool key_side, kv_pack *out, err *e)
{
    char base[32];
    size_t n = strlen(name);
    kv_pack p = { .small = n > 2 && !strcmp(name + n - 2, "+s") };
    if (p.small) n -= 2;
    p.hadamard = n > 2 && !strncmp(name + n - 2, "+h", 2);
    if (p.hadamard) n -= 2;
    snprintf(base, sizeof base, "%.*s", (int)(n < 31 ? n : 31), name);
    size_t digit = strcspn(base, "0123456789");
    bool sized = strcmp(base, "q8_0") && strcmp(base, "q4_0") && base[digit] && !base[digit + 1];
    if (sized) p.bits = (uint8_t)(base[digit] - '0'), base[digit] = 0;
    if (!strcmp(base, "kivi")) snprintf(base, sizeof base, "%s", key_side ? "channel" : "token");
    if (!strcmp(base, "kvquant")) snprintf(base, sizeof base, "nuq");
    for (; p.kind < KV_PACK_COUNT && strcmp(base, pack_names[p.kind]); p.kind++);
    bool wants_bits = p.kind == KV_PACK_TOKEN || p.kind == KV_PACK_CHANNEL || p.kind == KV_PACK_NUQ;
    bool ok = p.kind < KV_PACK_COUNT && sized == wants_bits && (!sized || bits_fit(p.bits));
    if (!ok || (p.kind == KV_PACK_NUQ && p.bits == 8))
        return err_set(e, ERR_CONFIG, "KV format \"%.40s\": must be raw, q8_0, q4_0, token2|3|4|8 (+h for Hadamard), "
                       "channel2|3|4|8, nuq2|3|4, kivi2|3|4|8 (+s for small scales) or kvquant2|3|4", name);
    if (p.hadamard && p.kind != KV_PACK_Q8 && p.kind != KV_PACK_Q4 && p.kind != KV_PACK_TOKEN)
        return err_set(e, ERR_CONFIG, "KV format \"%.40s\": a Hadamard rotation mixes channels, and %s keeps them apart", name,
                       p.kind == KV_PACK_RAW ? "raw" : base);
    if (p.small && p.kind != KV_PACK_TOKEN && p.kind != KV_PACK_CHANNEL)
        return err_set(e, ERR_CONFIG, "KV format \"%.40s\": small scales are for token and channel", name);
    if (p.kind == KV_PACK_CHANNEL && !key_side)
        return err_set(e, ERR_CONFIG, "KV format \"%.40s\" for values: channels of values have no outliers; token%u is meant",
                       name, p.bits);
    *out = p;
    return ERR_OK;
}

void kv_pack_name(kv_pack p, char out[16])
{
    if (p.bits) snprintf(out, 16, "%s%u%s%s", pack_names[p.kind], p.bits, p.hadamard ? "+h" : "", p.small ? "+s" : "");
    else snprintf(out, 16, "%s%s", pack_names[p.kind], p.hadamard ? "+h" : "");
}

/* ---- one key ------------------------------------------------------------------------------------------------------- */

typedef struct { kv_policy *p; const char *origin; err *e; err_code rc; bool seen[KEYS]; } reading;

static err_code bad(reading *r, const key *k, const char *value, const char *want)
{
    return r->rc = err_set(r->e, ERR_CONFIG, "%s: %s.%s = \"%.60s\": %s", r->origin, k->section, k->name, value, want);
}

static err_code take_word(reading *r, const key *k, const char *value, uint32_t *to)
{
    char all[256] = "must be";
    for (uint32_t i = 0; k->words[i]; i++) {
        if (!strcmp(value, k->words[i])) return *to = i, ERR_OK;
        size_t n = strlen(all);
        snprintf(all + n, sizeof all - n, "%s %s", i ? "," : "", k->words[i]);
    }
    return bad(r, k, value, all);
}

static err_code take_number(reading *r, const key *k, const char *value, double *to)
{
    char *end, want[80];
    double v = strtod(value, &end);
    snprintf(want, sizeof want, "must be %s from %g to %g", k->type == UINT ? "a whole number" : "a number", k->min, k->max);
    if (end == value || *end || !(v >= k->min && v <= k->max) || (k->type == UINT && v != floor(v)))
        return bad(r, k, value, want);
    *to = v;
    return ERR_OK;
}

static err_code take_levels(reading *r, const key *k, const char *value, uint8_t *to)
{
    const char *at = value;
    for (uint32_t i = 0; i < KV_LEVELS; i++) {
        char *end;
        unsigned long bits = strtoul(at, &end, 10);
        if (end == at || bits > 8 || !bits_fit((unsigned)bits) || (i && bits >= to[i - 1])) break;
        to[i] = (uint8_t)bits;
        if (!*end) return ERR_OK;
        at = end + (*end == ',');
    }
    return bad(r, k, value, "must be falling bits, such as 8,4,2");
}

static err_code take_seed(reading *r, const key *k, const char *value, uint64_t *to)
{
    char *end;
    *to = strtoull(value, &end, 10);
    return end != value && !*end && *value != '-' ? ERR_OK : bad(r, k, value, "must be a whole number");
}

static err_code take_name(reading *r, const key *k, const char *value)
{
    size_t n = strlen(value);
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-";
    if (!n || n >= sizeof r->p->name || strspn(value, letters) != n)
        return bad(r, k, value, "must be 1 to 63 letters, digits or _+.-");
    memcpy(r->p->name, value, n + 1);
    return ERR_OK;
}

static err_code take(reading *r, const key *k, const char *value)
{
    unsigned char *at = (unsigned char *)r->p + k->at;
    double v;
    switch (k->type) {
    case NAME: return take_name(r, k, value);
    case PACK_K: case PACK_V:
        r->rc = kv_pack_parse(value, k->type == PACK_K, (kv_pack *)(void *)at, r->e);
        return r->rc ? err_wrap(r->e, "%s: %s.%s", r->origin, k->section, k->name) : ERR_OK;
    case LEVELS: return take_levels(r, k, value, at);
    case WORD: return take_word(r, k, value, (uint32_t *)(void *)at);
    case SEED: return take_seed(r, k, value, (uint64_t *)(void *)at);
    case UINT:
        if (take_number(r, k, value, &v)) return r->rc;
        *(uint32_t *)(void *)at = (uint32_t)v;
        return ERR_OK;
    default:
        if (take_number(r, k, value, &v)) return r->rc;
        *(float *)(void *)at = (float)v;
        return ERR_OK;
    }
}

static int on_key(void *user, const char *section, const char *name, const char *value)
{
    reading *r = user;
    if (r->rc) return 1;
    for (uint32_t i = 0; i < KEYS; i++) {
        if (strcmp(section, keys[i].section) || strcmp(name, keys[i].name)) continue;
        if (r->seen[i]) return r->rc = err_set(r->e, ERR_CONFIG, "%s: %s.%s is given twice", r->origin, section, name), 1;
        r->seen[i] = true;
        take(r, &keys[i], value);
        return 1;
    }
    r->rc = err_set(r->e, ERR_CONFIG, "%s: unknown key \"%.60s.%.60s\"", r->origin, section, name);
    return 1;
}

/* ---- what goes together -------------------------------------------------------------------------------------------- */

static uint32_t sees(const kv_policy *p)
{
    static const uint32_t by_score[KV_SCORE_COUNT] = {
        [KV_SCORE_H2O] = KV_SEE_SUMS, [KV_SCORE_TOVA] = KV_SEE_LAST, [KV_SCORE_SNAPKV] = KV_SEE_QUERIES,
        [KV_SCORE_EXPECTED] = KV_SEE_QUERIES, [KV_SCORE_SEMANTIC] = KV_SEE_QUERIES,
        [KV_SCORE_CRITIC] = KV_SEE_SUMS | KV_SEE_ENTROPY | KV_SEE_QUERIES,
    };
    return by_score[p->score] | (p->prune == KV_PRUNE_THINK ? KV_SEE_QUERIES : 0);
}

static void derive(kv_policy *p)
{
    p->evicts = p->rows || p->share < 1 || p->budget == KV_BUDGET_MASS || p->budget == KV_BUDGET_PRESSURE
                || p->roles != KV_ROLES_NONE;
    p->see = sees(p);
    p->asks = p->see != 0;
    p->lossy = p->evicts || p->k.kind || p->v.kind || p->prune || p->retrieve;
}

/* Reasons, first true one wins. */
static const char *conflict(const kv_policy *p)
{
    bool rotated = p->k.hadamard || p->k2.hadamard, nuq = p->k.kind == KV_PACK_NUQ || p->k2.kind == KV_PACK_NUQ;
    const struct { bool is; const char *why; } rules[] = {
        { p->rows && p->share < 1, "keep.rows and keep.share both say how many rows stay: give one of them" },
        { p->rows && p->rows < p->sinks + p->window + 1,
          "keep.rows must be above keep.sinks + keep.window, which are always kept" },
        { p->evicts && p->score == KV_SCORE_NONE, "rows are to be evicted, and keep.score does not say which" },
        { !p->evicts && p->score != KV_SCORE_NONE, "keep.score is of no use: keep.rows or keep.share says how many rows stay" },
        { p->merge != KV_MERGE_NONE && !p->evicts, "change.merge has nothing to merge: no row is evicted" },
        { p->budget == KV_BUDGET_ADAKV && (p->score == KV_SCORE_POSITION || p->score == KV_SCORE_RANDOM),
          "keep.budget = adakv compares scores of heads, and those of position and random mean the same in every head" },
        { p->budget == KV_BUDGET_MASS && p->score != KV_SCORE_SNAPKV && p->score != KV_SCORE_H2O,
          "keep.budget = mass adds up attention: keep.score must be snapkv or h2o" },
        { p->budget == KV_BUDGET_MASS && (p->rows || p->share < 1),
          "keep.budget = mass finds the number of rows itself: no keep.rows or keep.share" },
        { p->prune == KV_PRUNE_THINK && rotated,
          "change.prune = think drops weak channels, and a Hadamard rotation makes all alike" },
        { p->prune == KV_PRUNE_THINK && nuq, "change.prune = think drops channels after RoPE, and nuq keeps keys before it" },
        { p->prune == KV_PRUNE_THINK && p->k2.kind,
          "change.prune = think with two tiers of keys is not supported: their channels differ" },
        { p->levels[0] && (p->k.kind != KV_PACK_CHANNEL || p->v.kind != KV_PACK_TOKEN),
          "format.levels is a staircase of channel keys and token values: format.k and format.v must be kivi" },
        { p->levels[0] && (p->k.bits != p->levels[0] || p->v.bits != p->levels[0] || p->v.hadamard),
          "format.levels begins with the bits of format.k and format.v" },
        { p->levels[0] && (p->k2.kind || p->v2.kind),
          "format.levels and format.k2: a row's bits go by age or by tier, not by both" },
        { (p->k2.kind || p->v2.kind) && p->budget != KV_BUDGET_MASS,
          "format.k2 is for the rows that keep.budget = mass leaves out, and the budget is another one" },
        { p->residual % 32, "format.residual must be a multiple of 32, the rows of a pane" },
        { p->retrieve != KV_RETRIEVE_NONE && p->evicts,
          "change.retrieve shares one choice of rows among heads, and eviction leaves each head others" },
        { p->retrieve != KV_RETRIEVE_NONE && p->retrieve_rows < p->sinks + p->window + 1,
          "change.retrieve_rows must be above keep.sinks + keep.window, which are always read" },
        { p->pool % 2 == 0, "keep.pool must be odd" },
        { p->roles != KV_ROLES_NONE && p->score == KV_SCORE_NONE, "keep.roles: heads that are local need keep.score = position" },
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].is) return rules[i].why;
    return NULL;
}

err_code kv_policy_parse(kv_policy *out, const char *text, size_t len, const char *origin, err *e)
{
    kv_policy p = kv_policy_identity();
    reading r = { .p = &p, .origin = origin, .e = e };
    if (memchr(text, 0, len)) return err_set(e, ERR_CONFIG, "%s: a NUL byte in a KV policy", origin);
    char *copy = strndup(text, len);
    if (!copy) return err_set(e, ERR_NOMEM, "out of memory for a KV policy");
    int line = ini_parse_string(copy, on_key, &r);
    free(copy);
    if (line > 0) return err_set(e, ERR_CONFIG, "%s:%d: neither a [section] nor a key = value", origin, line);
    if (line < 0) return err_set(e, ERR_NOMEM, "out of memory for a KV policy");
    if (r.rc) return r.rc;
    derive(&p);
    const char *why = conflict(&p);
    if (why) return err_set(e, ERR_CONFIG, "%s: %s", origin, why);
    *out = p;
    return ERR_OK;
}

/* ---- back to text -------------------------------------------------------------------------------------------------- */

static void value_text(const kv_policy *p, const key *k, char out[80])
{
    const unsigned char *at = (const unsigned char *)p + k->at;
    switch (k->type) {
    case NAME: snprintf(out, 80, "%s", p->name); break;
    case PACK_K: case PACK_V: kv_pack_name(*(const kv_pack *)(const void *)at, out); break;
    case WORD: snprintf(out, 80, "%s", k->words[*(const uint32_t *)(const void *)at]); break;
    case SEED: snprintf(out, 80, "%llu", (unsigned long long)p->seed); break;
    case UINT: snprintf(out, 80, "%u", *(const uint32_t *)(const void *)at); break;
    case REAL: snprintf(out, 80, "%.9g", (double)*(const float *)(const void *)at); break;
    case LEVELS:
        *out = 0;
        for (int i = 0, n = 0; i < KV_LEVELS && at[i]; i++) n += snprintf(out + n, (size_t)(80 - n), "%s%u", i ? "," : "", at[i]);
    }
}

void kv_policy_print(const kv_policy *p, char out[KV_POLICY_TEXT])
{
    const kv_policy none = kv_policy_identity();
    const char *section = "";
    size_t n = 0;
    *out = 0;
    for (uint32_t i = 0; i < KEYS; i++) {
        char is[80], usual[80];
        value_text(p, &keys[i], is);
        value_text(&none, &keys[i], usual);
        if (!strcmp(is, usual)) continue;
        if (strcmp(section, keys[i].section))
            n += (size_t)snprintf(out + n, KV_POLICY_TEXT - n, "[%s]\n", section = keys[i].section);
        n += (size_t)snprintf(out + n, KV_POLICY_TEXT - n, "%s=%s\n", keys[i].name, is);
    }
}
