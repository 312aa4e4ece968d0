/* engine/kernels.h: the ISAs agree bit for bit, and the reference agrees with arithmetic in double. */
#include "core/rng.h"
#include "engine/bf16.h"
#include "engine/kernels.h"
#include "engine/packed.h"
#include "tests/support_amx.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t seed = 20240607;

static void announce(void)
{
    const char *s = getenv("TEST_SEED");
    if (s) seed = strtoull(s, NULL, 10);
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
}
TestSuite(kernels, .init = announce);

static float uniform(uint64_t i, float lo, float hi)
{
    return lo + (hi - lo) * (float)rng_unit(seed, i);
}

/* A product to compute. The weights end where a page that may not be read begins. */
typedef struct {
    mat w;
    act a;
    uint32_t T;
    size_t ldy;
    uint8_t *map;
    size_t map_bytes;
    float *x, *y;
} rig;

static void *zeroed(size_t n, size_t size)
{
    void *p = calloc(n, size);
    cr_assert_not_null(p);
    return p;
}

static void rig_weights(rig *r, wtype t, uint32_t n_out, uint32_t n_in)
{
    size_t row = wtype_row_bytes(t, n_in), page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = row * n_out, room = (bytes + page - 1) / page * page;
    r->map_bytes = room + page;
    r->map = mmap(NULL, r->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(r->map != MAP_FAILED);
    cr_assert_eq(mprotect(r->map + room, page, PROT_NONE), 0);
    r->w = (mat){ t, n_out, n_in, row, r->map + room - bytes, false };
}

static rig rig_open(wtype t, uint32_t n_out, uint32_t n_in, uint32_t T)
{
    rig r = { .T = T, .ldy = n_out + 3 };
    rig_weights(&r, t, n_out, n_in);
    size_t ld = ((size_t)n_in + 31) / 32 * 32 + 32;
    r.x = zeroed(T * ld, sizeof *r.x);
    r.a = (act){ n_in, ld, r.x, zeroed(T * ld, 1), zeroed(T * ld / 32, sizeof(float)), zeroed(T * ld / 16, sizeof(int16_t)),
                 zeroed(T * ld / 32, sizeof(act_sums)), zeroed(T, act_bytes_bf16(ld)) };
    r.y = zeroed(T * r.ldy, sizeof *r.y);
    for (size_t i = 0; i < T * ld; i++) r.x[i] = uniform(i, -2, 2) * uniform(i / 32 + 900000, 0, 3);
    return r;
}

static void rig_close(rig *r)
{
    munmap(r->map, r->map_bytes);
    free(r->x);
    free(r->y);
    free(r->a.q);
    free(r->a.d);
    free(r->a.s);
    free(r->a.z);
    free(r->a.h);
}

static void put_half(uint8_t *p, float v)
{
    f16 h = vec_f16(v);
    memcpy(p, &h, sizeof h);
}

/* Where the halves d and dmin (or m) are; 0 for dmin: none. */
static const struct { uint32_t d, dmin; } half_at[WTYPE_COUNT] = {
    [WTYPE_Q4_1] = { 0, 2 }, [WTYPE_Q5_1] = { 0, 2 },   [WTYPE_Q2_K] = { 80, 82 }, [WTYPE_Q3_K] = { 108, 0 },
    [WTYPE_Q4_K] = { 0, 2 }, [WTYPE_Q5_K] = { 0, 2 },   [WTYPE_Q6_K] = { 208, 0 },
};

/* Random bytes, then scales of ordinary size where the type keeps them. */
static void fill_weights(rig *r, uint64_t salt)
{
    uint8_t *p = (uint8_t *)(uintptr_t)r->w.data;
    const wtype_info *t = &wtypes[r->w.type];
    size_t n = r->w.row_bytes * r->w.n_out;
    for (size_t i = 0; i < n; i += t->bytes) {
        for (uint32_t b = 0; b < t->bytes; b++) p[i + b] = (uint8_t)rng_u64(seed ^ salt, i + b);
        float v = uniform(salt + i, -1, 1);
        uint32_t u;
        memcpy(&u, &v, sizeof u);
        if (r->w.type == WTYPE_F32) memcpy(p + i, &v, 4);
        else if (r->w.type == WTYPE_F16) put_half(p + i, v);
        else if (r->w.type == WTYPE_BF16) memcpy(p + i, (uint8_t *)&u + 2, 2);
        else put_half(p + i + half_at[r->w.type].d, v * 0.02f);
        if (half_at[r->w.type].dmin) put_half(p + i + half_at[r->w.type].dmin, v * 0.1f);
    }
}

static const float UNTOUCHED = -12345.5f;

static float *product_of(rig *r, const kernels *k, path_id p, uint32_t o0, uint32_t o1)
{
    for (size_t j = 0; j < r->T * r->ldy; j++) r->y[j] = UNTOUCHED;
    if (kernels_wants_q(p, r->w.type)) k->quantize(&r->a, 0, r->T);
    if (kernels_wants_bf16(p, r->w.type)) k->round_bf16(&r->a, 0, r->T);
    kernels_matmul(k, p, &r->w, &r->a, r->T, r->y, r->ldy, o0, o1);
    float *y = malloc(r->T * r->ldy * sizeof *y);
    memcpy(y, r->y, r->T * r->ldy * sizeof *y);
    return y;
}

static float *product(rig *r, isa i, path_id p, uint32_t o0, uint32_t o1)
{
    return product_of(r, kernels_for(i), p, o0, o1);
}

static bool same(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

/* The same weights, packed; they too end where memory ends. */
typedef struct { uint8_t *map; size_t bytes; mat from; } packed_rig;

static packed_rig pack(rig *r)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = packed_bytes(r->w.type, r->w.n_out, r->w.n_in);
    size_t room = (bytes + page - 1) / page * page;
    packed_rig p = { mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), room + page, r->w };
    cr_assert(p.map != MAP_FAILED);
    cr_assert_eq(mprotect(p.map + room, page, PROT_NONE), 0);
    packed_make(&r->w, 0, (r->w.n_out + PACKED_GROUP - 1) / PACKED_GROUP, p.map + room - bytes);
    r->w.data = p.map + room - bytes;
    r->w.packed = true;
    return p;
}

