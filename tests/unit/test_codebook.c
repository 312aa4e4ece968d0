/* Thresholds against sorted values, codebooks against plain k-means and against all partitions, Q-Norm against its definition;
 * each in f64. And a planted one: numbers of which the book is known. */
#include "core/rng.h"
#include "engine/codebook.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- thresholds ---------------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    const float *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static double sorted_quantile(const float *x, uint64_t n, double p)
{
    double at = p * (double)(n - 1), whole = floor(at);
    uint64_t i = (uint64_t)whole, j = i + 1 < n ? i + 1 : i;
    return (double)x[i] + (at - whole) * ((double)x[j] - (double)x[i]);
}

Test(codebook, thresholds_are_the_quantiles_of_all_rows)
{
    uint64_t seed = support_seed();
    enum { CHANNELS = 5, ROWS = 3000 };
    float *x = malloc(CHANNELS * ROWS * sizeof *x), lo[CHANNELS], hi[CHANNELS], column[ROWS];
    tails t = { CHANNELS, tails_most(ROWS, 0.005) };
    void *mem = calloc(1, tails_bytes(t));
    cr_assert(x && mem);
    support_fill(x, CHANNELS * ROWS, seed, -4, 4);
    for (uint32_t i = 0; i < ROWS; i++) {
        if (i % 7 == 0) x[i * CHANNELS + 2] = 1;             /* many equal ones */
        tails_add(t, mem, x + i * CHANNELS, i);
    }
    cr_assert_lt(tails_bytes(t), CHANNELS * ROWS * sizeof *x / 20, "a part of the rows is kept");
    tails_quantiles(t, mem, ROWS, 0.005, lo, hi);
    for (uint32_t c = 0; c < CHANNELS; c++) {
        for (uint32_t i = 0; i < ROWS; i++) column[i] = x[i * CHANNELS + c];
        qsort(column, ROWS, sizeof *column, ascending);
        cr_assert_float_eq(lo[c], sorted_quantile(column, ROWS, 0.005), 1e-6);
        cr_assert_float_eq(hi[c], sorted_quantile(column, ROWS, 0.995), 1e-6);
    }
    free(x);
    free(mem);
}

Test(codebook, a_few_rows_have_thresholds_too)
{
    tails t = { 1, tails_most(3, 0.005) };
    float mem[16] = { 0 }, lo, hi;
    cr_assert_leq(tails_bytes(t), sizeof mem);
    for (uint32_t i = 0; i < 3; i++) tails_add(t, mem, (float[]){ (float)i }, i);
    tails_quantiles(t, mem, 3, 0.005, &lo, &hi);
    cr_assert_float_eq(lo, 0.01, 1e-6);
    cr_assert_float_eq(hi, 1.99, 1e-6);
}

/* ---- books --------------------------------------------------------------------------------------------------------- */

enum { NUMBERS = 4000 };
typedef struct { double x, w; } number;

/* Three hills and a tail, weights over three orders of magnitude. */
static void draw(number *n, uint64_t seed)
{
    static const double at[3] = { -0.6, 0.05, 0.7 }, wide[3] = { 0.2, 0.1, 0.15 };
    for (uint32_t i = 0; i < NUMBERS; i++) {
        uint64_t k = rng_u64(seed, 3 * i) % 8;
        double u = rng_unit(seed, 3 * i + 1) + rng_unit(seed, 3 * i + 2) - 1, x = k == 7 ? u : at[k % 3] + wide[k % 3] * u;
        n[i] = (number){ (double)(float)(x < -1 ? -1 : x > 1 ? 1 : x), pow(10, 3 * rng_unit(seed, 90000 + i) - 2) };
    }
}

static double error_of(const number *n, const double *book, uint32_t size)
{
    double far = 0, w = 0;
    for (uint32_t i = 0; i < NUMBERS; i++) {
        double best = INFINITY;
        for (uint32_t c = 0; c < size; c++) best = fmin(best, (n[i].x - book[c]) * (n[i].x - book[c]));
        far += n[i].w * best;
        w += n[i].w;
    }
    return far / w;
}

