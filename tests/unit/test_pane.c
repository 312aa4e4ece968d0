/* Packed panes: every code against an oracle in f64 that is written from the layout's description, and the same bits from every
 * ISA's decoder. */
#include "core/rng.h"
#include "kvstore/pane.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = PANE_ROWS, MOST_D = 256, LD = MOST_D };
static const char *const packs[] = { "raw", "q8_0", "q8_0+h", "q4_0", "q4_0+h", "token2", "token3+h", "token4", "token8+h",
                                     "channel2", "channel3", "channel4", "channel8", "token2+s", "token4+h+s", "channel2+s", "channel3+s",
                                     "channel8+s", "nuq2", "nuq3", "nuq4" };
enum { PACKS = sizeof packs / sizeof *packs };
static const uint32_t sizes[] = { 32, 64, 48, 20, 80, 128, 7, 256 };
enum { SIZES = sizeof sizes / sizeof *sizes };

static float x[N * MOST_D], lo[MOST_D], hi[MOST_D], book[16];
static unsigned char bytes[N * MOST_D * 4];
static pane_work work;

static pane_reader reader(isa i) { return (pane_reader){ vec_for(i), pane_decoder_for(i) }; }

/* Rows with outlier channels and a few wild elements. */
static void draw(uint32_t d, uint64_t seed)
{
    for (uint32_t c = 0; c < d; c++) {
        double mean = c % 13 == 3 ? 7 : 0, wide = c % 7 == 1 ? 2 : 0.5;
        for (uint32_t r = 0; r < N; r++) {
            double u = 0;
            for (int i = 0; i < 6; i++) u += rng_unit(seed, ((uint64_t)c * N + r) * 6 + i) - 0.5;
            x[r * d + c] = (float)(mean + wide * u);
            if (rng_unit(seed + 1, c * N + r) < 0.004) x[r * d + c] *= 9;
        }
        lo[c] = (float)(mean - 0.9 * wide);
        hi[c] = (float)(mean + 0.9 * wide);
    }
    for (uint32_t i = 0; i < 16; i++) book[i] = 0;
}

static pane_kind kind(const char *name, bool key, uint32_t d, kv_format exact)
{
    pane_kind k = { .key = key, .d = d, .exact = exact, .book = book, .out_book = book, .lo = lo, .hi = hi };
    err e;
    cr_assert_eq(kv_pack_parse(name, key, &k.pack, &e), ERR_OK, "%s", e.text);
    uint32_t n = 1u << k.pack.bits;
    for (uint32_t i = 0; k.pack.kind == KV_PACK_NUQ && i < n; i++) book[i] = sinf(((float)i / (float)(n - 1) - 0.5f) * 3.14159f);
    return k;
}

static bool fits(const char *name, bool key)
{
    kv_pack p;
    return kv_pack_parse(name, key, &p, NULL) == ERR_OK;
}

/* ---- the oracle: what an element may be at most away from what went in -------------------------------------------------- */

static void oracle_hadamard(double *v, uint32_t d)
{
    uint32_t b = 1;
    double out[MOST_D];
    while (d % (2 * b) == 0) b *= 2;
    for (uint32_t i = 0; i < d; i++) {
        out[i] = 0;
        for (uint32_t j = 0; j < b; j++) out[i] += v[i / b * b + j] * (__builtin_popcount(i % b & j) % 2 ? -1 : 1) / sqrt(b);
    }
    memcpy(v, out, d * sizeof *v);
}

/* Half a step of a range cut in 2^bits - 1, and what two f16 numbers lose. */
static double step(double range, double most, uint32_t bits)
{
    return range / ((1u << bits) - 1) / 2 + 0.002 * (range + most) + 1e-4;
}

/* The same with a scale of 4 significant bits that also reaches the minimum, 127 units away, and a grid that lies a half unit beside
 * where it should. Values' scales may be smaller where the whole group's squared error is: no element has more of it than all had. */
static double small_step(const pane_kind *k, double range, double most)
{
    double unit = (1u << k->pack.bits) / 16.0, s = 1.125 * fmax(range / ((1u << k->pack.bits) - 1), most / (127 * unit)) + 1e-6;
    return s * (0.5 + unit / 2) * (k->key ? 1 : sqrt(32)) + 1e-5 * most;
}