static void unpack(rig *r, packed_rig *p)
{
    r->w = p->from;
    munmap(p->map, p->bytes);
}

/* a: the product in plain C with the weights in file order. */
static void check_same_kernels(rig *r, const float *a, const kernels *with, bool packed, path_id p, uint32_t o0, uint32_t o1)
{
    float *b;
    packed_rig twin;
    if (packed) twin = pack(r);
    b = product_of(r, with, p, o0, o1);
    if (packed) unpack(r, &twin);
    for (uint32_t t = 0; t < r->T; t++)
        for (uint32_t o = 0; o < r->ldy; o++) {
            float u = a[t * r->ldy + o], v = b[t * r->ldy + o];
            cr_assert(same(u, v), "%s %s %ux%u T=%u range %u-%u: y[%u][%u] is %a (plain) and %a (%s%s), seed %llu",
                      wtypes[r->w.type].name, path_name(p), r->w.n_out, r->w.n_in, r->T, o0, o1, t, o, (double)u, (double)v,
                      with->name, packed ? ", packed" : "", (unsigned long long)seed);
            cr_assert((o >= o0 && o < o1) || u == UNTOUCHED, "y[%u][%u] was written outside %u-%u", t, o, o0, o1);
            cr_assert(o < o0 || o >= o1 || u != UNTOUCHED, "y[%u][%u] was not written", t, o);
        }
    free(b);
}

static void check_same(rig *r, path_id p, uint32_t o0, uint32_t o1)
{
    float *a = product(r, ISA_PLAIN, p, o0, o1);
    for (isa i = 0; i < ISA_COUNT; i++)
        for (int packed = i == ISA_PLAIN; packed < 2 && isa_supported() >> i & 1; packed++)
            check_same_kernels(r, a, kernels_for(i), packed, p, o0, o1);
    kernels amx;
    bool tiles = support_amx(&amx), both = support_amx_bf16(&amx) && tiles;
    if (p == PATH_BF16AMX && both) check_same_kernels(r, a, &amx, false, p, o0, o1);
    if (p == PATH_BF16AMX ? both : tiles) check_same_kernels(r, a, &amx, true, p, o0, o1);
    free(a);
}

