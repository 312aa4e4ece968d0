/* Rows that end with the last layer's K and V: what they leave in the KV cache, and what the others get, is as if nobody ended. */
#include "engine/forward.h"
#include "engine/kernels.h"
#include "kvstore/preset.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(forward_ends, .timeout = 60);

enum { ROWS = 24, HALF = ROWS / 2, CTX = 64 };

typedef struct { gguf *file; model *m; kv *store; pool *team; runner *run; uint32_t ids[ROWS]; } world;
typedef struct { float *h; char *kv[2]; size_t n_kv[2]; } outcome; /* of a step: hidden states, and both sequences' rows */
typedef struct { uint64_t ends; const layer_mask *mask; const kv_policy *policy; uint32_t calm; bool one_path; } ask;

static world world_open(uint32_t threads, isa use)
{
    err e = { 0 };
    model_shape s;
    world w;
    uint64_t seed = support_seed();
    cr_assert_eq(gguf_open(&w.file, support_root("models/sluice-tiny-aux-Q8_0.gguf"), &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_shape_read(&s, w.file, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_open(&w.m, w.file, (shard){ 0, s.L, true, true }, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(pool_open(&w.team, threads, NULL, NULL, &e), ERR_OK, "%s", e.text);
    kv_geometry g = forward_kv(&s, 0, s.L);
    g.n_ctx = CTX;
    g.isa = use;
    cr_assert_eq(kv_open(&w.store, &g, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(runner_open(&w.run, w.m, w.store, w.team, use, ROWS, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < ROWS; i++) w.ids[i] = (uint32_t)support_draw(seed, i, s.V);
    return w;
}

static void world_close(world *w)
{
    runner_close(&w->run);
    kv_close(&w->store);
    pool_close(&w->team);
    model_close(&w->m);
    gguf_close(&w->file);
}

static void take_kv(const world *w, kv_seq *q, int i, outcome *o)
{
    err e = { 0 };
    uint32_t L = w->m->shape.L;
    o->n_kv[i] = kv_export_bytes(q, 0, L, 0, HALF);
    o->kv[i] = malloc(o->n_kv[i]);
    cr_assert_not_null(o->kv[i]);
    cr_assert_eq(kv_export(q, 0, L, 0, HALF, o->kv[i], o->n_kv[i], &e), ERR_OK, "%s", e.text);
}

/* Two prompts in one step, paths mixed; row t of it ends when bit t of ask.ends is set. */
static outcome step(const world *w, ask a)
{
    err e = { 0 };
    outcome o = { .h = malloc((size_t)ROWS * w->m->shape.D * sizeof *o.h) };
    forward_row rows[ROWS];
    kv_seq *q[2];
    cr_assert_not_null(o.h);
    for (uint32_t i = 0; i < 2; i++) {
        kv_row row[HALF];
        uint32_t slots[HALF];
        kv_policy plain = kv_policy_identity();
        cr_assert_eq(kv_seq_open_policy(w->store, i + 1, a.policy ? a.policy : &plain, HALF, &q[i], &e), ERR_OK, "%s", e.text);
        for (uint32_t t = 0; t < HALF; t++) row[t] = (kv_row){ .row = t, .pos = t, .parent = t ? t - 1 : KV_ROW_NONE };
        cr_assert_eq(kv_reserve(q[i], row, HALF, slots, &e), ERR_OK, "%s", e.text);
        for (uint32_t t = 0; t < HALF; t++)
            rows[i * HALF + t] = (forward_row){ .seq = q[i], .slot = slots[t], .path = a.one_path ? PATH_I8B32 : (path_id)(t / 3 % PATH_COUNT), .row = t, .calm = a.calm,
                                                .mask = i ? NULL : a.mask, .ends = a.ends >> (i * HALF + t) & 1 };
    }
    runner_embed(w->run, w->ids, ROWS, o.h);
    runner_layers(w->run, rows, ROWS, o.h);
    for (int i = 0; i < 2; i++) {
        if (!a.policy) {
            cr_assert_eq(kv_commit(q[i], HALF - 1, &e), ERR_OK, "%s", e.text);
            take_kv(w, q[i], i, &o);
        }
        kv_seq_close(w->store, (uint64_t)i + 1);
    }
    return o;
}

static void outcome_free(outcome *o)
{
    free(o->h);
    free(o->kv[0]);
    free(o->kv[1]);
}

static void compare(const world *w, const outcome *want, const outcome *got, uint64_t ends)
{
    uint32_t D = w->m->shape.D;
    for (int i = 0; i < 2; i++)
        cr_expect(want->n_kv[i] == got->n_kv[i] && !memcmp(want->kv[i], got->kv[i], want->n_kv[i]), "KV of prompt %d", i);
    for (uint32_t t = 0; t < ROWS; t++)
        if (!(ends >> t & 1)) cr_expect(support_same(got->h + (size_t)t * D, want->h + (size_t)t * D, D, "hidden state"), "row %u", t);
}

static void check(const world *w, const layer_mask *mask, uint64_t ends)
{
    outcome want = step(w, (ask){ .mask = mask }), got = step(w, (ask){ .ends = ends, .mask = mask });
    compare(w, &want, &got, ends);
    outcome_free(&want);
    outcome_free(&got);
}

Test(forward_ends, what_rows_leave_and_others_get_is_the_same)
{
    uint64_t seed = support_seed(), all = (1ull << ROWS) - 1;
    for (uint32_t round = 0; round < 8; round++) {
        isa use = ISA_PLAIN;
        if (round % 4) cr_assert_eq(isa_pick(&use, NULL), ERR_OK);
        world w = world_open(1 + round % 2, use);
        uint32_t L = w.m->shape.L;
        uint64_t some = support_draw(seed, 100 + round, all + 1);
        layer_mask m = mask_none(L);
        m.at[L - 1] = (mask_layer){ (uint32_t)support_draw(seed, 200 + round, HALF), (uint32_t)support_draw(seed, 300 + round, HALF) };
        check(&w, NULL, some);
        check(&w, NULL, all);
        check(&w, NULL, all >> 1);
        check(&w, &m, some);
        check(&w, &m, all);
        world_close(&w);
    }
}

static uint64_t bytes_read(const world *w, ask a)
{
    uint64_t before = kernels_counted().weights_read;
    outcome o = step(w, a);
    outcome_free(&o);
    return kernels_counted().weights_read - before;
}

Test(forward_ends, the_last_layers_other_weights_are_not_read)
{
    world w = world_open(1, ISA_PLAIN);
    const layer_weights *l = &w.m->layer[w.m->shape.L - 1];
    const mat *other[] = { &l->wq, &l->wo, &l->gate, &l->up, &l->down };
    uint64_t bytes = 0, all = bytes_read(&w, (ask){ .one_path = true }), fewer = bytes_read(&w, (ask){ .one_path = true, .ends = UINT64_MAX });
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) bytes += other[i]->n_out * (uint64_t)other[i]->row_bytes;
    cr_expect_eq(all - fewer, bytes, "%llu, then %llu, and %llu of it in these", (unsigned long long)all, (unsigned long long)fewer,
                 (unsigned long long)bytes);
    world_close(&w);
}

/* A row with a calm rule, and one whose policy scores by attention, go on to the end. */
Test(forward_ends, who_must_be_seen_to_the_end_goes_on)
{
    err e = { 0 };
    kv_policy scored;
    world w = world_open(2, ISA_PLAIN);
    layer_mask calm = mask_none(w.m->shape.L);
    calm.calm = (mask_calm){ .first = 1, .last = w.m->shape.L, .count = MASK_CALM_ALL, .theta = 0.1f };
    cr_assert_eq(kv_policy_load(&scored, "h2o", &e), ERR_OK, "%s", e.text);
    const ask asks[] = { { .mask = &calm, .calm = 1 }, { .policy = &scored } };
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        ask ending = asks[i];
        ending.ends = UINT64_MAX;
        outcome want = step(&w, asks[i]), got = step(&w, ending);
        cr_expect(support_same(got.h, want.h, (size_t)ROWS * w.m->shape.D, "hidden state"), "case %zu", i);
        outcome_free(&want);
        outcome_free(&got);
    }
    world_close(&w);
}