static double bound(const pane_kind *k, double v[N][MOST_D], uint32_t r, uint32_t c)
{
    double min = INFINITY, max = -INFINITY, most = 0;
    bool by_channel = k->pack.kind == KV_PACK_CHANNEL;
    uint32_t from = by_channel ? 0 : c / 32 * 32, to = by_channel ? N : from + 32 < k->d ? from + 32 : k->d;
    for (uint32_t i = from; i < to; i++) {
        double y = by_channel ? v[i][c] : v[r][i];
        min = fmin(min, y), max = fmax(max, y), most = fmax(most, fabs(y));
    }
    switch (k->pack.kind) {
    case KV_PACK_RAW: return k->exact == KV_F32 ? 0 : fabs(v[r][c]) * 0x1p-11 + 1e-7;
    case KV_PACK_Q8: return most / 127 / 2 + 0.002 * most;
    case KV_PACK_Q4: return most / 8 * 1.01 + 0.002 * most;       /* the other sign's end is one step short */
    default: return k->pack.small ? small_step(k, max - min, most) : step(max - min, most, k->pack.bits);
    }
}

static void check_pack(const char *name, bool key, uint32_t d, kv_format exact)
{
    static double v[N][MOST_D];
    static float out[N * LD];
    pane_kind k = kind(name, key, d, exact);
    pane_reader rd = reader(ISA_PLAIN);
    for (uint32_t r = 0; r < N; r++) {
        for (uint32_t c = 0; c < d; c++) v[r][c] = x[r * d + c];
        if (k.pack.hadamard) oracle_hadamard(v[r], d);
    }
    pane_encode(&k, x, N, bytes, &work);
    pane_decode(&rd, &k, bytes, 0, N, out);
    for (uint32_t r = 0; r < N; r++)
        for (uint32_t c = 0; c < d; c++) {
            double off = fabs(out[r * pane_ld(d) + c] - v[r][c]);
            cr_assert(off <= bound(&k, v, r, c), "%s d=%u row %u channel %u: %g for %g", name, d, r, c,
                      out[r * pane_ld(d) + c], v[r][c]);
        }
}

Test(pane, what_comes_out_is_what_the_layout_promises)
{
    uint64_t seed = support_seed();
    for (uint32_t i = 0; i < SIZES; i++) {
        draw(sizes[i], seed + i);
        for (uint32_t p = 0; p < PACKS; p++)
            for (int key = 0; key < 2; key++)
                if (fits(packs[p], key) && strncmp(packs[p], "nuq", 3))
                    check_pack(packs[p], key, sizes[i], p % 2 ? KV_F32 : KV_F16);
        check_pack("raw", true, sizes[i], KV_F32);
    }
}

/* Codebooks: inside the thresholds the nearest value of the book, outside them exact as long as there is room. */
Test(pane, a_codebook_takes_the_nearest_value_and_keeps_outliers_exact)
{
    static float out[N * LD];
    uint32_t d = 64, exact = 0;
    draw(d, support_seed());
    for (uint32_t c = 0; c < d; c++) lo[c] -= 100, hi[c] += 100;
    for (uint32_t i = 0; i < 12; i++) x[i * 97] = 1000 + (float)i;      /* room is for 21 of 2048 */
    pane_kind k = kind("nuq3", true, d, KV_F16);
    pane_reader rd = reader(ISA_PLAIN);
    pane_encode(&k, x, N, bytes, &work);
    pane_decode(&rd, &k, bytes, 0, N, out);
    for (uint32_t i = 0; i < N * d; i++) {
        double s = ((double)hi[i % d] - lo[i % d]) / 2, mid = ((double)hi[i % d] + lo[i % d]) / 2, best = INFINITY;
        for (int b = 0; b < 8; b++) best = fmin(best, fabs(book[b] * s + mid - x[i]));
        if (x[i] >= 1000) {
            cr_assert_eq(out[i], vec_f32(vec_f16(x[i])));
            exact++;
        } else cr_assert_leq(fabs(out[i] - x[i]), best + 1e-5 * (fabs(mid) + s), "element %u: %g", i, x[i]);
    }
    cr_assert_eq(exact, 12);
}