static bool have_avx2(void)
{
    if (isa_supported() >> ISA_AVX2 & 1) return true;
    cr_skip("no AVX2 on this machine");
    return false;
}

static const uint32_t row_counts[] = { 1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 67, 195 };
enum { ROW_COUNTS = sizeof row_counts / sizeof *row_counts };

static void check_shapes(wtype t, path_id p)
{
    uint32_t step = wtypes[t].block == 1 ? 1 : wtypes[t].block;
    for (uint32_t i = 0; i < 3 * ROW_COUNTS; i++) {
        uint32_t n_out = 1 + (uint32_t)rng_u64(seed + 1, i) % 77, T = row_counts[i % ROW_COUNTS];
        uint32_t n_in = step * (1 + (uint32_t)rng_u64(seed + 2, i) % (step == 1 ? 600 : step == 32 ? 20 : 3));
        if (T > 100) n_in = step == 1 ? 33 : step;                       /* as many rows as make a second pass, few columns */
        rig r = rig_open(t, n_out, n_in, T);
        fill_weights(&r, i);
        uint32_t mid = n_out / 2 / KERNELS_GRAIN * KERNELS_GRAIN;
        check_same(&r, p, 0, n_out);
        check_same(&r, p, mid, n_out);
        if (mid) check_same(&r, p, 0, mid);
        rig_close(&r);
    }
}

Test(kernels, every_isa_gives_the_same_bits_on_the_quantised_path)
{
    for (wtype t = 0; have_avx2() && t < WTYPE_COUNT; t++) check_shapes(t, PATH_I8B32);
}

Test(kernels, every_isa_gives_the_same_bits_on_the_float_path)
{
    for (wtype t = 0; have_avx2() && t < WTYPE_COUNT; t++) check_shapes(t, PATH_F32);
}

/* Activations of every size, denormals and some near infinity among them, sums that nearly cancel; every third row so small that its sums are
 * about 2^-126. */
static void hard_inputs(rig *r, uint64_t salt)
{
    static const float odd[] = { 0, -0.0f, 1e-45f, -3e-39f, 0x1p-126f, -0x1.fffffep-127f, 0x1.fep-126f, 1e-30f, 3.3e38f, -1, 1.00390625f };
    size_t n = r->T * r->a.ld;
    for (size_t i = 0; i < n; i++) {
        uint64_t u = rng_u64(seed ^ salt, i);
        if (i / r->a.ld % 3 == 1) r->x[i] = ldexpf(uniform(i, -2, 2), -116 - (int)(i / r->a.ld + u % 3) % 12);
        else if (u % 4 == 0) r->x[i] = odd[(u >> 8) % (sizeof odd / sizeof *odd)];
        else if (u % 4 == 1) r->x[i] = ldexpf(uniform(i, -2, 2), -(int)(u >> 8) % 150);
        else if (u % 4 == 2 && i > 1) r->x[i] = -r->x[i - 2];
    }
}