/* Lloyd's algorithm on the numbers themselves, 50 rounds as in the paper, the best of 20 random starts. */
static double plain_kmeans(const number *n, uint32_t size, uint64_t seed)
{
    double best = INFINITY;
    for (uint32_t start = 0; start < 20; start++) {
        double book[16], sum[16], w[16];
        for (uint32_t c = 0; c < size; c++) book[c] = n[rng_u64(seed, 1000 * start + c) % NUMBERS].x;
        for (int round = 0; round < 50; round++) {
            memset(sum, 0, sizeof sum);
            memset(w, 0, sizeof w);
            for (uint32_t i = 0; i < NUMBERS; i++) {
                uint32_t at = 0;
                for (uint32_t c = 1; c < size; c++)
                    if (fabs(n[i].x - book[c]) < fabs(n[i].x - book[at])) at = c;
                sum[at] += n[i].w * n[i].x;
                w[at] += n[i].w;
            }
            for (uint32_t c = 0; c < size; c++)
                if (w[c] > 0) book[c] = sum[c] / w[c];
        }
        best = fmin(best, error_of(n, book, size));
    }
    return best;
}

static codebook_sums *sums_of(const number *n, uint32_t many)
{
    codebook_sums *s = calloc(1, sizeof *s);
    cr_assert_not_null(s);
    for (uint32_t i = 0; i < many; i++) codebook_add(s, (float)n[i].x, n[i].w);
    return s;
}

Test(codebook, a_book_is_as_good_as_the_best_of_twenty_plain_kmeans)
{
    uint64_t seed = support_seed();
    number *n = malloc(NUMBERS * sizeof *n);
    err e;
    cr_assert_not_null(n);
    draw(n, seed);
    codebook_sums *s = sums_of(n, NUMBERS);
    for (uint32_t bits = 2; bits <= 4; bits++) {
        float book[16];
        double d[16], got, want = plain_kmeans(n, 1u << bits, seed);
        cr_assert_eq(codebook_fit(s, 1u << bits, book, &e), ERR_OK);
        for (uint32_t c = 0; c < 1u << bits; c++) {
            d[c] = (double)book[c];
            cr_assert(c == 0 || book[c] > book[c - 1], "ascending");
        }
        got = error_of(n, d, 1u << bits);
        printf("# %u bits: error %.4g, plain k-means %.4g\n", bits, got, want);
        cr_assert_leq(got, want * 1.002, "bins are 1/2048 wide");
        cr_assert_geq(codebook_error(s, book, 1u << bits), got * 0.98);
    }
    free(s);
    free(n);
}

/* The least cost over all ways to cut few points into runs. */
static double best_cut(const number *n, uint32_t from, uint32_t many, uint32_t size)
{
    double best = INFINITY;
    for (uint32_t end = from + 1; end <= many; end++) {
        double w = 0, x = 0, xx = 0;
        for (uint32_t i = from; i < end; i++) w += n[i].w, x += n[i].w * n[i].x, xx += n[i].w * n[i].x * n[i].x;
        double own = xx - x * x / w, rest = end == many ? 0 : size > 1 ? best_cut(n, end, many, size - 1) : INFINITY;
        best = fmin(best, own + rest);
    }
    return best;
}

Test(codebook, a_book_of_few_points_is_the_best_of_all_cuts)
{
    uint64_t seed = support_seed();
    for (uint32_t round = 0; round < 40; round++) {
        number n[12];
        double w = 0;
        float book[4];
        err e;
        for (uint32_t i = 0; i < 12; i++) {       /* ascending, each in a bin of its own */
            n[i].x = -0.95 + 0.16 * i + 0.1 * rng_unit(seed, 100 * round + i);
            n[i].w = 0.1 + rng_unit(seed, 100 * round + 50 + i);
            w += n[i].w;
        }
        codebook_sums *s = sums_of(n, 12);
        cr_assert_eq(codebook_fit(s, 4, book, &e), ERR_OK);
        cr_assert_float_eq(codebook_error(s, book, 4), best_cut(n, 0, 12, 4) / w, 1e-7);
        free(s);
    }
}

