/* Owns: truncation, temperature and the draw, and what to ask a stage for. Refuses to guess: a choice that the tokens
 * at hand do not settle is SAMPLE_NEED_ROW. */
#include "coordinator/sample.h"
#include "coordinator/rank.h"
#include "coordinator/slate.h"
#include "core/rng.h"
#include <float.h>

#define NOWHERE SIZE_MAX
/* lse is a float, so masses derived from it are off by some 1e-6 of the row; below a quarter left that error weighs too
 * much in what is left, and the row is summed instead. */
#define MASS_MIN 0.25
#define TOP_DEFAULT 64u
/* Far beyond any use; keeps quotients of logits inside float. */
#define TEMPERATURE_MAX 100.0
#define PENALTY_MIN 0.01
#define PENALTY_MAX 100.0

/* Survivors: the first m of the slate; open: and perhaps more that are not known. */
typedef struct { const slate *s; size_t m; bool open; } cut;
/* Weights exp((l - off) / T); their sum lies in [lo, hi]. */
typedef struct { double off, T, lo, hi; } norm;

static double weight(const norm *w, uint64_t key)
{
    double l = rank_logit(key);
    return l == w->off ? 1 : exp((l - w->off) / w->T);   /* inf - inf */
}

/* First survivor at which the running sum is above target; m when none is. */
static size_t reach(const cut *c, const norm *w, double target)
{
    double sum = 0;
    for (size_t i = 0; i < c->m; i++) {
        sum += weight(w, c->s->key[i]);
        if (sum > target) return i;
    }
    return c->m;
}

/* Where `share` of the mass is passed. NOWHERE: not settled by what is known. m: never (rounding), all survivors known. */
static size_t locate(const cut *c, const norm *w, double share)
{
    size_t i = reach(c, w, share * w->lo);
    if (w->lo < w->hi && i != reach(c, w, share * w->hi)) return NOWHERE;
    return i == c->m && c->open ? NOWHERE : i;
}

/* Own sum of the survivors, relative to the best. */
static norm norm_own(const cut *c, double T)
{
    norm w = { rank_logit(c->s->key[0]), T, 0, 0 };
    for (size_t i = 0; i < c->m; i++) w.hi += weight(&w, c->s->key[i]);
    w.lo = w.hi;
    return w;
}

/* Normaliser of the whole edited row at T = 1. False: not known from the candidates. */
static bool norm_row(const cut *c, float lse, norm *w)
{
    const slate *s = c->s;
    if (isfinite(lse) && s->mass_lo >= MASS_MIN && s->mass_hi <= DBL_MAX) {
        *w = (norm){ lse, 1, s->mass_lo, s->mass_hi };
        return true;
    }
    if (c->open) return false;
    *w = norm_own(c, 1);
    return true;
}

static void cut_at(cut *c, size_t m)
{
    if (m > c->m) return;
    c->m = m;
    c->open = false;
}

/* Keep the smallest prefix with at least top_p of the mass of what top-k left. */
static bool cut_top_p(cut *c, const sample_params *p, float lse)
{
    norm w;
    if (p->top_k ? c->open : !norm_row(c, lse, &w)) return false;
    if (p->top_k) w = norm_own(c, 1);
    size_t i = locate(c, &w, nextafter(p->top_p, -1));   /* "at least" as "above the number before" */
    if (i == NOWHERE) return false;
    if (i < c->m) cut_at(c, i + 1);
    return true;
}

static void cut_min_p(cut *c, double min_p)
{
    double least = rank_logit(c->s->key[0]) + log(min_p);
    for (size_t i = 1; i < c->m; i++)
        if (rank_logit(c->s->key[i]) < least) {
            cut_at(c, i);
            return;
        }
    if (c->s->border < least) c->open = false;
}

/* Place of the choice in the slate, which is not empty; NOWHERE when the row is needed. */
static size_t choose(const sample_params *p, float lse, const slate *s, double u)
{
    if (!s->sure) return NOWHERE;
    if (p->temperature == 0) return 0;
    cut c = { s, s->sure, !s->whole };
    norm w;
    bool top_p = p->top_p < 1, min_p = p->min_p > 0;
    if (p->top_k) cut_at(&c, p->top_k);
    if (top_p && !cut_top_p(&c, p, lse)) return NOWHERE;
    if (min_p) cut_min_p(&c, p->min_p);
    bool plain = p->temperature == 1 && !p->top_k && !top_p && !min_p;
    if (plain ? !norm_row(&c, lse, &w) : c.open) return NOWHERE;
    if (!plain) w = norm_own(&c, p->temperature);
    size_t i = locate(&c, &w, u);
    return i < c.m || i == NOWHERE ? i : 0;
}