Test(kernels, bf16_numbers_round_to_even_and_have_no_denormals)
{
    static const struct { float v; uint16_t want; } rounds[] = {
        { 1, 0x3f80 },          { 0x1.01p0f, 0x3f80 },     { 0x1.03p0f, 0x3f82 },   { 0x1.010002p0f, 0x3f81 }, { -0x1.01p0f, 0xbf80 },
        { 0x1p-126f, 0x0080 },  { 0x1.fffffcp-127f, 0 },   { -1e-45f, 0x8000 },     { 0x1.fffffep127f, 0x7f80 },
        { -INFINITY, 0xff80 },  { 0x1.fep127f, 0x7f7f },   { 0x1.feffp127f, 0x7f7f },
    };
    for (size_t i = 0; i < sizeof rounds / sizeof *rounds; i++)
        cr_assert_eq(bf16_round(rounds[i].v), rounds[i].want, "%a to %04x", (double)rounds[i].v, bf16_round(rounds[i].v));
    for (uint32_t n = 0; n < 3; n++) cr_assert(isnan(bf16_float(bf16_round(bits_float(0x7f800001u + 0x3fffffu * n)))));
    static const struct { float w, x, sum, want; } fmas[] = {
        { 3, 5, 7, 22 },
        { 0x1p-100f, 0x1p-27f, 0, 0 },                             /* a denormal */
        { 0x1p-100f, -0x1p-27f, 0, -0.0f },
        { 0x1p-100f, 0x1p-27f, 0x1p-127f, 0 },                     /* with one that comes in */
        { 0x1p-100f, 0x1p-26f, -0x1p-127f, 0x1p-126f },
        { 0x1p-75f, -0x1.8p-77f, 0x1p-126f, 0x1p-126f },           /* 24 bits say 2^-126 */
        { 0x1p-75f, -0x1.4p-76f, 0x1p-126f, 0 },                   /* a little less, though f32 would show 2^-126 */
        { 0x1p-75f, 0x1.4p-76f, -0x1p-126f, -0.0f },
    };
    for (size_t i = 0; i < sizeof fmas / sizeof *fmas; i++) {
        float v = bf16_fma(fmas[i].w, fmas[i].x, fmas[i].sum);
        cr_assert(same(v, fmas[i].want), "%zu: %a, want %a", i, (double)v, (double)fmas[i].want);
    }
    cr_assert(same(bf16_add(0x1.8p-126f, -0x1p-126f), 0) && same(bf16_add(0x1p-127f, 1), 1));
}

static void check_bf16(wtype t, uint32_t n_out, uint32_t n_in, uint32_t T, uint64_t salt, bool hard)
{
    rig r = rig_open(t, n_out, n_in, T);
    fill_weights(&r, salt);
    if (hard) hard_inputs(&r, salt);
    check_same(&r, PATH_BF16AMX, 0, n_out);
    uint32_t mid = n_out / 2 / KERNELS_GRAIN * KERNELS_GRAIN;
    if (hard && mid) check_same(&r, PATH_BF16AMX, mid, n_out);
    rig_close(&r);
}

/* Row counts that fill tiles, leave rests of one strip and of two, and make a second pass (of 192 and 256 rows; of tiles one of 512). */
Test(kernels, every_isa_gives_the_same_bits_on_the_bf16_path)
{
    static const uint32_t rows[] = { 1, 2, 6, 15, 16, 17, 31, 32, 33, 47, 70 };
    for (wtype t = 0; have_avx2() && t < WTYPE_COUNT; t++) {
        uint32_t step = wtypes[t].block == 256 ? 256 : 32, n = sizeof rows / sizeof *rows;
        for (uint32_t i = 0; i < 2 && wtypes[t].quant; i++)
            check_bf16(t, 1 + (uint32_t)rng_u64(seed + 3, t * 2 + i) % 70, step * (1 + (uint32_t)rng_u64(seed + 4, i + t) % (512 / step)),
                       rows[(2 * t + i) % n], 50 + t + i, i);
    }
    for (uint32_t i = 0; have_avx2() && i < sizeof rows / sizeof *rows; i++) check_bf16(WTYPE_Q4_0, 33, 64, rows[i], i, true);
    if (have_avx2()) check_bf16(WTYPE_Q8_0, 20, 32, 530, 9, true), check_bf16(WTYPE_Q4_0, 17, 1184, 34, 10, true);
    for (wtype t = 0; t < WTYPE_COUNT; t++)
        if (!wtypes[t].quant && have_avx2()) check_bf16(t, 20, 70, 5, 20 + t, false);
}