Test(codebook, planted_poles_are_found)
{
    static const float poles[8] = { -0.9f, -0.71f, -0.3f, -0.05f, 0.1f, 0.33f, 0.62f, 0.97f };
    codebook_sums *s = calloc(1, sizeof *s);
    float book[8];
    err e;
    cr_assert_not_null(s);
    for (uint32_t i = 0; i < 8000; i++) codebook_add(s, poles[i % 8] + (float)(rng_unit(3, i) - 0.5) * 0.02f, 1 + i % 5);
    cr_assert_eq(codebook_fit(s, 8, book, &e), ERR_OK);
    cr_assert(support_near(book, poles, 8, 0.002, 0, "poles"));
    free(s);
}

Test(codebook, heavier_numbers_draw_the_book_to_them)
{
    codebook_sums *flat = calloc(1, sizeof *flat), *heavy = calloc(1, sizeof *heavy);
    float a[4], b[4];
    err e;
    cr_assert(flat && heavy);
    for (uint32_t i = 0; i < 4000; i++) {
        float x = (float)(2 * rng_unit(5, i) - 1);
        codebook_add(flat, x, 1);
        codebook_add(heavy, x, x > 0.5f ? 100 : 1);
    }
    cr_assert(!codebook_fit(flat, 4, a, &e) && !codebook_fit(heavy, 4, b, &e));
    cr_assert_gt(b[2], 0.5f, "three of four poles where the weight is");
    cr_assert_lt(a[2], 0.5f);
    free(flat);
    free(heavy);
}

Test(codebook, nothing_and_one_number_make_a_book_too)
{
    codebook_sums *s = calloc(1, sizeof *s);
    float book[4];
    err e;
    cr_assert_not_null(s);
    codebook_add(s, NAN, 1);
    codebook_add(s, 0.5f, 0);
    cr_assert_eq(codebook_fit(s, 4, book, &e), ERR_OK);
    for (int i = 0; i < 4; i++) cr_assert_float_eq(book[i], -0.75 + 0.5 * i, 1e-6);
    codebook_add(s, 7, 1);                        /* beyond the end: its end */
    cr_assert_eq(codebook_fit(s, 4, book, &e), ERR_OK);
    for (int i = 0; i < 4; i++) cr_assert_eq(book[i], 1);
    free(s);
}

Test(codebook, the_norm_gives_rounded_numbers_the_mean_and_deviation_of_the_numbers)
{
    uint64_t seed = support_seed();
    number *n = malloc(NUMBERS * sizeof *n);
    static const float book[4] = { -0.8f, -0.2f, 0.1f, 0.5f };     /* no good one, so that there is something to mend */
    float norm[2];
    double m1 = 0, q1 = 0, m2 = 0, q2 = 0;
    cr_assert_not_null(n);
    draw(n, seed);
    for (uint32_t i = 0; i < NUMBERS; i++) n[i].x = (floor((n[i].x + 1) * 2047.5) + 0.5) / 2048 - 1, n[i].w = 1;
    codebook_sums *s = sums_of(n, NUMBERS);
    codebook_norm(s, book, 4, norm);
    for (uint32_t i = 0; i < NUMBERS; i++) {
        uint32_t at = 0;
        for (uint32_t c = 1; c < 4; c++)
            if (fabs(n[i].x - (double)book[c]) < fabs(n[i].x - (double)book[at])) at = c;
        double y = (double)book[at] * (double)norm[0] + (double)norm[1];
        m1 += n[i].x, q1 += n[i].x * n[i].x, m2 += y, q2 += y * y;
    }
    m1 /= NUMBERS, q1 /= NUMBERS, m2 /= NUMBERS, q2 /= NUMBERS;
    cr_assert_float_eq(m2, m1, 1e-4);
    cr_assert_float_eq(sqrt(q2 - m2 * m2), sqrt(q1 - m1 * m1), 1e-4);
    free(s);
    free(n);
}