static uint32_t raw_best(const sample_input *in)
{
    uint64_t best = UINT64_MAX;
    for (uint32_t i = 0; i < (in->row ? in->V : in->n); i++) {
        float l = in->row ? in->row[i] : in->cand[i].logit;
        uint64_t key = rank_key(rank_clean(l), in->row ? i : in->cand[i].id);
        if (key < best) best = key;
    }
    return best == UINT64_MAX ? 0 : rank_id(best);
}

static float raw_logit(const sample_input *in, uint32_t id)
{
    if (in->row) return id < in->V ? in->row[id] : -INFINITY;
    for (uint32_t i = 0; i < in->n; i++)
        if (in->cand[i].id == id) return in->cand[i].logit;
    return -INFINITY;
}

sample_status sample_pick(const sample_params *p, const sample_input *in, const uint32_t *history, size_t n_history,
                          uint32_t row, sample_scratch *s, sample_choice *out)
{
    slate t;
    if (!slate_build(&t, p, in, history, n_history, s)) return SAMPLE_NOMEM;
    if (t.whole && !t.n) {
        out->id = raw_best(in);
    } else {
        size_t i = choose(p, in->lse, &t, rng_unit(p->seed, row));
        if (i == NOWHERE) return SAMPLE_NEED_ROW;
        out->id = rank_id(t.key[i]);
    }
    out->logprob = rank_clean(raw_logit(in, out->id) - in->lse);
    return SAMPLE_OK;
}

static err_code check_range(const char *name, double x, double lo, double hi, err *e)
{
    if (x >= lo && x <= hi) return ERR_OK;
    return err_set(e, ERR_INPUT, "%s is %g, must lie in [%g, %g]", name, x, lo, hi);
}

static err_code check_bias(const sample_bias *b, uint32_t V, err *e)
{
    if (b->id >= V) return err_set(e, ERR_INPUT, "logit bias for token %u, the vocabulary has %u", b->id, V);
    if (b->bias <= FLT_MAX) return ERR_OK;
    return err_set(e, ERR_INPUT, "logit bias of token %u is %g, must be finite or -inf", b->id, (double)b->bias);
}

err_code sample_check(const sample_params *p, uint32_t V, err *e)
{
    err_code rc = check_range("temperature", p->temperature, 0, TEMPERATURE_MAX, e);
    if (!rc) rc = check_range("top_p", p->top_p, 0, 1, e);
    if (!rc) rc = check_range("min_p", p->min_p, 0, 1, e);
    if (!rc) rc = check_range("repeat_penalty", p->repeat_penalty, PENALTY_MIN, PENALTY_MAX, e);
    for (uint32_t i = 0; !rc && i < p->n_bias; i++) rc = check_bias(&p->bias[i], V, e);
    return rc;
}

bool sample_wants_row(const sample_params *p)
{
    for (uint32_t i = 0; i < p->n_bias; i++)
        if (p->bias[i].bias > 0) return true;
    if (p->repeat_penalty < 1 && p->repeat_last) return true;
    if (p->temperature == 0) return false;
    if (p->top_k) return p->top_k > SAMPLE_MAX_TOP && (p->top_p < 1 || !(p->min_p > 0));   /* min-p alone may cut short */
    return p->temperature != 1 && !(p->top_p < 1) && !(p->min_p > 0);
}

uint32_t sample_wants_top(const sample_params *p)
{
    uint64_t base = p->temperature == 0 ? 1 : p->top_k ? p->top_k : TOP_DEFAULT;
    uint64_t n = base + p->n_bias + (p->repeat_penalty == 1 ? 0 : p->repeat_last);   /* an edit may sink a candidate */
    return n < TOP_DEFAULT ? TOP_DEFAULT : n > SAMPLE_MAX_TOP ? SAMPLE_MAX_TOP : (uint32_t)n;
}