Test(kernels, an_infinite_scale_is_infinite_on_the_bf16_path)
{
    static const struct { wtype t; uint8_t fill; } blocks[] = { { WTYPE_Q8_0, 5 }, { WTYPE_Q4_0, 0x99 }, { WTYPE_Q4_1, 0x99 }, { WTYPE_Q6_K, 0xaa } };
    for (size_t i = 0; have_avx2() && i < sizeof blocks / sizeof *blocks; i++) {
        rig r = rig_open(blocks[i].t, 20, wtypes[blocks[i].t].block, 3);
        memset((uint8_t *)(uintptr_t)r.w.data, blocks[i].fill, r.w.row_bytes * 20);
        for (uint32_t o = 0; o < 20; o++) put_half((uint8_t *)(uintptr_t)r.w.data + o * r.w.row_bytes + half_at[r.w.type].d, o % 3 ? 1 : INFINITY);
        for (size_t k = 0; k < r.T * r.a.ld; k++) r.x[k] = 1 + (float)(k % 7);
        float *y = product(&r, ISA_PLAIN, PATH_BF16AMX, 0, 20);
        for (uint32_t o = 0; o < 20; o++) cr_assert(o % 3 ? isfinite(y[o]) : isinf(y[o]), "%s y[%u] = %g", wtypes[r.w.type].name, o, (double)y[o]);
        free(y);
        check_same(&r, PATH_BF16AMX, 0, 20);
        rig_close(&r);
    }
}

Test(kernels, hostile_blocks_neither_crash_nor_differ)
{
    static const uint8_t fills[] = { 0xff, 0x00, 0x80, 0x7f, 0x7c };
    for (wtype t = 0; have_avx2() && t < WTYPE_COUNT; t++)
        for (unsigned f = 0; f < sizeof fills; f++)
            for (uint32_t T = 1; T < 20; T += T < 5 ? 4 : 13) {
                rig r = rig_open(t, 11, 512, T);
                memset((uint8_t *)(uintptr_t)r.w.data, fills[f], r.w.row_bytes * r.w.n_out);
                check_same(&r, PATH_I8B32, 0, 11);
                check_same(&r, PATH_F32, 0, 11);
                if (T == 5) check_same(&r, PATH_BF16AMX, 0, 11);
                rig_close(&r);
            }
}

/* Every byte of a block but d and dmin. */
static void fill_block(wtype t, uint8_t *p, uint8_t fill)
{
    uint8_t d[2], m[2];
    memcpy(d, p + half_at[t].d, 2);
    memcpy(m, p + half_at[t].dmin, 2);
    memset(p, fill, wtypes[t].bytes);
    if (half_at[t].dmin) memcpy(p + half_at[t].dmin, m, 2);
    memcpy(p + half_at[t].d, d, 2);
    if (t == WTYPE_Q6_K) memset(p + 192, 0x80, 16);
}

static void check_extremes(wtype t, uint8_t fill, int sign, uint32_t T)
{
    rig r = rig_open(t, 8, 512, T);
    fill_weights(&r, 3);
    uint8_t *p = (uint8_t *)(uintptr_t)r.w.data;
    for (size_t u = 0; u < r.w.row_bytes * 8; u += wtypes[t].bytes) fill_block(t, p + u, fill);
    for (size_t i = 0; i < T * r.a.ld; i++) r.x[i] = (float)sign * 3;
    check_same(&r, PATH_I8B32, 0, 8);
    rig_close(&r);
}

/* The largest integers that a block can make: the top or the bottom of each type against +-127 everywhere. */
Test(kernels, extreme_weights_and_inputs_do_not_saturate)
{
    static const uint8_t fills[] = { 0xff, 0x00, 0x80, 0x7f };
    for (wtype t = 0; have_avx2() && t < WTYPE_COUNT; t++)
        for (unsigned f = 0; wtypes[t].quant && f < sizeof fills; f++)
            for (int sign = -1; sign <= 1; sign += 2)
                for (uint32_t T = 1; T < 20; T += T < 5 ? 4 : 13) check_extremes(t, fills[f], sign, T);
}

/* What y should be, in double, from the inputs that the path really uses, and a bound on the rounding. */
static double oracle(const rig *r, bool quant, const float *w, uint32_t t, double *bound)
{
    double y = 0, size = 0;
    for (uint32_t k = 0; k < r->w.n_in; k++) {
        size_t at = t * r->a.ld + k;
        double x = quant ? (double)r->a.d[at / 32] * r->a.q[at] : (double)r->x[at];
        y += w[k] * x;
        size += fabs(w[k] * x);
    }
    *bound = size * r->w.n_in * 0x1p-24 + 1e-30;
    return y;
}

