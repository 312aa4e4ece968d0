/* A runner with a mask against the same model in two pieces, with the layer between them not there at all. */
#include "engine/forward.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(forward_mask, .timeout = 60);

enum { ROWS = 24, CTX = 64 };

typedef struct { model *m; kv *store; runner *run; } piece;
typedef struct { gguf *file; model_shape s; pool *team; uint32_t ids[ROWS]; } world;

static world world_open(uint32_t threads)
{
    err e = { 0 };
    world w;
    uint64_t seed = support_seed();
    cr_assert_eq(gguf_open(&w.file, support_root("models/sluice-tiny-aux-Q8_0.gguf"), &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_shape_read(&w.s, w.file, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(pool_open(&w.team, threads, NULL, NULL, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < ROWS; i++) w.ids[i] = (uint32_t)support_draw(seed, i, w.s.V);
    return w;
}

static void world_close(world *w)
{
    pool_close(&w->team);
    gguf_close(&w->file);
}

static piece piece_open(const world *w, uint32_t first, uint32_t last, isa use)
{
    err e = { 0 };
    piece p = { 0 };
    cr_assert_eq(model_open(&p.m, w->file, (shard){ first, last, true, true }, &e), ERR_OK, "%s", e.text);
    kv_geometry g = forward_kv(&w->s, first, last);
    g.n_ctx = CTX;
    g.isa = use;
    if (first < last) cr_assert_eq(kv_open(&p.store, &g, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(runner_open(&p.run, p.m, p.store, w->team, use, ROWS, &e), ERR_OK, "%s", e.text);
    return p;
}

static void piece_close(piece *p)
{
    runner_close(&p->run);
    if (p->store) kv_close(&p->store);
    model_close(&p->m);
}

/* Rows of session `id` through the piece's layers, in place; rows [n] of two sessions when mate is set. */
static void through(const world *w, const piece *p, const layer_mask *mask, const layer_mask *mate, float *h)
{
    err e = { 0 };
    forward_row rows[2 * ROWS];
    uint32_t n = mate ? ROWS / 2 : ROWS, at = 0;
    if (!p->store) return;
    for (uint64_t id = 1; id <= (mate ? 2u : 1u); id++) {
        kv_seq *q;
        kv_row row[ROWS];
        uint32_t slots[ROWS];
        cr_assert_eq(kv_seq_open(p->store, id, &q, &e), ERR_OK, "%s", e.text);
        for (uint32_t i = 0; i < n; i++) row[i] = (kv_row){ .row = i, .pos = i, .parent = i ? i - 1 : KV_ROW_NONE };
        cr_assert_eq(kv_reserve(q, row, n, slots, &e), ERR_OK, "%s", e.text);
        for (uint32_t i = 0; i < n; i++, at++)
            rows[at] = (forward_row){ .seq = q, .slot = slots[i], .path = (path_id)(i % PATH_COUNT), .mask = id == 1 ? mask : mate, .row = i };
    }
    runner_layers(p->run, rows, at, h);
    for (uint64_t id = 1; id <= 2; id++) kv_seq_close(p->store, id);
    (void)w;
}

/* One session, of whose rows three in four follow the mask's calm rule. */
static void through_calm(const world *w, const piece *p, const layer_mask *m, float *h)
{
    err e = { 0 };
    forward_row rows[ROWS];
    kv_seq *q;
    kv_row row[ROWS];
    uint32_t slots[ROWS];
    (void)w;
    cr_assert_eq(kv_seq_open(p->store, 1, &q, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < ROWS; i++) row[i] = (kv_row){ .row = i, .pos = i, .parent = i ? i - 1 : KV_ROW_NONE };
    cr_assert_eq(kv_reserve(q, row, ROWS, slots, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < ROWS; i++)
        rows[i] = (forward_row){ .seq = q, .slot = slots[i], .path = (path_id)(i % PATH_COUNT), .mask = m, .row = i, .calm = i % 4 > 0 };
    runner_layers(p->run, rows, ROWS, h);
    kv_seq_close(p->store, 1);
}

static float *embedded(const world *w, const piece *p)
{
    float *h = malloc((size_t)ROWS * w->s.D * sizeof *h);
    cr_assert_not_null(h);
    runner_embed(p->run, w->ids, ROWS, h);
    return h;
}

Test(forward_mask, a_layer_that_is_left_out_is_a_layer_that_is_not_there)
{
    for (uint32_t threads = 1; threads <= 2; threads++) {
        world w = world_open(threads);
        isa use = isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN;
        piece all = piece_open(&w, 0, w.s.L, use);
        for (uint32_t l = 0; l < w.s.L; l++) {
            piece low = piece_open(&w, 0, l, use), high = piece_open(&w, l + 1, w.s.L, use);
            layer_mask m = mask_none(w.s.L);
            m.at[l] = (mask_layer){ 0, 0 };
            float *want = embedded(&w, &all), *got = embedded(&w, &all);
            through(&w, &low, NULL, NULL, want);
            through(&w, &high, NULL, NULL, want);
            through(&w, &all, &m, NULL, got);
            cr_expect(support_same(got, want, (size_t)ROWS * w.s.D, "hidden state"), "without layer %u", l);
            free(want);
            free(got);
            piece_close(&low);
            piece_close(&high);
        }
        piece_close(&all);
        world_close(&w);
    }
}

/* Half layers, and halves that end at a row: each row as if it were alone with its mask. */
Test(forward_mask, neighbours_with_other_masks_change_nothing)
{
    uint64_t seed = support_seed();
    for (uint32_t round = 0; round < 12; round++) {
        world w = world_open(1 + round % 2);
        isa use = isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN;
        piece all = piece_open(&w, 0, w.s.L, use);
        layer_mask m[2] = { mask_none(w.s.L), mask_none(w.s.L) };
        for (uint32_t i = 0; i < 4 * w.s.L; i++) {
            uint32_t from = (uint32_t)support_draw(seed, round * 1000 + i, 24);
            mask_layer *at = &m[i % 2].at[i / 4];
            if (from < 16) *(i % 4 < 2 ? &at->attn : &at->ffn) = from;
        }
        float *both = embedded(&w, &all), *one = embedded(&w, &all), *line = malloc((size_t)ROWS * w.s.D * sizeof *line);
        size_t half = (size_t)ROWS / 2 * w.s.D;
        through(&w, &all, &m[0], &m[1], both);
        runner_embed(all.run, w.ids, ROWS, one);
        through(&w, &all, &m[0], NULL, one);        /* its first rows are those of the batch */
        cr_expect(support_same(both, one, half, "beside another mask"), "round %u", round);
        memcpy(line, one, half * sizeof *line);
        free(line);
        free(both);
        free(one);
        piece_close(&all);
        world_close(&w);
    }
}

/* Layer by layer with a runner of one layer each, and the rule by hand in double precision. */
static void by_hand(const world *w, const mask_calm *c, isa use, float *h, mask_row *row)
{
    uint32_t D = w->s.D;
    for (uint32_t l = 0; l < w->s.L; l++) {
        piece p = piece_open(w, l, l + 1, use);
        layer_mask no_ffn = mask_none(w->s.L);
        no_ffn.at[l].ffn = 0;
        float *before = malloc((size_t)ROWS * D * sizeof *before), *after = malloc((size_t)ROWS * D * sizeof *after);
        memcpy(before, h, (size_t)ROWS * D * sizeof *before);
        memcpy(after, h, (size_t)ROWS * D * sizeof *after);
        through(w, &p, &no_ffn, NULL, before);      /* behind attention */
        through(w, &p, NULL, NULL, after);
        for (uint32_t t = 0; t < ROWS; t++) {
            double ab = 0, aa = 0, bb = 0;
            const float *a = before + (size_t)t * D, *b = after + (size_t)t * D;
            bool rests = mask_calm_rests(c, l, &row[t]);
            for (uint32_t i = 0; i < D; i++) ab += (double)a[i] * b[i], aa += (double)a[i] * a[i], bb += (double)b[i] * b[i];
            if (!rests) mask_calm_saw(c, l, (float)(ab / sqrt(aa * bb)), &row[t]);
            memcpy(h + (size_t)t * D, rests ? a : b, D * sizeof *h);
        }
        free(before);
        free(after);
        piece_close(&p);
    }
}

Test(forward_mask, rows_rest_behind_an_ffn_that_does_little)
{
    for (uint32_t threads = 1; threads <= 2; threads++)
        for (uint32_t count = 1; count <= MASK_CALM_ALL; count += MASK_CALM_ALL - 1) {
            world w = world_open(threads);
            isa use = isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN;
            piece all = piece_open(&w, 0, w.s.L, use);
            layer_mask m = mask_none(w.s.L);
            m.calm = (mask_calm){ .first = 0, .last = w.s.L, .count = count, .theta = 0.9f };
            float *want = embedded(&w, &all), *got = embedded(&w, &all);
            mask_row row[ROWS];
            uint32_t out = 0;
            for (uint32_t t = 0; t < ROWS; t++) row[t] = (mask_row){ t % 4 > 0, 0 };
            by_hand(&w, &m.calm, use, want, row);
            through_calm(&w, &all, &m, got);
            cr_expect(support_same(got, want, (size_t)ROWS * w.s.D, "hidden state"), "count %u", count);
            const mask_row *carried = runner_calm(all.run);
            cr_assert_not_null(carried);
            for (uint32_t t = 0; t < ROWS; t++) {
                cr_expect(carried[t].state == row[t].state && carried[t].out == row[t].out, "row %u", t);
                out += row[t].out;
            }
            printf("# %u of %u FFNs left out\n", out, ROWS * w.s.L);
            cr_expect(out && out < ROWS * w.s.L / 2, "the threshold parts nothing: %u", out);
            free(want);
            free(got);
            piece_close(&all);
            world_close(&w);
        }
}
