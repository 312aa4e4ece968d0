/* Streamed sums and Cholesky. All matrices are row-major; a symmetric one has its upper triangle. LAPACK sees them transposed:
 * an upper triangle by rows is a lower one by columns, and [out][P] by rows is P x out by columns.
 * All of it on one thread: Debian's serial OpenBLAS shares its buffers between threads without a lock. */
#include "engine/kvfit.h"
#include "engine/ridge.h"
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FIT, HELD, PARTS };
enum { BATCH = 256 }; /* rows that go into one product: enough for it to be efficient, little beside the sums */

/* From "nothing but rounding" to "hardly follows the inputs"; held-out error is flat between neighbours. */
static const double lambdas[] = { 1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1 };

/* Rows that a map meets nearly count at most as much as 100 of the usual ones: none decides alone. */
#define FLOOR 1e-2

typedef struct {           /* inputs that layers share */
    uint32_t source;
    int side;              /* of own inputs, or of weighted rows */
    uint32_t layer, P;     /* a layer that has it; inputs and the constant */
    double *xx[PARTS];     /* [P][P] upper: sum of x x' */
} gram;

typedef struct {
    gram *g;
    double *yx[PARTS];     /* [out][P]: sum of y x' */
    double yy[PARTS];      /* sum of y'y */
    double *before;        /* [out][P]: the map that reweights, NULL: there is none yet */
    double floor, error;   /* of the first map: least a row's error counts as; its held-out error */
} target;

struct kvfit {
    kvmap_shape s;
    kvfit_how how;
    uint32_t l0, l1, n_grams, most;  /* most: the largest P */
    uint64_t rows[PARTS];
    gram *gram;            /* [<= 2 (l1 - l0)] */
    target *target;        /* [l1 - l0][KVMAP_SIDES] */
    double *x, *y, *r;     /* [BATCH][P], [BATCH][out], [BATCH][out] */
    float *row;            /* [P] */
};

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static bool same_inputs(const kvfit *f, const gram *g, uint32_t layer, int side)
{
    if (f->how.weighted) return g->layer == layer && g->side == side;
    return g->source == f->s.source[layer] && (f->s.inputs != KVMAP_OWN || g->side == side);
}

uint64_t kvfit_bytes(const kvmap_shape *s, kvfit_how how, uint32_t l0, uint32_t l1)
{
    bool apart = how.weighted || s->inputs == KVMAP_OWN;
    uint64_t sums = 0, most = 0;
    for (uint32_t l = l0; l < l1; l++) {
        uint64_t P = kvmap_width(s, l) + 1;
        bool first = how.weighted || l == l0 || s->source[l] != s->source[l - 1]; /* sources ascend */
        sums += PARTS * (KVMAP_SIDES * s->out * P + (first ? (apart ? KVMAP_SIDES : 1) * P * P : 0));
        sums += how.weighted ? KVMAP_SIDES * s->out * P : 0;
        most = P > most ? P : most;
    }
    uint64_t solving = 2 * most * most + 4 * most * s->out + (how.rank ? 2ull * s->out * s->out : 0);
    return (sums + solving + BATCH * (most + 2ull * s->out)) * sizeof(double);
}

uint32_t kvfit_fits(const kvmap_shape *s, kvfit_how how, uint32_t l0, uint64_t bytes)
{
    uint32_t l1 = l0 + 1;
    while (l1 < s->L && kvfit_bytes(s, how, l0, l1 + 1) <= bytes) l1++;
    return l1;
}

static bool zeros(double **p, size_t n) { return (*p = calloc(n, sizeof **p)) != NULL; }

static gram *gram_of(kvfit *f, uint32_t layer, int side)
{
    for (uint32_t i = 0; i < f->n_grams; i++)
        if (same_inputs(f, &f->gram[i], layer, side)) return &f->gram[i];
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
    return zeros(&f->x, (size_t)BATCH * f->most) && zeros(&f->y, (size_t)BATCH * f->s.out) && zeros(&f->r, (size_t)BATCH * f->s.out) && f->row;
}

err_code kvfit_open(kvfit **out, const kvmap_shape *s, kvfit_how how, uint32_t l0, uint32_t l1, err *e)
{
    kvfit *f = *out = calloc(1, sizeof *f);
    if (!f) return err_set(e, ERR_NOMEM, "out of memory for fitting");
    *f = (kvfit){ .s = *s, .how = how, .l0 = l0, .l1 = l1 };
    size_t n = (size_t)(l1 - l0) * KVMAP_SIDES;
    f->gram = calloc(n, sizeof *f->gram);
    f->target = calloc(n, sizeof *f->target);
    if (f->gram && f->target && fill(f)) return ERR_OK;
    kvfit_close(out);
    return err_set(e, ERR_NOMEM, "out of memory for fitting layers %u to %u: %llu MB", l0, l1 - 1,
                   (unsigned long long)(kvfit_bytes(s, how, l0, l1) >> 20));
}