static void check_oracle(wtype t, path_id p)
{
    rig r = rig_open(t, 19, 512, 5);
    fill_weights(&r, 77);
    bool quant = kernels_wants_q(p, t);
    free(product(&r, ISA_PLAIN, p, 0, 19));
    float *w = zeroed(512, sizeof *w);
    for (uint32_t o = 0; o < 19; o++) {
        wtype_to_f32(t, r.w.data + o * r.w.row_bytes, 512, w);
        for (uint32_t row = 0; row < r.T; row++) {
            double bound, want = oracle(&r, quant, w, row, &bound), got = r.y[row * r.ldy + o];
            cr_assert(fabs(got - want) <= bound, "%s %s y[%u][%u] = %.9g, want %.9g within %.3g", wtypes[t].name,
                      path_name(p), row, o, got, want, bound);
        }
    }
    free(w);
    rig_close(&r);
}

Test(kernels, the_reference_is_close_to_arithmetic_in_double)
{
    for (wtype t = 0; t < WTYPE_COUNT; t++) {
        check_oracle(t, PATH_F32);
        check_oracle(t, PATH_I8B32);
    }
}

Test(kernels, a_row_has_the_same_bits_alone_and_in_a_batch)
{
    uint32_t have = isa_supported();
    for (wtype t = 0; t < WTYPE_COUNT; t++)
        for (isa i = 0; i < ISA_COUNT; i++) {
            if (!(have >> i & 1)) continue;
            rig r = rig_open(t, 13, 256, 70);
            fill_weights(&r, 5);
            float *all = product(&r, i, PATH_I8B32, 0, 13), *alone = zeroed(13, sizeof *alone);
            for (uint32_t row = 0; row < 70; row++) {
                size_t at = row * r.a.ld;
                act one = { 256, r.a.ld, r.a.x + at, r.a.q + at, r.a.d + at / 32, r.a.s + at / 16, r.a.z + at / 32, NULL };
                kernels_matmul(kernels_for(i), PATH_I8B32, &r.w, &one, 1, alone, 13, 0, 13);
                cr_assert_eq(memcmp(alone, all + row * r.ldy, 13 * sizeof *alone), 0, "%s %s row %u", isa_name(i),
                             wtypes[t].name, row);
            }
            free(all);
            free(alone);
            rig_close(&r);
        }
}

static void check_quantize(float *x, const char *what)
{
    int8_t q[2][64];
    float d[2][2];
    int16_t s[2][4];
    act_sums z[2][2];
    for (isa i = 0; i < 2; i++) {
        act a = { 64, 64, x, q[i], d[i], s[i], z[i], NULL };
        kernels_for(i)->quantize(&a, 0, 1);
    }
    for (int b = 0; b < 2; b++) cr_assert(same(d[0][b], d[1][b]), "%s: d %a and %a", what, (double)d[0][b], (double)d[1][b]);
    for (int i = 0; i < 64; i++) {
        cr_assert_eq(q[0][i], q[1][i], "%s: q[%d] of %a is %d and %d", what, i, (double)x[i], q[0][i], q[1][i]);
        cr_assert(q[0][i] >= -127);
    }
    for (int h = 0, i = 0; h < 4; h++) {
        int sum = 0;
        for (int n = 0; n < 16; n++) sum += q[0][i++];
        cr_assert_eq(s[0][h], sum, "%s", what);
        cr_assert_eq(s[1][h], sum, "%s", what);
    }
}

