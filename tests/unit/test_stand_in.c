/* Stand-ins: the fit finds a map that is there, a shard loads its part of a file and nothing that does not fit, and a step with them is what the
 * formulas say, row by row, whatever the threads and the neighbours. */
#include "engine/forward.h"
#include "engine/stand_fit.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 24, CTX = 64, RANK = 32 };

static char dir[64], path[96];
static gguf *file;
static model_shape shape;

static void open_all(void)
{
    err e;
    snprintf(dir, sizeof dir, "/tmp/sluice-stand-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/m.profile.gguf", dir);
    cr_assert_eq(gguf_open(&file, support_root("models/sluice-tiny-aux-Q8_0.gguf"), &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_shape_read(&shape, file, &e), ERR_OK, "%s", e.text);
}

static void close_all(void)
{
    gguf_close(&file);
    unlink(path);
    cr_assert_eq(rmdir(dir), 0);
}

TestSuite(stand_in, .init = open_all, .fini = close_all, .timeout = 300);

/* ---- the fit ------------------------------------------------------------------------------------------------------- */

/* y = B A x + c with a little noise: what comes back predicts as well as that, and a map of lower rank does not. */
Test(stand_in, a_low_rank_map_is_found)
{
    enum { D = 24, TRUE_RANK = 3, N = 400 };
    uint64_t seed = support_seed();
    err e;
    float *mem = malloc((2 * N * D + 4 * D * D) * sizeof *mem), *x = mem, *y = x + N * D, *a0 = y + N * D, *b0 = a0 + D * D, *a = b0 + D * D, *b = a + D * D, bias[D];
    double *sums = calloc(stand_fit_doubles(D), sizeof *sums);
    cr_assert(mem && sums);
    support_fill(x, N * D, seed, -2, 3);
    support_fill(y, N * D, seed + 1, -0.01f, 0.01f);
    support_fill(a0, TRUE_RANK * D, seed + 2, -1, 1);
    support_fill(b0, TRUE_RANK * D, seed + 3, -1, 1);
    for (uint32_t t = 0; t < N; t++)
        for (uint32_t o = 0; o < D; o++) {
            y[t * D + o] += 5;
            for (uint32_t k = 0; k < TRUE_RANK; k++)
                for (uint32_t i = 0; i < D; i++) y[t * D + o] += b0[o * TRUE_RANK + k] * a0[k * D + i] * x[t * D + i];
        }
    for (uint32_t t = 0; t < N; t += 50) cr_assert_eq(stand_fit_add(sums, D, x + t * D, y + t * D, 50, t % 200 == 0, &e), ERR_OK, "%s", e.text);
    stand_note note, poor;
    cr_assert_eq(stand_fit_solve(sums, D, 1, a, b, bias, &poor, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(stand_fit_solve(sums, D, TRUE_RANK, a, b, bias, &note, &e), ERR_OK, "%s", e.text);
    printf("# error of rank %d: %.2g, of rank 1: %.2g\n", TRUE_RANK, note.error, poor.error);
    cr_expect(note.error < 1e-4 && poor.error > 0.05);
    for (uint32_t t = 0; t < N; t += 37)
        for (uint32_t o = 0; o < D; o++) {
            double got = (double)bias[o];
            for (uint32_t k = 0; k < TRUE_RANK; k++)
                for (uint32_t i = 0; i < D; i++) got += (double)b[o * TRUE_RANK + k] * (double)a[k * D + i] * (double)x[t * D + i];
            cr_expect(fabs(got - (double)y[t * D + o]) < 0.05, "row %u, output %u: %g, want %g", t, o, got, (double)y[t * D + o]);
        }
    free(mem);
    free(sums);
}

Test(stand_in, rows_to_fit_and_rows_held_out_are_needed)
{
    enum { D = 4 };
    float x[8 * D], m[2 * D], bias[D];
    double sums[2 * ((D + 1) * (D + 1) + (D + 1) * D + 1)] = { 0 };
    stand_note note;
    err e;
    cr_assert_eq(stand_fit_doubles(D), sizeof sums / sizeof *sums);
    support_fill(x, 8 * D, support_seed(), -1, 1);
    cr_assert_eq(stand_fit_add(sums, D, x, x, 8, false, &e), ERR_OK);
    cr_expect_eq(stand_fit_solve(sums, D, 2, m, m, bias, &note, &e), ERR_INPUT);
    cr_expect(strstr(e.text, "8 rows to fit and 0 held out"), "%s", e.text);
}

/* ---- the file ------------------------------------------------------------------------------------------------------ */

static float *numbers(size_t n, uint64_t seed, float most)
{
    float *x = malloc(n * sizeof *x);
    cr_assert_not_null(x);
    support_fill(x, n, seed, -most, most);
    return x;
}

/* Low ranks of the inner layers and ratios of all. b_rows: of b, to spoil it. */
static void write_profile(uint64_t seed, double rank, uint64_t b_rows)
{
    profile_writer *w;
    err e;
    double order[MASK_LAYERS], ratio[MASK_LAYERS];
    profile_binding bound = { gguf_digest(file), "", "i8b32" };
    cr_assert_eq(profile_writer_open(&w, path, &bound, shape.L, 1u << PROFILE_STAND | 1u << PROFILE_ROUTE, &e), ERR_OK, "%s", e.text);
    for (uint32_t l = 1; l + 1 < shape.L; l++) {
        float *a = numbers((size_t)RANK * shape.D, seed + 3 * l, 0.1f), *b = numbers(b_rows * RANK, seed + 3 * l + 1, 0.1f), *bias = numbers(shape.D, seed + 3 * l + 2, 1);
        profile_put_floats(w, PROFILE_STAND, l, "a", WTYPE_Q8_0, shape.D, RANK, a);
        profile_put_floats(w, PROFILE_STAND, l, "b", WTYPE_Q8_0, RANK, b_rows, b);
        profile_put_floats(w, PROFILE_STAND, l, "bias", WTYPE_F32, shape.D, 1, bias);
        free(a);
        free(b);
        free(bias);
    }
    for (uint32_t l = 0; l < shape.L; l++) order[l] = (l + 1) % shape.L, ratio[l] = 1 + 0.1 * (l + 1);
    profile_put_number(w, PROFILE_STAND, "rank", rank);
    profile_put_numbers(w, PROFILE_STAND, "order", order, shape.L);
    profile_put_numbers(w, PROFILE_ROUTE, "ratio_ffn", ratio, shape.L);
    for (uint32_t l = 0; l < shape.L; l++) ratio[l] += 0.05;
    profile_put_numbers(w, PROFILE_ROUTE, "ratio_attn", ratio, shape.L);
    cr_assert_eq(profile_writer_commit(w, &e), ERR_OK, "%s", e.text);
    profile_writer_close(&w);
}

static stand_ins *opened(uint32_t first, uint32_t last)
{
    err e;
    profile *p;
    stand_ins *s;
    cr_assert_eq(profile_open(&p, path, NULL, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(stand_ins_open(&s, p, &shape, first, last, &e), ERR_OK, "%s", e.text);
    profile_close(&p);
    return s;
}

Test(stand_in, a_shard_has_its_layers_and_all_shards_the_same_id)
{
    write_profile(7, RANK, shape.D);
    stand_ins *all = opened(0, shape.L), *part = opened(1, 2), *none = opened(2, 2);
    cr_assert_not_null(all);
    for (int k = MASK_LOW_RANK; k < MASK_STANDS; k++) {
        cr_expect_neq(stand_ins_id(all, (mask_stand)k), 0);
        cr_expect_eq(stand_ins_id(all, (mask_stand)k), stand_ins_id(part, (mask_stand)k));
        cr_expect_eq(stand_ins_id(all, (mask_stand)k), stand_ins_id(none, (mask_stand)k));
    }
    cr_expect_null(stand_in_ffn(all, 0));
    cr_expect_null(stand_in_ffn(all, shape.L - 1));
    cr_expect_null(stand_in_ffn(part, 2));
    const low_rank *a = stand_in_ffn(all, 1), *b = stand_in_ffn(part, 1);
    cr_assert(a && b);
    cr_expect_eq(memcmp(a->b.data, b->b.data, a->b.row_bytes * a->b.n_out), 0);
    cr_expect_eq(stand_ins_order(all)[0], 1u);
    cr_expect_float_eq(stand_in_scale(all, 2, true), 1.3f, 1e-6f);
    cr_expect_float_eq(stand_in_scale(all, 2, false), 1.35f, 1e-6f);
    uint32_t was = stand_ins_id(all, MASK_LOW_RANK), ratios = stand_ins_id(all, MASK_SCALED);
    stand_ins_close(&all);
    stand_ins_close(&part);
    stand_ins_close(&none);
    write_profile(8, RANK, shape.D);
    all = opened(0, shape.L);
    cr_expect_neq(stand_ins_id(all, MASK_LOW_RANK), was, "other stand-ins have the same id");
    cr_expect_eq(stand_ins_id(all, MASK_SCALED), ratios);
    stand_ins_close(&all);
}

Test(stand_in, what_does_not_fit_the_model_is_named)
{
    static const struct { double rank; int more; const char *word; } bad[] = { { 0, 0, "stand.rank" }, { 1e9, 0, "stand.rank" }, { 31.5, 0, "stand.rank" }, { 64, 0, "stand.1.a" }, { RANK, 32, "stand.1.b" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err e = { 0 };
        profile *p;
        stand_ins *s = NULL;
        write_profile(9, bad[i].rank, shape.D + (uint64_t)bad[i].more);
        cr_assert_eq(profile_open(&p, path, NULL, &e), ERR_OK, "%s", e.text);
        cr_expect_eq(stand_ins_open(&s, p, &shape, 0, shape.L, &e), ERR_MODEL);
        cr_expect(strstr(e.text, bad[i].word), "%s", e.text);
        cr_expect_null(s);
        profile_close(&p);
    }
}

/* ---- a step -------------------------------------------------------------------------------------------------------- */

typedef struct { model *m; kv *store; pool *team; runner *run; } piece;

static isa widest(void) { return isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN; }

static piece piece_open(uint32_t first, uint32_t last, uint32_t threads)
{
    err e = { 0 };
    piece p = { 0 };
    kv_geometry g = forward_kv(&shape, first, last);
    g.n_ctx = CTX;
    g.isa = widest();
    cr_assert_eq(pool_open(&p.team, threads, NULL, NULL, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_open(&p.m, file, (shard){ first, last, true, true }, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_open(&p.store, &g, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(runner_open(&p.run, p.m, p.store, p.team, g.isa, 2 * ROWS, &e), ERR_OK, "%s", e.text);
    return p;
}

static void piece_close(piece *p)
{
    runner_close(&p->run);
    kv_close(&p->store);
    model_close(&p->m);
    pool_close(&p->team);
}

/* ROWS rows of a session, and where mate is set as many of another one behind them, through the piece's layers, in place. */
static void through(const piece *p, const layer_mask *mask, const layer_mask *mate, bool calm, float *h)
{
    err e = { 0 };
    forward_row rows[2 * ROWS];
    uint32_t at = 0;
    for (uint64_t id = 1; id <= (mate ? 2u : 1u); id++) {
        kv_seq *q;
        kv_row row[ROWS];
        uint32_t slots[ROWS];
        cr_assert_eq(kv_seq_open(p->store, id, &q, &e), ERR_OK, "%s", e.text);
        for (uint32_t i = 0; i < ROWS; i++) row[i] = (kv_row){ .row = i, .pos = i, .parent = i ? i - 1 : KV_ROW_NONE };
        cr_assert_eq(kv_reserve(q, row, ROWS, slots, &e), ERR_OK, "%s", e.text);
        for (uint32_t i = 0; i < ROWS; i++, at++)
            rows[at] = (forward_row){ .seq = q, .slot = slots[i], .path = (path_id)(i % PATH_COUNT), .mask = id == 1 ? mask : mate, .row = i, .calm = calm && i % 4 > 0 };
    }
    runner_layers(p->run, rows, at, h);
    for (uint64_t id = 1; id <= 2; id++) kv_seq_close(p->store, id);
}

static float *embedded(const piece *p, uint64_t seed)
{
    float *h = malloc((size_t)2 * ROWS * shape.D * sizeof *h);
    uint32_t ids[2 * ROWS];
    cr_assert_not_null(h);
    for (uint32_t i = 0; i < 2 * ROWS; i++) ids[i] = (uint32_t)support_draw(seed, i, shape.V);
    runner_embed(p->run, ids, 2 * ROWS, h);
    return h;
}

/* One row alone: an act of one row for each of the two products. */
static void multiply(const kernels *k, path_id path_of_row, const mat *w, const float *x, float *y)
{
    uint32_t n = w->n_in;
    act a = { .n_in = n, .ld = n, .x = x, .q = malloc(n), .d = malloc(n / 32 * sizeof(float)), .s = malloc(n / 16 * sizeof(int16_t)),
              .z = aligned_alloc(64, (n / 32 * sizeof(act_sums) + 63) / 64 * 64), .h = aligned_alloc(64, act_bytes_bf16(n)) };
    if (path_of_row == PATH_I8B32) k->quantize(&a, 0, 1);
    if (path_of_row == PATH_BF16AMX) k->round_bf16(&a, 0, 1);
    kernels_matmul(k, path_of_row, w, &a, 1, y, w->n_out, 0, w->n_out);
    free(a.q);
    free(a.d);
    free(a.s);
    free(a.z);
    free(a.h);
}

static void low_rank_by_hand(const low_rank *f, const float *norm, path_id path_of_row, float *h)
{
    const kernels *k = kernels_for(widest());
    float *x = aligned_alloc(64, 4 * ((size_t)shape.D * 2 + RANK + 64)), *u = x + shape.D, *y = u + RANK;
    k->vec->rms_norm(x, h, norm, shape.D, shape.rms_eps);
    multiply(k, path_of_row, &f->a, x, u);
    multiply(k, path_of_row, &f->b, u, y);
    for (uint32_t i = 0; i < shape.D; i++) y[i] += f->bias[i], h[i] += y[i];
    free(x);
}

static void instead(const layer_mask *m, const stand_ins *s, const piece *p, uint32_t l, bool ffn, float *h)
{
    const low_rank *f = ffn ? stand_in_ffn(s, l) : NULL;
    for (uint32_t t = 0; t < ROWS; t++, h += shape.D) {
        if (t < (ffn ? m->at[l].ffn : m->at[l].attn)) continue;
        if (m->stand == MASK_LOW_RANK && f) low_rank_by_hand(f, p->m->layer[0].ffn_norm, (path_id)(t % PATH_COUNT), h);
        for (uint32_t i = 0; m->stand == MASK_SCALED && i < shape.D; i++) h[i] *= stand_in_scale(s, l, ffn);
    }
}

/* Half by half with a runner of one layer and masks that have no stand-in, and between them what the formulas say. */
static void by_hand(const layer_mask *m, const stand_ins *s, float *h)
{
    for (uint32_t l = 0; l < shape.L; l++) {
        piece p = piece_open(l, l + 1, 1);
        for (int ffn = 0; ffn < 2; ffn++) {
            layer_mask half = mask_none(shape.L);
            half.at[l] = ffn ? (mask_layer){ 0, m->at[l].ffn } : (mask_layer){ m->at[l].attn, 0 };
            through(&p, &half, NULL, false, h);
            instead(m, s, &p, l, ffn, h);
        }
        piece_close(&p);
    }
}

static layer_mask some_mask(uint64_t seed, mask_stand kind, const stand_ins *s)
{
    layer_mask m = mask_none(shape.L);
    for (uint32_t l = 0; l < shape.L; l++) {
        uint32_t from = (uint32_t)support_draw(seed, 100 + l, 2 * ROWS);
        m.at[l].ffn = l == 1 ? 5 : from < ROWS ? from : MASK_NEVER;
        if (kind == MASK_SCALED) m.at[l].attn = l == 2 ? 9 : MASK_NEVER;
    }
    m.stand = kind;
    m.stand_id = stand_ins_id(s, kind);
    return m;
}

Test(stand_in, a_step_is_what_the_formulas_say_whatever_threads_and_neighbours)
{
    uint64_t seed = support_seed();
    write_profile(seed, RANK, shape.D);
    stand_ins *s = opened(0, shape.L);
    for (int kind = MASK_LOW_RANK; kind < MASK_STANDS; kind++)
        for (uint32_t threads = 1; threads <= 3; threads += 2) {
            piece all = piece_open(0, shape.L, threads);
            layer_mask m = some_mask(seed, (mask_stand)kind, s), bare = m, other = some_mask(seed + 1, (mask_stand)(MASK_STANDS - kind), s);
            bare.stand = MASK_BARE;
            float *want = embedded(&all, seed), *got = embedded(&all, seed), *mine = embedded(&all, seed);
            runner_stand_ins(all.run, s);
            by_hand(&m, s, want);
            through(&all, &m, NULL, false, got);
            cr_expect(support_same(got, want, (size_t)ROWS * shape.D, "hidden state"), "kind %d, %u threads", kind, threads);
            through(&all, &m, &other, false, mine);
            cr_expect(support_same(mine, want, (size_t)ROWS * shape.D, "beside another mask"), "kind %d, %u threads", kind, threads);
            float *left = embedded(&all, seed);
            through(&all, &bare, NULL, false, left);
            cr_expect_neq(memcmp(left, want, (size_t)ROWS * shape.D * sizeof *left), 0, "kind %d changed nothing", kind);
            free(want);
            free(got);
            free(mine);
            free(left);
            piece_close(&all);
        }
    stand_ins_close(&s);
}

/* Without attention rows are by themselves: those that follow the rule have a stand-in in every second layer, the others all their FFNs. */
Test(stand_in, a_calm_ffn_has_its_stand_in_too)
{
    uint64_t seed = support_seed();
    write_profile(seed, RANK, shape.D);
    stand_ins *s = opened(0, 2);
    piece two = piece_open(0, 2, 2);
    layer_mask calm = mask_none(shape.L), fixed, none;
    calm.at[0].attn = calm.at[1].attn = 0;
    none = fixed = calm;
    fixed.at[1].ffn = 0;
    calm.stand = fixed.stand = MASK_LOW_RANK;
    calm.calm = (mask_calm){ .first = 0, .last = 2, .count = 1, .theta = -1 };
    float *got = embedded(&two, seed), *rests = embedded(&two, seed), *runs = embedded(&two, seed);
    runner_stand_ins(two.run, s);
    through(&two, &calm, NULL, true, got);
    through(&two, &fixed, NULL, false, rests);
    through(&two, &none, NULL, false, runs);
    for (uint32_t t = 0; t < ROWS; t++) {
        size_t at = (size_t)t * shape.D;
        cr_expect(support_same(got + at, (t % 4 ? rests : runs) + at, shape.D, "hidden state"), "row %u", t);
        cr_expect_neq(memcmp(rests + at, runs + at, shape.D * sizeof *got), 0, "row %u: the stand-in is the FFN", t);
    }
    free(got);
    free(rests);
    free(runs);
    piece_close(&two);
    stand_ins_close(&s);
}
