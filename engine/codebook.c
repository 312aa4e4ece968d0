#include "engine/codebook.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- tails --------------------------------------------------------------------------------------------------------- */

size_t tails_bytes(tails t) { return (size_t)t.channels * 2 * t.most * sizeof(float); }

uint32_t tails_most(uint64_t rows, double p)
{
    double at = p * (double)(rows ? rows - 1 : 0) + 2;
    return at < UINT32_MAX ? (uint32_t)at : UINT32_MAX;
}

/* A heap of the smallest: its root is the largest of them. */
static void sift_down(float *h, uint32_t n, uint32_t i)
{
    for (;;) {
        uint32_t big = i, l = 2 * i + 1, r = l + 1;
        if (l < n && h[l] > h[big]) big = l;
        if (r < n && h[r] > h[big]) big = r;
        if (big == i) return;
        float x = h[i];
        h[i] = h[big];
        h[big] = x;
        i = big;
    }
}

static void keep_small(float *h, uint32_t most, uint64_t seen, float x)
{
    if (seen >= most) {
        if (!(x < h[0])) return;
        h[0] = x;
        sift_down(h, most, 0);
        return;
    }
    uint32_t i = (uint32_t)seen;
    for (h[i] = x; i && h[(i - 1) / 2] < h[i]; i = (i - 1) / 2) {
        float up = h[(i - 1) / 2];
        h[(i - 1) / 2] = h[i];
        h[i] = up;
    }
}

/* Smallest values of channel c; the largest are behind them, negated. */
static float *tail(tails t, void *mem, uint32_t c, uint32_t end) { return (float *)mem + ((size_t)c * 2 + end) * t.most; }

void tails_add(tails t, void *mem, const float *x, uint64_t seen)
{
    for (uint32_t c = 0; c < t.channels; c++) {
        float v = isfinite(x[c]) ? x[c] : 0;
        keep_small(tail(t, mem, c, 0), t.most, seen, v);
        keep_small(tail(t, mem, c, 1), t.most, seen, -v);
    }
}