Test(kernels, quantisation_is_the_same_on_every_isa_with_ties_and_extremes)
{
    if (!have_avx2()) return;
    float x[64];
    for (int i = 0; i < 64; i++) x[i] = (float)(i % 32) - 15.5f;          /* d = 1: all but the first are ties */
    x[0] = x[32] = 127;
    check_quantize(x, "ties");
    static const float odd[] = { 0, -0.0f, 1e-45f, 3e-38f, 1e-36f, 3.4e38f, INFINITY, -INFINITY, NAN, 1 };
    for (int i = 0; i < 64; i++) x[i] = odd[i % 10];
    check_quantize(x, "extremes");
    for (unsigned e = 0; e < 10; e++) {
        for (int i = 0; i < 64; i++) x[i] = i == 40 ? odd[e] : 0;
        check_quantize(x, "one value");
    }
    for (uint64_t n = 0; n < 20000; n++) {
        float size = ldexpf(1, (int)(rng_u64(seed, n) % 250) - 130);
        for (int i = 0; i < 64; i++) x[i] = uniform(n * 64 + (uint64_t)i, -1, 1) * size;
        check_quantize(x, "random");
    }
}

Test(kernels, quantisation_rounds_ties_to_even_and_shows_a_nan)
{
    float x[32] = { 127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f }, d;
    int8_t q[32];
    int16_t s[2];
    act_sums z;
    act a = { 32, 32, x, q, &d, s, &z, NULL };
    for (isa i = 0; i < ISA_COUNT; i++) {
        if (!(isa_supported() >> i & 1)) continue;
        x[31] = 0;
        kernels_for(i)->quantize(&a, 0, 1);
        static const int8_t want[7] = { 127, 0, 2, 2, 0, -2, -2 };
        cr_assert_eq(memcmp(q, want, sizeof want), 0);
        cr_assert_eq(d, 1.0f);
        x[31] = NAN;
        kernels_for(i)->quantize(&a, 0, 1);
        cr_assert(isnan(d));
    }
}

/* Every type, odd sizes: what was packed comes back byte for byte, also as floats. */
Test(kernels, packing_loses_nothing)
{
    for (wtype t = 0; t < WTYPE_COUNT; t++)
        for (uint32_t n_out = 1; n_out < 40; n_out += 6) {
            uint32_t n_in = wtypes[t].block * 3;
            rig r = rig_open(t, n_out, n_in, 1);
            for (size_t i = 0; i < r.w.row_bytes * n_out; i++) ((uint8_t *)(uintptr_t)r.w.data)[i] = (uint8_t)rng_u64(seed + t, i);
            packed_rig p = pack(&r);
            uint8_t *row = malloc(r.w.row_bytes);
            float *f = malloc(n_in * sizeof *f), *g = malloc(n_in * sizeof *g);
            for (uint32_t o = 0; o < n_out; o++) {
                packed_get(&r.w, o, 0, 3, row);
                cr_assert_eq(memcmp(row, p.from.data + o * r.w.row_bytes, r.w.row_bytes), 0, "%s row %u of %u, seed %llu",
                             wtypes[t].name, o, n_out, (unsigned long long)seed);
                mat_row_f32(&r.w, o, 0, n_in, f);
                mat_row_f32(&p.from, o, 0, n_in, g);
                cr_assert_eq(memcmp(f, g, n_in * sizeof *f), 0, "%s row %u", wtypes[t].name, o);
            }
            free(row);
            free(f);
            free(g);
            unpack(&r, &p);
            rig_close(&r);
        }
}

Test(kernels, the_counters_tell_few_rows_from_many)
{
    rig r = rig_open(WTYPE_Q8_0, 8, 64, 8);
    fill_weights(&r, 1);
    kernel_counts a = kernels_counted();
    free(product(&r, ISA_PLAIN, PATH_I8B32, 0, 8));
    r.T = 1;
    free(product(&r, ISA_PLAIN, PATH_I8B32, 0, 8));
    free(product(&r, ISA_PLAIN, PATH_F32, 0, 8));
    kernel_counts b = kernels_counted();
    cr_assert_eq(b.quant_many - a.quant_many, 1);
    cr_assert_eq(b.quant_few - a.quant_few, 1);
    cr_assert_eq(b.float_few - a.float_few, 1);
    cr_assert_eq(b.float_many - a.float_many, 0);
    r.T = 8;
    rig_close(&r);
}