void kvfit_close(kvfit **fp)
{
    kvfit *f = *fp;
    if (!f) return;
    size_t n = (size_t)(f->l1 - f->l0) * KVMAP_SIDES;
    for (size_t i = 0; f->gram && i < n; i++) free(f->gram[i].xx[FIT]), free(f->gram[i].xx[HELD]);
    for (size_t i = 0; f->target && i < n; i++) free(f->target[i].yx[FIT]), free(f->target[i].yx[HELD]), free(f->target[i].before);
    free(f->gram);
    free(f->target);
    free(f->x);
    free(f->y);
    free(f->r);
    free(f->row);
    free(f);
    *fp = NULL;
}

/* ---- sums ---------------------------------------------------------------------------------------------------------- */

typedef struct { const runner_tap *aux, *base; uint32_t max_rows, from, n; int part; const float *weight; } batch; /* rows [from, from + n) */

static void load_inputs(const kvfit *f, const gram *g, const batch *b)
{
    for (uint32_t t = 0; t < b->n; t++) {
        double *x = f->x + (size_t)t * g->P;
        kvmap_gather(&f->s, g->layer, g->side, b->aux, b->max_rows, b->from + t, f->row);
        for (uint32_t i = 0; i + 1 < g->P; i++) x[i] = (double)f->row[i];
        x[g->P - 1] = 1;
    }
}

static void load_target(const kvfit *f, uint32_t layer, int side, const batch *b)
{
    const float *from = (side == KVMAP_K ? b->base->k : b->base->v) + ((size_t)layer * b->max_rows + b->from) * f->s.out;
    for (size_t i = 0; i < (size_t)b->n * f->s.out; i++) f->y[i] = (double)from[i];
}

static void scale(double *x, uint32_t n, double by)
{
    for (uint32_t i = 0; i < n; i++) x[i] *= by;
}

/* Length of what the map before leaves of each row of f->x and f->y -> f->r [n]. */
static void lengths(const kvfit *f, const target *t, uint32_t n)
{
    int P = (int)t->g->P, out = (int)f->s.out;
    memcpy(f->r, f->y, (size_t)n * f->s.out * sizeof *f->r);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, out, P, -1, f->x, P, t->before, P, 1, f->r, out);
    for (uint32_t i = 0; i < n; i++) f->r[i] = cblas_dnrm2(out, f->r + (size_t)i * f->s.out, 1); /* row i begins at or behind i */
}

/* Rows count by their weights: both sides of an equation times its root. */
static void weigh(const kvfit *f, const target *t, uint32_t layer, const batch *b)
{
    const float *w = b->weight ? b->weight + (size_t)(layer - f->l0) * b->max_rows + b->from : NULL;
    if (t->before) lengths(f, t, b->n);
    for (uint32_t i = 0; i < b->n; i++) {
        double by = w ? (double)w[i] : 1;
        if (t->before) by /= f->r[i] > t->floor ? f->r[i] : t->floor;
        scale(f->x + (size_t)i * t->g->P, t->g->P, sqrt(by));
        scale(f->y + (size_t)i * f->s.out, f->s.out, sqrt(by));
    }
}

static void add_target(kvfit *f, target *t, const batch *b)
{
    int P = (int)t->g->P, out = (int)f->s.out;
    for (size_t i = 0; i < (size_t)b->n * f->s.out; i++) t->yy[b->part] += f->y[i] * f->y[i];
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, out, P, (int)b->n, 1, f->y, out, f->x, P, 1, t->yx[b->part], P);
}

/* Weighted rows have a Gram matrix for each target: weigh turns the inputs, too. */
static void add_gram(kvfit *f, gram *g, const batch *b)
{
    load_inputs(f, g, b);
    for (uint32_t k = 0; k < (f->l1 - f->l0) * KVMAP_SIDES; k++) {
        uint32_t layer = f->l0 + k / KVMAP_SIDES;
        if (f->target[k].g != g) continue;
        load_target(f, layer, (int)(k % KVMAP_SIDES), b);
        if (f->how.weighted) weigh(f, &f->target[k], layer, b);
        add_target(f, &f->target[k], b);
    }
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)g->P, (int)b->n, 1, f->x, (int)g->P, 1, g->xx[b->part], (int)g->P);
}

void kvfit_add(kvfit *f, const runner_tap *aux, const runner_tap *base, uint32_t max_rows, uint32_t from, uint32_t T, bool held, const float *weight)
{
    batch b = { aux, base, max_rows, from, 0, held ? HELD : FIT, weight };
    f->rows[b.part] += T - from;
    for (; b.from < T; b.from += b.n) {
        b.n = T - b.from < BATCH ? T - b.from : BATCH;
        for (uint32_t i = 0; i < f->n_grams; i++) add_gram(f, &f->gram[i], &b);
    }
}