static int ascending(const void *a, const void *b)
{
    const float *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static float quantile(float *h, uint32_t most, uint64_t rows, double p)
{
    uint32_t n = rows < most ? (uint32_t)rows : most;
    if (!n) return 0;
    qsort(h, n, sizeof *h, ascending);
    double at = p * (double)(rows - 1), whole = floor(at);
    uint32_t i = whole < n - 1 ? (uint32_t)whole : n - 1, j = i + 1 < n ? i + 1 : i;
    return (float)((double)h[i] + (at - whole) * ((double)h[j] - (double)h[i]));
}

void tails_quantiles(tails t, void *mem, uint64_t rows, double p, float *lo, float *hi)
{
    for (uint32_t c = 0; c < t.channels; c++) {
        lo[c] = quantile(tail(t, mem, c, 0), t.most, rows, p);
        hi[c] = -quantile(tail(t, mem, c, 1), t.most, rows, p);
    }
}

/* ---- sums ---------------------------------------------------------------------------------------------------------- */

void codebook_add(codebook_sums *s, float x, double weight)
{
    if (isnan(x) || !(weight > 0)) return;
    x = x < -1 ? -1 : x > 1 ? 1 : x;
    int bin = (int)((x + 1) * (CODEBOOK_BINS / 2));
    if (bin >= CODEBOOK_BINS) bin = CODEBOOK_BINS - 1;
    s->weight[bin] += weight;
    s->sum[bin] += weight * (double)x;
    s->count[bin] += 1;
    s->plain[bin] += (double)x;
    s->squares += (double)x * (double)x;
}

/* ---- the optimum --------------------------------------------------------------------------------------------------- */

/* Prefix sums over the points (bins that are not empty), from 0; cost of points [i, j) as one cluster from them. */
typedef struct { double *w, *x, *xx; uint32_t n; } points;

static double cost(const points *p, uint32_t i, uint32_t j)
{
    double w = p->w[j] - p->w[i], x = p->x[j] - p->x[i], c = p->xx[j] - p->xx[i] - (w > 0 ? x * x / w : 0);
    return c > 0 ? c : 0;
}

static uint32_t points_fill(points *p, const codebook_sums *s)
{
    for (uint32_t b = 0; b < CODEBOOK_BINS; b++) {
        if (!(s->weight[b] > 0)) continue;
        double m = s->sum[b] / s->weight[b];
        p->w[p->n + 1] = p->w[p->n] + s->weight[b];
        p->x[p->n + 1] = p->x[p->n] + s->sum[b];
        p->xx[p->n + 1] = p->xx[p->n] + s->weight[b] * m * m;
        p->n++;
    }
    return p->n;
}

/* now[j]: least cost of the first j points in one cluster more than before[] has; from[j]: where that last one begins. The best
 * beginning never moves back as j grows, so half of the range is searched for each half of the columns. */
static void add_cluster(const points *p, const double *before, double *now, uint32_t *from, uint32_t lo, uint32_t hi, uint32_t i0,
                        uint32_t i1)
{
    if (lo > hi) return;
    uint32_t j = lo + (hi - lo) / 2, best = i0;
    double least = DBL_MAX;
    for (uint32_t i = i0; i <= i1 && i <= j; i++) {
        double c = before[i] + cost(p, i, j);
        if (c < least) least = c, best = i;
    }
    now[j] = least;
    from[j] = best;
    if (j > lo) add_cluster(p, before, now, from, lo, j - 1, i0, best);
    add_cluster(p, before, now, from, j + 1, hi, best, i1);
}

static void fit(const points *p, uint32_t size, double *row, uint32_t *from, float *book)
{
    uint32_t n = p->n, k = size < n ? size : n;
    double *before = row, *now = row + n + 1;
    for (uint32_t j = 0; j <= n; j++) before[j] = cost(p, 0, j);
    for (uint32_t c = 1; c < k; c++) {
        add_cluster(p, before, now, from + (size_t)c * (n + 1), 0, n, 0, n);
        double *swap = before;
        before = now;
        now = swap;
    }
    uint32_t end = n;
    for (uint32_t c = k; c-- > 0;) {
        uint32_t i = c ? from[(size_t)c * (n + 1) + end] : 0;
        double w = p->w[end] - p->w[i];
        book[c] = w > 0 ? (float)((p->x[end] - p->x[i]) / w) : c + 1 < k ? book[c + 1] : 0;
        end = i;
    }
    for (uint32_t c = k; c < size; c++) book[c] = book[k - 1];
}

err_code codebook_fit(const codebook_sums *s, uint32_t size, float *book, err *e)
{
    size_t n = CODEBOOK_BINS + 1;
    double *mem = calloc(5 * n, sizeof *mem);
    uint32_t *from = calloc(n * size, sizeof *from);
    points p = { mem, mem + n, mem + 2 * n, 0 };
    err_code rc = mem && from ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a codebook");
    if (!rc && points_fill(&p, s)) fit(&p, size, mem + 3 * n, from, book);
    else
        for (uint32_t i = 0; i < size; i++) book[i] = -1 + (2 * (float)i + 1) / (float)size;
    free(mem);
    free(from);
    return rc;
}

/* ---- what a book costs --------------------------------------------------------------------------------------------- */

static uint32_t nearest(const float *book, uint32_t size, double x)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < size; i++)
        if (fabs((double)book[i] - x) < fabs((double)book[best] - x)) best = i;
    return best;
}

double codebook_error(const codebook_sums *s, const float *book, uint32_t size)
{
    double far = 0, w = 0;
    for (uint32_t b = 0; b < CODEBOOK_BINS; b++) {
        if (!(s->weight[b] > 0)) continue;
        double x = s->sum[b] / s->weight[b], d = x - (double)book[nearest(book, size, x)];
        far += s->weight[b] * d * d;
        w += s->weight[b];
    }
    return w > 0 ? far / w : 0;
}

void codebook_norm(const codebook_sums *s, const float *book, uint32_t size, float out[2])
{
    double n = 0, m1 = 0, m2 = 0, q2 = 0;
    out[0] = 1;
    out[1] = 0;
    for (uint32_t b = 0; b < CODEBOOK_BINS; b++) {
        if (!(s->count[b] > 0)) continue;
        double q = (double)book[nearest(book, size, s->plain[b] / s->count[b])];
        n += s->count[b];
        m1 += s->plain[b];
        m2 += s->count[b] * q;
        q2 += s->count[b] * q * q;
    }
    if (!(n > 0)) return;
    m1 /= n;
    m2 /= n;
    double d1 = s->squares / n - m1 * m1, d2 = q2 / n - m2 * m2;
    if (!(d1 > 0) || !(d2 > 0)) return;
    out[0] = (float)sqrt(d1 / d2);
    out[1] = (float)(m1 - m2 * sqrt(d1 / d2));
}
