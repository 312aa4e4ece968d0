#include "engine/linfit.h"
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 15 };            /* reweightings: Newton steps, which double the digits once they are near */
#define STEEP 15.0               /* |w x + b| beyond this is certainty; without the cap separable data never stop */

static err_code no_memory(err *e) { return err_set(e, ERR_NOMEM, "out of memory for a fit"); }

/* ---- principal components ------------------------------------------------------------------------------------------ */

static void centre(const float *x, uint32_t n, uint32_t d, double *mean, double *c)
{
    memset(mean, 0, d * sizeof *mean);
    for (size_t i = 0; i < (size_t)n * d; i++) mean[i % d] += (double)x[i] / n;
    for (size_t i = 0; i < (size_t)n * d; i++) c[i] = x[i] - mean[i % d];
}

static double dot(const double *a, const double *b, uint32_t n, size_t lda, size_t ldb)
{
    double s = 0;
    for (uint32_t i = 0; i < n; i++) s += a[i * lda] * b[i * ldb];
    return s;
}

/* g [m][m] = c c^T or c^T c, upper triangle. */
static void gram(const double *c, uint32_t n, uint32_t d, bool rows, double *g)
{
    uint32_t m = rows ? n : d;
    for (uint32_t i = 0; i < m; i++)
        for (uint32_t j = i; j < m; j++)
            g[(size_t)i * m + j] = rows ? dot(c + (size_t)i * d, c + (size_t)j * d, d, 1, 1) : dot(c + i, c + j, n, d, d);
}

/* Row i of basis from eigenvector v of the Gram matrix with eigenvalue s: a direction of unit variance. */
static void direction(const double *c, uint32_t n, uint32_t d, bool rows, const double *v, size_t ldv, double s, double *out)
{
    for (uint32_t j = 0; j < d; j++) {
        double u = rows ? dot(v, c + j, n, ldv, d) / sqrt(s) : v[j * ldv];
        out[j] = u / sqrt(s / n);
    }
}

err_code linfit_components(const float *x, uint32_t n, uint32_t d, uint32_t k, double *mean, double *basis, err *e)
{
    bool rows = n < d;
    uint32_t m = rows ? n : d;
    double *c = malloc((size_t)n * d * sizeof *c), *g = malloc((size_t)m * m * sizeof *g), *s = malloc(m * sizeof *s);
    err_code rc = c && g && s ? ERR_OK : no_memory(e);
    if (!rc) {
        centre(x, n, d, mean, c);
        gram(c, n, d, rows, g);
        if (LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', (lapack_int)m, g, (lapack_int)m, s)) rc = err_set(e, ERR_STATE, "no eigenvectors of %u samples", n);
    }
    memset(basis, 0, (size_t)k * d * sizeof *basis);
    for (uint32_t i = 0; !rc && i < k && i < m; i++) {
        double ev = s[m - 1 - i];
        if (ev > 1e-9 * s[m - 1] && ev > 0) direction(c, n, d, rows, g + m - 1 - i, m, ev, basis + (size_t)i * d);
    }
    free(c);
    free(g);
    free(s);
    return rc;
}

/* ---- weighted ridge ------------------------------------------------------------------------------------------------ */

/* One penalised least-squares problem with weights r [n] (NULL: all 1); the bias is not penalised. a: (p+1)^2 and p+1 of scratch. */
static err_code solve(const double *x, const double *y, const double *r, uint32_t n, uint32_t p, double lambda, double *a, double *w, double *b, err *e)
{
    uint32_t m = p + 1;
    double *rhs = a + (size_t)m * m;
    memset(a, 0, ((size_t)m * m + m) * sizeof *a);
    for (uint32_t i = 0; i < n; i++) {
        double q = r ? r[i] : 1;
        for (uint32_t u = 0; u < m; u++) {
            double xu = u < p ? x[(size_t)i * p + u] : 1;
            rhs[u] += q * xu * y[i];
            for (uint32_t v = u; v < m; v++) a[(size_t)u * m + v] += q * xu * (v < p ? x[(size_t)i * p + v] : 1);
        }
    }
    for (uint32_t u = 0; u < p; u++) a[(size_t)u * m + u] += lambda * n;
    a[(size_t)p * m + p] += 1e-12 * n;
    lapack_int bad = LAPACKE_dposv(LAPACK_ROW_MAJOR, 'U', (lapack_int)m, 1, a, (lapack_int)m, rhs, 1);
    if (bad) return err_set(e, ERR_STATE, "a fit of %u numbers to %u samples has no solution", m, n);
    memcpy(w, rhs, p * sizeof *w);
    *b = rhs[p];
    return ERR_OK;
}

err_code linfit_ridge(const double *x, const double *y, uint32_t n, uint32_t p, double lambda, double *w, double *b, err *e)
{
    double *a = malloc(((size_t)(p + 1) * (p + 1) + p + 1) * sizeof *a);
    err_code rc = a ? solve(x, y, NULL, n, p, lambda, a, w, b, e) : no_memory(e);
    free(a);
    return rc;
}

static double eta_of(const double *x, const double *w, double b, uint32_t p)
{
    double t = b + dot(x, w, p, 1, 1);
    return t > STEEP ? STEEP : t < -STEEP ? -STEEP : t;
}

err_code linfit_logistic(const double *x, const double *y, uint32_t n, uint32_t p, double lambda, double *w, double *b, err *e)
{
    double ones = 0, *a = malloc(((size_t)(p + 1) * (p + 1) + p + 1 + 2 * (size_t)n) * sizeof *a);
    for (uint32_t i = 0; i < n; i++) ones += y[i];
    memset(w, 0, p * sizeof *w);
    double share = (ones + 0.5) / (n + 1.0);
    *b = log(share / (1 - share));
    if (!a) return no_memory(e);
    double *r = a + (size_t)(p + 1) * (p + 1) + p + 1, *z = r + n;
    err_code rc = ERR_OK;
    for (int k = 0; !rc && k < ROUNDS && ones > 0 && ones < n; k++) {
        for (uint32_t i = 0; i < n; i++) {
            double t = eta_of(x + (size_t)i * p, w, *b, p), q = 1 / (1 + exp(-t));
            r[i] = q * (1 - q) + 1e-9;
            z[i] = t + (y[i] - q) / r[i];
        }
        rc = solve(x, z, r, n, p, lambda, a, w, b, e);
    }
    free(a);
    return rc;
}

double linfit_auc(const double *score, const double *label, uint32_t n)
{
    double won = 0, pairs = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            if (label[i] < 0.5 || label[j] > 0.5) continue;
            pairs++;
            won += score[i] > score[j] ? 1 : score[i] == score[j] ? 0.5 : 0;
        }
    return pairs > 0 ? won / pairs : 0.5;
}
