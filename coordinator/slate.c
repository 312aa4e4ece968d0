/* Owns: logit bias, repetition penalty and the order of the edited tokens. Refuses to draw or to truncate. */
#include "coordinator/slate.h"
#include "coordinator/rank.h"
#include <stdlib.h>

/* Lower half of an edit key that comes from the history; a bias has its index there. */
#define PENALTY UINT32_MAX
/* libm's exp is good to an ulp but not proven monotone; the bounds give way by far more than that. */
#define SLACK 1e-12

typedef struct { uint32_t id; float bias; bool penalised; } edit;
typedef struct {
    uint64_t *key, *edits, *spare;
    size_t n, n_edits;
    uint64_t last;               /* the worst rank key that was sent: the border */
    bool lost;                   /* a token that was not sent is raised */
} draft;

void sample_scratch_free(sample_scratch *s)
{
    free(s->mem);
    *s = (sample_scratch){ 0 };
}

static bool scratch_fit(sample_scratch *s, size_t n)
{
    if (n <= s->cap) return true;
    if (n > SIZE_MAX / (3 * sizeof *s->mem)) return false;
    sample_scratch_free(s);
    s->mem = malloc(3 * n * sizeof *s->mem);
    if (s->mem) s->cap = n;
    return s->mem != NULL;
}

static uint64_t pack(uint32_t high, float low)
{
    uint32_t b;
    memcpy(&b, &low, 4);
    return (uint64_t)high << 32 | b;
}

static float unpack(uint64_t key)
{
    uint32_t b = (uint32_t)key;
    float x;
    memcpy(&x, &b, 4);
    return x;
}

/* Tokens by ascending id: id above, logit below. */
static void load_tokens(draft *d, const sample_input *in)
{
    d->last = 0;
    if (in->row) {
        for (uint32_t i = 0; i < in->V; i++) d->key[i] = pack(i, rank_clean(in->row[i]));
        return;
    }
    for (uint32_t i = 0; i < in->n; i++) {
        float l = rank_clean(in->cand[i].logit);
        uint64_t place = rank_key(l, in->cand[i].id);
        if (place > d->last) d->last = place;
        d->key[i] = pack(in->cand[i].id, l);
    }
    rank_sort(d->key, d->spare, d->n);
}

/* Edits by ascending id, the biases of an id in list order, then its penalties. */
static void load_edits(draft *d, const sample_params *p, const uint32_t *window)
{
    for (size_t i = 0; i < d->n_edits; i++)
        d->edits[i] = i < p->n_bias ? (uint64_t)p->bias[i].id << 32 | i : (uint64_t)window[i - p->n_bias] << 32 | PENALTY;
    rank_sort(d->edits, d->spare, d->n_edits);
}

static edit edit_next(const draft *d, size_t *at, const sample_bias *bias)
{
    edit x = { (uint32_t)(d->edits[*at] >> 32), 0, false };
    for (; *at < d->n_edits && d->edits[*at] >> 32 == x.id; ++*at) {
        uint32_t low = (uint32_t)d->edits[*at];
        if (low == PENALTY) x.penalised = true;
        else x.bias += bias[low].bias;
    }
    return x;
}

static float edit_apply(const edit *x, float l, float r)
{
    l = rank_clean(l + x->bias);
    if (x->penalised) l = rank_clean(l > 0 ? l / r : l * r);
    return l;
}

/* Change the logits, and follow what that does to the mass, in ascending id order: the same sums whether the tokens came
 * as candidates or as a row. Sums of bounds bound the sum, rounding included, because rounding is monotone. */
static void apply_edits(draft *d, slate *s, const sample_params *p, double lse)
{
    double outside = s->whole ? 0 : exp((double)s->border - lse);
    float r = (float)p->repeat_penalty;
    for (size_t at = 0, j = 0; at < d->n_edits;) {
        edit x = edit_next(d, &at, p->bias);
        while (j < d->n && d->key[j] >> 32 < x.id) j++;
        if (j < d->n && d->key[j] >> 32 == x.id) {
            float l = unpack(d->key[j]), to = edit_apply(&x, l, r);
            double gain = exp((double)to - lse) - exp((double)l - lse);
            d->key[j] = pack(x.id, to);
            s->mass_lo += gain;
            s->mass_hi += gain;
        } else if (!s->whole) {
            d->lost |= !(x.bias <= 0) || (x.penalised && !(r >= 1));
            s->mass_lo -= outside * (1 + SLACK);
            s->mass_hi += outside * SLACK;
        }
    }
}

/* From id order to rank order; forbidden tokens, which are last there, fall off. */
static void order_tokens(draft *d, slate *s)
{
    for (size_t i = 0; i < d->n; i++) d->key[i] = rank_key(unpack(d->key[i]), (uint32_t)(d->key[i] >> 32));
    rank_sort(d->key, d->spare, d->n);
    s->key = d->key;
    s->n = d->n;
    while (s->n && rank_logit(d->key[s->n - 1]) == -INFINITY) s->n--;
    s->sure = s->n;
    if (s->whole) return;
    while (s->sure && (d->lost || d->key[s->sure - 1] > d->last)) s->sure--;
}

bool slate_build(slate *out, const sample_params *p, const sample_input *in, const uint32_t *history, size_t n_history,
                 sample_scratch *s)
{
    size_t window = p->repeat_penalty == 1 ? 0 : n_history < p->repeat_last ? n_history : p->repeat_last;
    draft d = { .n = in->row ? in->V : in->n, .n_edits = p->n_bias + window };
    if (!scratch_fit(s, d.n > d.n_edits ? d.n : d.n_edits)) return false;
    if (s->mem) {
        d.key = s->mem;
        d.edits = s->mem + s->cap;
        d.spare = s->mem + 2 * s->cap;
    }
    load_tokens(&d, in);
    if (window) history += n_history - window;
    load_edits(&d, p, history);
    *out = (slate){ .border = in->row ? -INFINITY : in->n ? rank_logit(d.last) : INFINITY, .mass_lo = 1, .mass_hi = 1 };
    out->whole = in->row || (in->n && (in->n >= in->V || out->border == -INFINITY));
    apply_edits(&d, out, p, in->lse);
    order_tokens(&d, out);
    return true;
}
