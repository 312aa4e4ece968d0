/* Streamed sums and Cholesky. All matrices are row-major; a symmetric one has its upper triangle. LAPACK sees them transposed:
 * an upper triangle by rows is a lower one by columns, and [out][P] by rows is P x out by columns.
 * All of it on one thread: Debian's serial OpenBLAS shares its buffers between threads without a lock. */
#include "engine/kvfit.h"
#include <cblas.h>
#include <lapacke.h>
#include <stdlib.h>
#include <string.h>

enum { FIT, HELD, PARTS };
enum { BATCH = 256 }; /* rows that go into one product: enough for it to be efficient, little beside the sums */

/* From "nothing but rounding" to "hardly follows the inputs"; held-out error is flat between neighbours. */
static const double lambdas[] = { 1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1 };

typedef struct {           /* inputs that layers share */
    uint32_t source;
    int side;              /* of own inputs; else KVMAP_K */
    uint32_t layer, P;     /* a layer that has it; inputs and the constant */
    double *xx[PARTS];     /* [P][P] upper: sum of x x' */
} gram;

typedef struct {
    gram *g;
    double *yx[PARTS];     /* [out][P]: sum of y x' */
    double yy[PARTS];      /* sum of y'y */
} target;

struct kvfit {
    kvmap_shape s;
    uint32_t l0, l1, n_grams, most;  /* most: the largest P */
    gram *gram;            /* [<= 2 (l1 - l0)] */
    target *target;        /* [l1 - l0][KVMAP_SIDES] */
    double *x, *y;         /* [BATCH][P], [BATCH][out] */
    float *row;            /* [P] */
};

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static bool same_inputs(const kvmap_shape *s, const gram *g, uint32_t layer, int side)
{
    return g->source == s->source[layer] && (s->inputs != KVMAP_OWN || g->side == side);
}

uint64_t kvfit_bytes(const kvmap_shape *s, uint32_t l0, uint32_t l1)
{
    uint64_t sums = 0, most = 0;
    for (uint32_t l = l0; l < l1; l++) {
        uint64_t P = kvmap_width(s, l) + 1;
        bool first = l == l0 || s->source[l] != s->source[l - 1]; /* sources ascend */
        sums += PARTS * (KVMAP_SIDES * s->out * P + (first ? (s->inputs == KVMAP_OWN ? KVMAP_SIDES : 1) * P * P : 0));
        most = P > most ? P : most;
    }
    uint64_t solving = 2 * most * most + 3 * most * s->out;
    return (sums + solving + BATCH * (most + s->out)) * sizeof(double);
}

uint32_t kvfit_fits(const kvmap_shape *s, uint32_t l0, uint64_t bytes)
{
    uint32_t l1 = l0 + 1;
    while (l1 < s->L && kvfit_bytes(s, l0, l1 + 1) <= bytes) l1++;
    return l1;
}

static bool zeros(double **p, size_t n) { return (*p = calloc(n, sizeof **p)) != NULL; }

static gram *gram_of(kvfit *f, uint32_t layer, int side)
{
    for (uint32_t i = 0; i < f->n_grams; i++)
        if (same_inputs(&f->s, &f->gram[i], layer, side)) return &f->gram[i];
    gram *g = &f->gram[f->n_grams++];
    *g = (gram){ .source = f->s.source[layer], .side = side, .layer = layer, .P = kvmap_width(&f->s, layer) + 1 };
    if (g->P > f->most) f->most = g->P;
    for (int i = 0; i < PARTS; i++)
        if (!zeros(&g->xx[i], (size_t)g->P * g->P)) return NULL;
    return g;
}

static bool fill(kvfit *f)
{
    for (uint32_t l = f->l0; l < f->l1; l++)
        for (int side = 0; side < KVMAP_SIDES; side++) {
            target *t = &f->target[(l - f->l0) * KVMAP_SIDES + side];
            if (!(t->g = gram_of(f, l, side))) return false;
            for (int i = 0; i < PARTS; i++)
                if (!zeros(&t->yx[i], (size_t)f->s.out * t->g->P)) return false;
        }
    f->row = malloc(f->most * sizeof *f->row);
    return zeros(&f->x, (size_t)BATCH * f->most) && zeros(&f->y, (size_t)BATCH * f->s.out) && f->row;
}

