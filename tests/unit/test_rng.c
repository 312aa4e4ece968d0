#include "core/rng.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>

/* Sampled texts are promised to stay the same from release to release: these values may never change. */
Test(rng, values_are_those_of_the_first_release)
{
    static const struct { uint64_t seed, index, want; } known[] = {
        { 0, 0, 0x48218226ff3cd4bfu }, { 0, 1, 0xcd73fe3de975ac26u }, { 1, 0, 0x10a652055018074cu },
        { 42, 1000, 0xbba06dbcf6ad05b9u }, { UINT64_MAX, UINT64_MAX, 0xd398f885d05fc84cu },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        cr_expect_eq(rng_u64(known[i].seed, known[i].index), known[i].want, "(%llu, %llu) gives 0x%016llx",
                     (unsigned long long)known[i].seed, (unsigned long long)known[i].index,
                     (unsigned long long)rng_u64(known[i].seed, known[i].index));
}

Test(rng, unit_is_below_one_and_uses_the_high_bits)
{
    uint64_t seed = support_seed();
    for (uint64_t i = 0; i < 100000; i++) {
        double u = rng_unit(seed, i);
        cr_assert(u >= 0 && u < 1);
        cr_assert_eq((uint64_t)(u * 0x1p53), rng_u64(seed, i) >> 11);
    }
}

/* Fixed seeds: the figures are always the same, so the bounds (5 sigma) are no gamble. */
static void is_uniform(uint64_t seed0, uint64_t seed_step, uint64_t index_step, const char *what)
{
    enum { N = 1 << 18, BINS = 256 };
    static unsigned count[8][BINS];
    for (int b = 0; b < 8; b++)
        for (int i = 0; i < BINS; i++) count[b][i] = 0;
    for (uint64_t i = 0; i < N; i++) {
        uint64_t x = rng_u64(seed0 + i * seed_step, i * index_step);
        for (int b = 0; b < 8; b++) count[b][x >> (8 * b) & 255]++;
    }
    for (int b = 0; b < 8; b++) {
        double chi = 0, mean = (double)N / BINS;
        for (int i = 0; i < BINS; i++) chi += (count[b][i] - mean) * (count[b][i] - mean) / mean;
        cr_expect_lt(fabs(chi - 255), 5 * sqrt(2 * 255.0), "%s: chi-square of byte %d is %.1f, not about 255", what, b, chi);
    }
}

Test(rng, draws_are_uniform_along_rows_and_along_seeds)
{
    is_uniform(7, 0, 1, "rows");
    is_uniform(0, 1, 0, "seeds");
    is_uniform(0, 1, 1, "both");
}

Test(rng, neighbours_are_not_correlated)
{
    enum { N = 1 << 18 };
    double rows = 0, seeds = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = rng_unit(3, i) - 0.5;
        rows += u * (rng_unit(3, i + 1) - 0.5);
        seeds += u * (rng_unit(4, i) - 0.5);
    }
    /* the product of two such variables has variance 1/144 */
    cr_expect_lt(fabs(rows), 5 * sqrt(N / 144.0), "rows: %g", rows);
    cr_expect_lt(fabs(seeds), 5 * sqrt(N / 144.0), "seeds: %g", seeds);
}

Test(rng, a_flipped_bit_of_seed_or_row_flips_half_of_the_result)
{
    for (int which = 0; which < 2; which++)
        for (int bit = 0; bit < 64; bit++) {
            double flips = 0;
            for (uint64_t i = 0; i < 1000; i++) {
                uint64_t a = rng_u64(11, i), b = which ? rng_u64(11, i ^ 1ull << bit) : rng_u64(11 ^ 1ull << bit, i);
                flips += __builtin_popcountll(a ^ b);
            }
            cr_expect(flips > 30500 && flips < 33500, "%s bit %d: %.1f of 64 flip", which ? "row" : "seed", bit, flips / 1000);
        }
}