/* ---- the solution -------------------------------------------------------------------------------------------------- */

typedef struct { double *a, *w, *t, *sum, *yx, *c, *ev; uint32_t rank; } desk; /* [P][P], [out][P] twice, [P][P], [out][P], [out][out], [out] */

static bool desk_open(desk *d, size_t P, size_t out, uint32_t rank)
{
    d->rank = rank < out ? rank : 0;
    bool ok = zeros(&d->a, P * P), more = zeros(&d->w, out * P);
    ok = zeros(&d->t, out * P) && zeros(&d->yx, out * P) && ok && more;
    if (d->rank) ok = zeros(&d->c, out * out) && zeros(&d->ev, out) && ok;
    return zeros(&d->sum, P * P) && ok;
}

static void desk_close(desk *d)
{
    free(d->a);
    free(d->w);
    free(d->t);
    free(d->sum);
    free(d->yx);
    free(d->c);
    free(d->ev);
}

/* d->w of (xx + lambda I) w = yx; false: not positive definite. */
static bool ridge(const desk *d, const double *xx, const double *yx, uint32_t P, uint32_t out, double lambda)
{
    double add = lambda * ridge_unit(xx, P);
    memcpy(d->a, xx, (size_t)P * P * sizeof *xx);
    memcpy(d->w, yx, (size_t)out * P * sizeof *yx);
    for (uint32_t i = 0; i + 1 < P; i++) d->a[(size_t)i * P + i] += add;
    return !LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'L', (int)P, d->a, (int)P)
           && !LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'L', (int)P, (int)out, d->a, (int)P, d->w, (int)P);
}

/* d->w keeps the d->rank directions of its outputs in which it varies most over the rows of xx, and its mean. */
static bool reduce(const desk *d, const double *xx, uint32_t P, uint32_t out)
{
    int p = (int)P, o = (int)out, r = (int)d->rank;
    double n = xx[(size_t)P * P - 1], *keep = d->c + (size_t)(out - d->rank) * out;
    if (!d->rank) return true;
    for (uint32_t i = 0; i < out; i++) d->ev[i] = d->w[(size_t)i * P + P - 1], d->w[(size_t)i * P + P - 1] = 0;
    cblas_dsymm(CblasRowMajor, CblasRight, CblasUpper, o, p, 1, xx, p, d->w, p, 0, d->t, p);
    double *mean = d->t + P - 1; /* of w x, n times, P apart */
    for (uint32_t i = 0; i < out; i++) d->w[(size_t)i * P + P - 1] = d->ev[i] + mean[(size_t)i * P] / n; /* where the rows' middle goes */
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, o, o, p - 1, 1, d->t, p, d->w, p, 0, d->c, o);
    cblas_dger(CblasRowMajor, o, o, -1 / n, mean, p, mean, p, d->c, o);
    if (LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'L', o, d->c, o, d->ev)) return false; /* ascending; by rows each is a row */
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, r, p - 1, o, 1, keep, o, d->w, p, 0, d->t, p);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, o, p - 1, r, 1, keep, o, d->t, p, 0, d->w, p);
    for (uint32_t i = 0; i < out; i++)
        for (uint32_t k = 0; k + 1 < P; k++) d->w[(size_t)i * P + P - 1] -= d->w[(size_t)i * P + k] * xx[(size_t)k * P + P - 1] / n;
    return true;
}

static bool solve(const desk *d, const double *xx, const double *yx, uint32_t P, uint32_t out, double lambda)
{
    return ridge(d, xx, yx, P, out, lambda) && reduce(d, xx, P, out);
}

/* Squared errors of d->w on held-out rows. */
static double miss_of(const desk *d, const target *t, uint32_t out)
{
    uint32_t P = t->g->P;
    const double *xx = t->g->xx[HELD], *yx = t->yx[HELD];
    double miss = t->yy[HELD];
    cblas_dsymm(CblasRowMajor, CblasRight, CblasUpper, (int)out, (int)P, 1, xx, (int)P, d->w, (int)P, 0, d->t, (int)P);
    for (size_t i = 0; i < (size_t)out * P; i++) miss += d->w[i] * (d->t[i] - 2 * yx[i]);
    return miss > 0 ? miss : 0;
}

static double held_error(const desk *d, const target *t, uint32_t out)
{
    uint32_t P = t->g->P;
    double miss = miss_of(d, t, out), var = t->yy[HELD], n = t->g->xx[HELD][(size_t)P * P - 1];
    for (uint32_t o = 0; o < out; o++) var -= t->yx[HELD][(size_t)o * P + P - 1] * t->yx[HELD][(size_t)o * P + P - 1] / n;
    return var > 0 && miss > 0 ? miss / var : 0;
}