err_code kvfit_open(kvfit **out, const kvmap_shape *s, uint32_t l0, uint32_t l1, err *e)
{
    kvfit *f = *out = calloc(1, sizeof *f);
    if (!f) return err_set(e, ERR_NOMEM, "out of memory for fitting");
    *f = (kvfit){ .s = *s, .l0 = l0, .l1 = l1 };
    size_t n = (size_t)(l1 - l0) * KVMAP_SIDES;
    f->gram = calloc(n, sizeof *f->gram);
    f->target = calloc(n, sizeof *f->target);
    if (f->gram && f->target && fill(f)) return ERR_OK;
    kvfit_close(out);
    return err_set(e, ERR_NOMEM, "out of memory for fitting layers %u to %u: %llu MB", l0, l1 - 1,
                   (unsigned long long)(kvfit_bytes(s, l0, l1) >> 20));
}

void kvfit_close(kvfit **fp)
{
    kvfit *f = *fp;
    if (!f) return;
    size_t n = (size_t)(f->l1 - f->l0) * KVMAP_SIDES;
    for (size_t i = 0; f->gram && i < n; i++) free(f->gram[i].xx[FIT]), free(f->gram[i].xx[HELD]);
    for (size_t i = 0; f->target && i < n; i++) free(f->target[i].yx[FIT]), free(f->target[i].yx[HELD]);
    free(f->gram);
    free(f->target);
    free(f->x);
    free(f->y);
    free(f->row);
    free(f);
    *fp = NULL;
}

/* ---- sums ---------------------------------------------------------------------------------------------------------- */

typedef struct { const runner_tap *aux, *base; uint32_t max_rows, from, n; int part; } batch; /* rows [from, from + n) */

static void load_inputs(const kvfit *f, const gram *g, const batch *b)
{
    for (uint32_t t = 0; t < b->n; t++) {
        double *x = f->x + (size_t)t * g->P;
        kvmap_gather(&f->s, g->layer, g->side, b->aux, b->max_rows, b->from + t, f->row);
        for (uint32_t i = 0; i + 1 < g->P; i++) x[i] = (double)f->row[i];
        x[g->P - 1] = 1;
    }
}

static double load_target(const kvfit *f, uint32_t layer, int side, const batch *b)
{
    const float *from = (side == KVMAP_K ? b->base->k : b->base->v) + ((size_t)layer * b->max_rows + b->from) * f->s.out;
    double yy = 0;
    for (size_t i = 0; i < (size_t)b->n * f->s.out; i++) {
        f->y[i] = (double)from[i];
        yy += f->y[i] * f->y[i];
    }
    return yy;
}

static void add_target(kvfit *f, target *t, uint32_t index, const batch *b)
{
    int P = (int)t->g->P, out = (int)f->s.out;
    t->yy[b->part] += load_target(f, f->l0 + index / KVMAP_SIDES, (int)(index % KVMAP_SIDES), b);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, out, P, (int)b->n, 1, f->y, out, f->x, P, 1, t->yx[b->part], P);
}

static void add_gram(kvfit *f, gram *g, const batch *b)
{
    load_inputs(f, g, b);
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)g->P, (int)b->n, 1, f->x, (int)g->P, 1, g->xx[b->part], (int)g->P);
    for (uint32_t k = 0; k < (f->l1 - f->l0) * KVMAP_SIDES; k++)
        if (f->target[k].g == g) add_target(f, &f->target[k], k, b);
}

void kvfit_add(kvfit *f, const runner_tap *aux, const runner_tap *base, uint32_t max_rows, uint32_t from, uint32_t T, bool held)
{
    batch b = { aux, base, max_rows, from, 0, held ? HELD : FIT };
    for (; b.from < T; b.from += b.n) {
        b.n = T - b.from < BATCH ? T - b.from : BATCH;
        for (uint32_t i = 0; i < f->n_grams; i++) add_gram(f, &f->gram[i], &b);
    }
}

/* ---- the solution -------------------------------------------------------------------------------------------------- */

typedef struct { double *a, *w, *t, *sum; } desk;   /* [P][P], [out][P], [out][P], [P][P] */

static bool desk_open(desk *d, size_t P, size_t out)
{
    bool ok = zeros(&d->a, P * P), more = zeros(&d->w, out * P);
    ok = zeros(&d->t, out * P) && ok && more;
    return zeros(&d->sum, P * P) && ok;
}

static void desk_close(desk *d)
{
    free(d->a);
    free(d->w);
    free(d->t);
    free(d->sum);
}