/* Room that no outlier takes goes to what the book misses most. */
Test(pane, a_codebook_leaves_no_room_empty)
{
    static float out[N * LD];
    uint32_t d = 64, kept = 0;
    draw(d, support_seed());
    for (uint32_t c = 0; c < d; c++) lo[c] = -4, hi[c] = 4;
    for (uint32_t i = 0; i < N * d; i++) x[i] = 4 * sinf(((float)(i % 8) / 7 - 0.5f) * 3.14159f);    /* all in the book */
    for (uint32_t i = 0; i < 20; i++) x[i * 97] = 0;                                          /* none in it is nearer than 0.8 */
    pane_kind k = kind("nuq3", true, d, KV_F16);
    pane_reader rd = reader(ISA_PLAIN);
    pane_encode(&k, x, N, bytes, &work);
    pane_decode(&rd, &k, bytes, 0, N, out);
    for (uint32_t i = 0; i < 20; i++) kept += out[i * 97] == 0;
    cr_assert_eq(kept, 20, "%u of 20", kept);
}

static double squared_error(const char *name, bool key, uint32_t d)
{
    static float out[N * LD];
    double sum = 0;
    pane_kind k = kind(name, key, d, KV_F16);
    pane_reader rd = reader(ISA_PLAIN);
    pane_encode(&k, x, N, bytes, &work);
    pane_decode(&rd, &k, bytes, 0, N, out);
    for (uint32_t r = 0; r < N; r++)
        for (uint32_t c = 0; c < d; c++) {
            double off = (double)out[r * pane_ld(d) + c] - (double)x[r * d + c];
            sum += off * off;
        }
    return sum;
}

/* A sixth of the room of a 2-bit pane for hardly more error in values; keys, whose ends are not cut, pay an eighth of a step. */
Test(pane, small_scales_lose_little)
{
    for (uint32_t i = 0; i < N * 64; i++) x[i] = (float)((rng_unit(support_seed(), i) - 0.5) * (1 + i % 64));
    cr_expect_lt(squared_error("token2+s", false, 64), 1.05 * squared_error("token2", false, 64));
    cr_expect_lt(squared_error("token3+s", false, 64), 1.05 * squared_error("token3", false, 64));
    cr_expect_lt(squared_error("channel3+s", true, 64), 1.3 * squared_error("channel3", true, 64));
    cr_expect_gt(squared_error("channel3+s", true, 64), 0.9 * squared_error("channel3", true, 64));
}

Test(pane, values_lose_no_range_to_outliers)
{
    static float out[N * LD];
    uint32_t d = 64;
    double worst = 0;
    draw(d, support_seed());
    for (uint32_t i = 0; i < N * d; i++) x[i] = (float)(rng_unit(3, i) - 0.5);
    for (uint32_t r = 0; r < 20; r++) x[r * d + r] = r % 2 ? 50 : -50;
    pane_kind k = kind("nuq4", false, d, KV_F16);
    pane_reader rd = reader(ISA_PLAIN);
    pane_encode(&k, x, N, bytes, &work);
    pane_decode(&rd, &k, bytes, 0, N, out);
    for (uint32_t i = 0; i < N * d; i++) worst = fmax(worst, fabs(out[i] - x[i]));
    cr_assert_lt(worst, 0.08, "%g: a row of [-0.5, 0.5] in 16 values", worst);
}

Test(pane, every_isa_decodes_the_same_bits)
{
    static float want[N * LD], got[N * LD];
    uint64_t seed = support_seed();
    for (uint32_t i = 0; i < SIZES; i++) {
        draw(sizes[i], seed + i);
        for (uint32_t p = 0; p < PACKS * 2; p++) {
            if (!fits(packs[p / 2], p % 2)) continue;
            pane_kind k = kind(packs[p / 2], p % 2, sizes[i], KV_F16);
            uint32_t n = 1 + (uint32_t)support_draw(seed, p, N), first = (uint32_t)support_draw(seed, 100 + p, N - n + 1);
            pane_encode(&k, x, N, bytes, &work);
            for (uint32_t a = 0; a < ISA_COUNT; a++) {
                pane_reader rd = reader((isa)a);
                if (!(isa_supported() >> a & 1)) continue;
                pane_decode(&rd, &k, bytes, first, n, a ? got : want);
                if (a) cr_assert(support_same(got, want, n * pane_ld(sizes[i]), packs[p / 2]), "%s", isa_name((isa)a));
            }
        }
    }
}