/* The lambda whose fit errs least on held-out rows; false: none solves. */
static bool choose(const desk *d, const target *t, uint32_t out, kvfit_note *note)
{
    bool found = false;
    for (size_t i = 0; i < sizeof lambdas / sizeof *lambdas; i++) {
        if (!solve(d, t->g->xx[FIT], t->yx[FIT], t->g->P, out, lambdas[i])) continue;
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
    for (size_t i = 0; i < (size_t)out * P; i++) d->yx[i] = t->yx[FIT][i] + t->yx[HELD][i];
    for (size_t i = 0; i < sizeof lambdas / sizeof *lambdas; i++) {
        if (lambdas[i] < note->lambda || !solve(d, d->sum, d->yx, P, out, lambdas[i])) continue;
        note->lambda = lambdas[i];
        return true;
    }
    return false;
}

/* Into d->w. */
static err_code solve_target(const kvfit *f, const desk *d, uint32_t k, kvfit_note *note, err *e)
{
    const target *t = &f->target[k];
    uint32_t layer = f->l0 + k / KVMAP_SIDES;
    uint64_t fit = f->rows[FIT], held = f->rows[HELD];
    *note = (kvfit_note){ .rows = fit + held };
    if (!fit || !held) return err_set(e, ERR_INPUT, "%llu rows to fit and %llu held out: both are needed", (unsigned long long)fit, (unsigned long long)held);
    if (choose(d, t, f->s.out, note) && solve_all(d, t, f->s.out, note)) return ERR_OK;
    return err_set(e, ERR_STATE, "layer %u: no map solves its equations of %u inputs over %llu rows", layer, t->g->P - 1, (unsigned long long)(fit + held));
}

static err_code desk_of(const kvfit *f, const target *t, uint32_t k, desk *d, err *e)
{
    *d = (desk){ 0 };
    if (desk_open(d, t->g->P, f->s.out, f->how.rank)) return ERR_OK;
    desk_close(d);
    return err_set(e, ERR_NOMEM, "out of memory for layer %u's equations", f->l0 + k / KVMAP_SIDES);
}

/* The map of now, and how long its errors usually are: of the first map, for the ones behind it are of weighted rows. */
static err_code keep_map(const kvfit *f, target *t, uint32_t k, err *e)
{
    desk d;
    kvfit_note note;
    err_code rc = desk_of(f, t, k, &d, e);
    if (rc) return rc;
    rc = solve_target(f, &d, k, &note, e);
    double *had = t->before;
    if (!rc && !had) t->error = note.error;
    if (!rc && !had) t->floor = FLOOR * sqrt(miss_of(&d, t, f->s.out) / t->g->xx[HELD][(size_t)t->g->P * t->g->P - 1]);
    free(had);
    t->before = d.w;
    d.w = NULL;
    desk_close(&d);
    return rc;
}

err_code kvfit_again(kvfit *f, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t k = 0; !rc && k < (f->l1 - f->l0) * KVMAP_SIDES; k++) rc = keep_map(f, &f->target[k], k, e);
    for (uint32_t k = 0; k < (f->l1 - f->l0) * KVMAP_SIDES; k++)
        for (int i = 0; i < PARTS; i++) {
            target *t = &f->target[k];
            memset(t->yx[i], 0, (size_t)f->s.out * t->g->P * sizeof *t->yx[i]);
            t->yy[i] = 0;
        }
    for (uint32_t k = 0; k < f->n_grams; k++)
        for (int i = 0; i < PARTS; i++) memset(f->gram[k].xx[i], 0, (size_t)f->gram[k].P * f->gram[k].P * sizeof(double));
    f->rows[FIT] = f->rows[HELD] = 0;
    return rc;
}

err_code kvfit_solve(kvfit *f, uint32_t layer, int side, float *w, float *b, kvfit_note *note, err *e)
{
    uint32_t k = (layer - f->l0) * KVMAP_SIDES + (uint32_t)side;
    const target *t = &f->target[k];
    uint32_t P = t->g->P, out = f->s.out;
    desk d;
    err_code rc = desk_of(f, t, k, &d, e);
    if (rc) return rc;
    rc = solve_target(f, &d, k, note, e);
    if (t->before) note->error = t->error;
    for (uint32_t o = 0; !rc && o < out; o++) {
        for (uint32_t i = 0; i + 1 < P; i++) w[(size_t)o * (P - 1) + i] = (float)d.w[(size_t)o * P + i];
        b[o] = (float)d.w[(size_t)o * P + P - 1];
    }
    desk_close(&d);
    return rc;
}