static double mean_variance(const double *xx, uint32_t P)
{
    double n = xx[(size_t)P * P - 1], sum = 0;
    for (uint32_t i = 0; i + 1 < P; i++) {
        double mean = xx[(size_t)i * P + P - 1] / n;
        sum += xx[(size_t)i * P + i] / n - mean * mean;
    }
    return P > 1 ? sum * n / (P - 1) : 0;
}

/* d->w of (xx + lambda I) w = yx; false: not positive definite. */
static bool ridge(const desk *d, const double *xx, const double *yx, uint32_t P, uint32_t out, double lambda)
{
    double add = lambda * mean_variance(xx, P);
    memcpy(d->a, xx, (size_t)P * P * sizeof *xx);
    memcpy(d->w, yx, (size_t)out * P * sizeof *yx);
    for (uint32_t i = 0; i + 1 < P; i++) d->a[(size_t)i * P + i] += add;
    return !LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'L', (int)P, d->a, (int)P)
           && !LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'L', (int)P, (int)out, d->a, (int)P, d->w, (int)P);
}

static double held_error(const desk *d, const target *t, uint32_t out)
{
    uint32_t P = t->g->P;
    const double *xx = t->g->xx[HELD], *yx = t->yx[HELD];
    double miss = t->yy[HELD], var = t->yy[HELD], n = xx[(size_t)P * P - 1];
    cblas_dsymm(CblasRowMajor, CblasRight, CblasUpper, (int)out, (int)P, 1, xx, (int)P, d->w, (int)P, 0, d->t, (int)P);
    for (size_t i = 0; i < (size_t)out * P; i++) miss += d->w[i] * (d->t[i] - 2 * yx[i]);
    for (uint32_t o = 0; o < out; o++) var -= yx[(size_t)o * P + P - 1] * yx[(size_t)o * P + P - 1] / n;
    return var > 0 && miss > 0 ? miss / var : 0;
}

/* The lambda whose fit errs least on held-out rows; false: none solves. */
static bool choose(const desk *d, const target *t, uint32_t out, kvfit_note *note)
{
    bool found = false;
    for (size_t i = 0; i < sizeof lambdas / sizeof *lambdas; i++) {
        if (!ridge(d, t->g->xx[FIT], t->yx[FIT], t->g->P, out, lambdas[i])) continue;
        double is = held_error(d, t, out);
        if (found && is >= note->error) continue;
        note->error = is;
        note->lambda = lambdas[i];
        found = true;
    }
    return found;
}

/* Over all rows, by the lambda that was chosen or, where rounding leaves these sums just singular, the next that solves. */
static bool solve_all(const desk *d, const target *t, uint32_t out, kvfit_note *note)
{
    uint32_t P = t->g->P;
    for (size_t i = 0; i < (size_t)P * P; i++) d->sum[i] = t->g->xx[FIT][i] + t->g->xx[HELD][i];
    for (size_t i = 0; i < (size_t)out * P; i++) d->t[i] = t->yx[FIT][i] + t->yx[HELD][i];
    for (size_t i = 0; i < sizeof lambdas / sizeof *lambdas; i++) {
        if (lambdas[i] < note->lambda || !ridge(d, d->sum, d->t, P, out, lambdas[i])) continue;
        note->lambda = lambdas[i];
        return true;
    }
    return false;
}

err_code kvfit_solve(kvfit *f, uint32_t layer, int side, float *w, float *b, kvfit_note *note, err *e)
{
    const target *t = &f->target[(layer - f->l0) * KVMAP_SIDES + side];
    uint32_t P = t->g->P, out = f->s.out;
    double fit = t->g->xx[FIT][(size_t)P * P - 1], held = t->g->xx[HELD][(size_t)P * P - 1];
    desk d = { 0 };
    *note = (kvfit_note){ .rows = (uint64_t)(fit + held) };
    if (fit < 1 || held < 1) return err_set(e, ERR_INPUT, "%.0f rows to fit and %.0f held out: both are needed", fit, held);
    err_code rc = desk_open(&d, P, out) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for layer %u's equations", layer);
    if (!rc && !(choose(&d, t, out, note) && solve_all(&d, t, out, note)))
        rc = err_set(e, ERR_STATE, "layer %u: no map solves its equations of %u inputs over %.0f rows", layer, P - 1, fit + held);
    for (uint32_t o = 0; !rc && o < out; o++) {
        for (uint32_t i = 0; i + 1 < P; i++) w[(size_t)o * (P - 1) + i] = (float)d.w[(size_t)o * P + i];
        b[o] = (float)d.w[(size_t)o * P + P - 1];
    }
    desk_close(&d);
    return rc;
}