Test(pane, rows_of_their_own_survive_being_packed_again)
{
    static float once[N * LD], back[N * MOST_D];
    static unsigned char again[sizeof bytes];
    for (uint32_t p = 0; p < PACKS; p++) {
        uint32_t d = 64;
        draw(d, support_seed() + p);
        if (!fits(packs[p], true)) continue;
        pane_kind k = kind(packs[p], true, d, KV_F16);
        pane_reader rd = reader(ISA_PLAIN);
        if (!pane_row_alone(&k) || k.pack.kind == KV_PACK_TOKEN) continue;
        pane_encode(&k, x, N, bytes, &work);
        pane_decode(&rd, &k, bytes, 0, N, once);
        for (uint32_t r = 0; r < N; r++) {
            memcpy(back + r * d, once + r * pane_ld(d), d * sizeof *back);
            if (k.pack.hadamard) pane_hadamard(back + r * d, d);
        }
        pane_encode(&k, back, N, again, &work);
        pane_decode(&rd, &k, again, 0, N, back);
        for (uint32_t i = 0; i < N * d; i++) cr_assert_leq(fabsf(back[i] - once[i]), 1e-3f * (1 + fabsf(once[i])), "%s", packs[p]);
    }
}

Test(pane, bytes_are_the_bits_that_were_promised)
{
    const struct { const char *name; bool key; double bits; } want[] = {
        { "q8_0", true, 8.5 }, { "q4_0+h", true, 4.5 }, { "token2", false, 3 }, { "channel2", true, 3 }, { "channel4", true, 5 },
        { "token2+s", false, 2.5 }, { "channel3+s", true, 3.5 }, { "nuq3", true, 3.33 }, { "nuq2", false, 2.84 },      /* values: range and middle of a row are half a bit more at d=64 */
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        pane_kind k = kind(want[i].name, want[i].key, 64, KV_F16);
        double bits = (double)pane_bytes(&k) * 8 / (N * 64);
        cr_assert_float_eq(bits, want[i].bits, 0.2, "%s: %g bits", want[i].name, bits);
    }
}

Test(pane, the_rotation_is_its_own_inverse)
{
    float v[80], w[80];
    for (uint32_t i = 0; i < 80; i++) v[i] = w[i] = (float)rng_unit(7, i) - 0.5f;
    double oracle[MOST_D];
    for (uint32_t i = 0; i < 80; i++) oracle[i] = v[i];
    oracle_hadamard(oracle, 80);
    pane_hadamard(w, 80);
    for (uint32_t i = 0; i < 80; i++) cr_assert_float_eq(w[i], oracle[i], 1e-6);
    pane_hadamard(w, 80);
    for (uint32_t i = 0; i < 80; i++) cr_assert_float_eq(w[i], v[i], 1e-6);
}

/* Codes that lie channel by channel say the same, in fewer bytes where a group would be half empty. */
Test(pane, turned_channels_hold_the_same_values_in_less_room)
{
    static unsigned char other[sizeof bytes];
    static float a[N * LD], b[N * LD];
    for (uint32_t i = 0; i < SIZES; i++)
        for (uint32_t bits = 2; bits <= 8; bits += bits == 4 ? 4 : 1) {
            char name[16];
            uint32_t d = sizes[i], n = i % 2 ? N : 19;
            draw(d, support_seed() + i);
            snprintf(name, sizeof name, "channel%u%s", bits, i % 3 ? "" : "+s");
            pane_kind k = kind(name, true, d, KV_F16), t = k;
            t.turned = true;
            pane_encode(&k, x, n, bytes, &work);
            pane_encode(&t, x, n, other, &work);
            cr_expect(d % 32 ? pane_bytes(&t) < pane_bytes(&k) : pane_bytes(&t) == pane_bytes(&k), "%s %u", name, d);
            for (uint32_t s = 0; s < ISA_COUNT; s++) {
                pane_reader r = reader((isa)s);
                uint32_t first = s % 2 ? 5 : 0;
                if (!(isa_supported() >> s & 1)) continue;
                pane_decode(&r, &k, bytes, first, n - first, a);
                pane_decode(&r, &t, other, first, n - first, b);
                for (uint32_t row = 0; row < n - first; row++)
                    cr_assert_arr_eq(a + row * pane_ld(d), b + row * pane_ld(d), d * sizeof *a, "%s d %u row %u isa %u", name, d, row, s);
            }
        }
}
