/* Append and attend through the door: against an f64 oracle, and the promises of bit-equality one by one. */
#include "core/vec.h"
#include "tests/unit/kv_world.h"
#include <math.h>
#include <pthread.h>

/* ---- ways of looking: plain; local and global layers (3 is global, 4 and 5 are local; then only 5 is global); all local */

static const kv_look looks[] = {
    { 0 },
    { .scale = 0.4f, .soft_cap = 1.5f, .window = 9, .global_every = 4, .local_base = 500 },
    { .window = 17, .global_every = 6 },
    { .window = 1 },
    { .window = 40, .soft_cap = 30 },
};
enum { N_LOOKS = sizeof looks / sizeof *looks };

/* ---- the oracle ---- */

static void oracle_rope(double *x, const kv_geometry *g, uint32_t pos)
{
    uint32_t half = g->rope.n_rot / 2;
    for (uint32_t i = 0; i < half; i++) {
        double a = pos * pow((double)g->rope.base, -2.0 * i / g->rope.n_rot), c = cos(a), s = sin(a);
        double *p = g->rope.neox ? x + i : x + 2 * i, *r = g->rope.neox ? x + i + half : x + 2 * i + 1;
        double y = *p * c - *r * s;
        *r = *p * s + *r * c;
        *p = y;
    }
}

static void oracle_vector(double *x, const kv_geometry *g, uint32_t token, uint32_t l, uint32_t what, uint32_t head, int pos)
{
    float f[4096];
    fill(f, (head + 1) * g->d, token, l, what);
    for (uint32_t i = 0; i < g->d; i++) x[i] = (double)f[head * g->d + i];
    if (pos >= 0) oracle_rope(x, g, (uint32_t)pos);
    for (uint32_t i = 0; i < g->d && what != 3 && g->format == KV_F16; i++) x[i] = (double)vec_f32(vec_f16((float)x[i]));
}

/* Head h of the last of n tokens, whose positions are pos[]. */
static void oracle(double *out, const kv_geometry *as, const uint32_t *tokens, const uint32_t *pos, uint32_t n, uint32_t l,
                   uint32_t h)
{
    kv_geometry copy = *as, *g = &copy;
    const kv_look *a = &g->look;
    bool local = a->window && (!a->global_every || (l + 1) % a->global_every);
    if (local && a->local_base > 0) g->rope.base = a->local_base;
    double q[128], x[128], p[CTX], sum = 0;
    uint32_t k = h / (g->H / g->K), from = local && n > a->window ? n - a->window : 0;
    oracle_vector(q, g, tokens[n - 1], l, 3, h, (int)pos[n - 1]);
    for (uint32_t j = from; j < n; j++) {
        oracle_vector(x, g, tokens[j], l, 1, k, (int)pos[j]);
        double dot = 0;
        for (uint32_t i = 0; i < g->d; i++) dot += q[i] * x[i];
        dot *= a->scale > 0 ? (double)a->scale : 1 / sqrt(g->d);
        if (a->soft_cap > 0) dot = (double)a->soft_cap * tanh(dot / (double)a->soft_cap);
        sum += p[j] = exp(dot);
    }
    memset(out, 0, g->d * sizeof *out);
    for (uint32_t j = from; j < n; j++) {
        oracle_vector(x, g, tokens[j], l, 2, k, -1);
        for (uint32_t i = 0; i < g->d; i++) out[i] += p[j] / sum * x[i];
    }
}

/* 75 tokens with gaps in their positions, in one chunk; every fifth row of layer l against the oracle. */
static void against_oracle(const kv_geometry *g, uint32_t l)
{
    enum { N = 75 };
    uint32_t tokens[N], pos[N];
    kv_row rows[N];
    pick_tokens(tokens, N, 1000);
    for (uint32_t i = 0; i < N; i++) {
        pos[i] = i * 4 + i % 3;
        rows[i] = (kv_row){ i * 2, pos[i], i ? i * 2 - 2 : KV_ROW_NONE, 0, 0, 0 };
    }
    kv *s = open_store(g);
    float *out = new_out(g, N);
    step_rows(s, g, open_seq(s, 1), rows, tokens, N, false, out);
    double tolerance = g->format == KV_F16 ? 5e-4 : 1e-5, want[128];
    for (uint32_t i = 0; i < N; i += 5)
        for (uint32_t h = 0; h < g->H; h++) {
            oracle(want, g, tokens, pos, i + 1, l, h);
            const float *got = out + i * out_floats(g) + (l - FIRST) * width(g) + h * g->d;
            for (uint32_t c = 0; c < g->d; c++)
                cr_assert(fabs((double)got[c] - want[c]) <= tolerance, "row %u head %u [%u]: %g, oracle %g", i, h, c,
                          (double)got[c], want[c]);
        }
    free(out);
    kv_close(&s);
}

Test(kv, attend_agrees_with_an_f64_oracle)
{
    /* H, K, d, n_rot */
    const uint32_t shape[][4] = { { 4, 4, 16, 16 }, { 6, 2, 8, 8 }, { 9, 3, 64, 64 }, { 8, 1, 24, 16 }, { 2, 2, 6, 2 } };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int v = 0; v < 4; v++) {
            kv_geometry g = geometry(shape[i][0], shape[i][1], shape[i][2], v & 1 ? KV_F32 : KV_F16);
            g.rope.n_rot = shape[i][3];
            g.rope.neox = v & 2;
            against_oracle(&g, LAST - 1);
        }
}

Test(kv, windows_caps_and_local_bases_agree_with_an_f64_oracle)
{
    for (int i = 0; i < N_LOOKS; i++)
        for (uint32_t l = FIRST; l < LAST; l++) {
            kv_geometry g = geometry(6, 2, 16, KV_F32);
            g.look = looks[i];
            g.rope.neox = i % 2;
            against_oracle(&g, l);
        }
}

Test(kv, rows_outside_the_window_are_not_read)
{
    enum { N = 70, W = 8 };
    kv_geometry g = geometry(4, 2, 16, KV_F16);
    g.look.window = W;
    kv *s = open_store(&g);
    kv_seq *q = open_seq(s, 1);
    kv_row rows[N];
    uint32_t slots[N];
    err e = { 0 };
    float x[64], out[64], *scratch = scratch_of(s);
    for (uint32_t i = 0; i < N; i++) rows[i] = (kv_row){ i, i, i ? i - 1 : KV_ROW_NONE, 0, 0, 0 };
    cr_assert_eq(kv_reserve(q, rows, N, slots, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t k = 0; k < 64; k++) x[k] = i == N - 1 - W ? NAN : 0.5f;
        kv_append(q, FIRST, slots[i], x, x, 0, g.K);
    }
    for (uint32_t i = N - 2; i < N; i++) {
        fill(x, 64, i, FIRST, 3);
        kv_attend(q, FIRST, slots[i], x, out, 0, g.K, scratch);
        cr_expect_eq(!isfinite(out[0]), i == N - 2, "row %u: %g", i, (double)out[0]);   /* the row before still sees it */
    }
    free(scratch);
    kv_close(&s);
}

/* ---- bit-equality ---- */

Test(kv, a_chunk_of_64_gives_the_bits_of_64_single_steps)
{
    for (int f = 0; f < KV_FORMAT_COUNT + N_LOOKS - 1; f++) {
        kv_geometry g = geometry(6, 2, 16, f ? KV_F32 : KV_F16);
        g.look = looks[f > 1 ? f - 1 : 0];
        uint32_t tokens[210];
        pick_tokens(tokens, 210, 1);
        float *want = singles(&g, tokens, 210), *got = new_out(&g, 210);
        const uint32_t chunks[] = { 64, 210, 31, 3 };
        for (int c = 0; c < 4; c++) {
            kv *s = open_store(&g);
            line(s, &g, open_seq(s, 1), tokens, 210, chunks[c], got);
            cr_assert(same(got, want, 210 * out_floats(&g)), "chunk of %u", chunks[c]);
            kv_close(&s);
        }
        free(want);
        free(got);
    }
}

/* 40 committed tokens, then two branches of 50 that alternate in the slots, so that runs are short, or not. */
static void two_branches(uint32_t burst, uint32_t keep, const kv_look *look)
{
    enum { TRUNK = 40, N = 50 };
    kv_geometry g = geometry(4, 2, 16, KV_F16);
    g.look = *look;
    uint32_t t[2][TRUNK + N + 30], tokens[2 * N], n = 0, at[2] = { 0, 0 };
    kv_row rows[2 * N];
    uint32_t last[2] = { TRUNK - 1, TRUNK - 1 }, from[2 * N];
    pick_tokens(t[0], TRUNK + N + 30, 1);
    pick_tokens(t[1], TRUNK + N + 30, 1);
    for (uint32_t i = TRUNK; i < TRUNK + N + 30; i++) t[1][i] += 5000;
    while (n < 2 * N) {
        uint32_t b = n / burst % 2;
        if (at[b] == N) b = !b;
        uint32_t i = TRUNK + at[b]++;
        tokens[n] = t[b][i];
        from[n] = b;
        rows[n] = (kv_row){ TRUNK + n, i, last[b], 0, 0, 0 };
        last[b] = TRUNK + n++;
    }
    kv *s = open_store(&g);
    kv_seq *q = open_seq(s, 1);
    float *got = new_out(&g, 2 * N), *want[2] = { singles(&g, t[0], TRUNK + N), singles(&g, t[1], TRUNK + N) };
    line(s, &g, q, t[0], TRUNK, 64, NULL);
    step_rows(s, &g, q, rows, tokens, 2 * N, false, got);
    for (uint32_t i = 0; i < 2 * N; i++)
        cr_assert(same(got + i * out_floats(&g), want[from[i]] + rows[i].pos * out_floats(&g), out_floats(&g)),
                  "row %u of branch %u, bursts of %u", i, from[i], burst);
    err e = { 0 };
    cr_assert_eq(kv_commit(q, last[keep], &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_rows(q), TRUNK + N);
    /* rows continue above the last index, positions where the branch stands */
    float one[512], *after = singles(&g, t[keep], TRUNK + N + 30);
    for (uint32_t i = TRUNK + N; i < TRUNK + N + 30; i++) {
        kv_row r = { 500 + i, i, kv_last_row(q), 0, 0, 0 };
        step_rows(s, &g, q, &r, &t[keep][i], 1, false, one);
        cr_assert(same(one, after + i * out_floats(&g), out_floats(&g)), "token %u after commit of branch %u", i, keep);
        cr_assert_eq(kv_commit(q, r.row, &e), ERR_OK, "%s", e.text);
    }
    free(got);
    free(want[0]);
    free(want[1]);
    free(after);
    kv_close(&s);
}

Test(kv, a_branch_of_a_tree_gives_the_bits_of_the_same_tokens_in_a_line)
{
    for (uint32_t i = 0; i < 2 * N_LOOKS; i++) {
        two_branches(1, i % 2, &looks[i / 2]);
        two_branches(3, i % 2, &looks[i / 2]);
        two_branches(50, i % 2, &looks[i / 2]);
    }
}

Test(kv, a_comb_that_fills_the_context_fits_the_scratch)
{
    kv_geometry g = geometry(1, 1, 4, KV_F16);
    uint32_t tokens[CTX], teeth[CTX / 2];
    kv_row rows[CTX];
    for (uint32_t i = 0; i < CTX; i++) {
        rows[i] = (kv_row){ i, i / 2, i < 2 ? KV_ROW_NONE : i - 2, 0, 0, 0 };
        tokens[i] = i;
        if (i % 2) teeth[i / 2] = i;
    }
    kv *s = open_store(&g);
    kv_seq *q = open_seq(s, 1);
    float *got = new_out(&g, CTX), *want = singles(&g, teeth, CTX / 2);
    step_rows(s, &g, q, rows, tokens, CTX, false, got);
    for (uint32_t i = 1; i < CTX; i += 2)
        cr_assert(same(got + i * out_floats(&g), want + i / 2 * out_floats(&g), out_floats(&g)), "row %u", i);
    err e = { 0 };
    kv_row more = { CTX, 0, KV_ROW_NONE, 0, 0, 0 };
    uint32_t slot;
    cr_assert_eq(kv_reserve(q, &more, 1, &slot, &e), ERR_FULL);
    free(got);
    free(want);
    kv_close(&s);
}

Test(kv, avx2_gives_the_bits_of_plain)
{
    if (!(isa_supported() >> ISA_AVX2 & 1)) cr_skip_test("this machine has no AVX2");
    const uint32_t shape[][3] = { { 4, 4, 8 }, { 6, 2, 48 }, { 3, 1, 64 }, { 2, 1, 20 }, { 2, 2, 6 } };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int v = 0; v < 4; v++) {
            kv_geometry g = geometry(shape[i][0], shape[i][1], shape[i][2], v & 1 ? KV_F32 : KV_F16);
            g.rope.neox = v & 2;
            g.look = looks[i % N_LOOKS];
            uint32_t tokens[100];
            pick_tokens(tokens, 100, 77);
            float *plain = singles(&g, tokens, 100);
            g.isa = ISA_AVX2;
            float *wide = singles(&g, tokens, 100);
            cr_assert(same(plain, wide, 100 * out_floats(&g)), "d=%u format %s", g.d, kv_format_name(g.format));
            free(plain);
            free(wide);
        }
}

/* ---- threads ---- */

enum { CHUNK = 64 };
typedef struct {
    kv *s;
    const kv_geometry *g;
    kv_seq *q;
    const uint32_t *slots, *tokens;
    float *out;
    pthread_barrier_t *meet;
    uint32_t k0, k1;
} crew;

static void *crew_main(void *arg)
{
    crew *c = arg;
    const kv_geometry *g = c->g;
    float *x = scratch_of(c->s), query[256], k[128], v[128];
    for (uint32_t l = FIRST; l < LAST; l++) {
        for (uint32_t i = 0; i < CHUNK; i++) {
            fill(k, g->K * g->d, c->tokens[i], l, 1);
            fill(v, g->K * g->d, c->tokens[i], l, 2);
            kv_append(c->q, l, c->slots[i], k, v, c->k0, c->k1);
        }
        pthread_barrier_wait(c->meet);
        for (uint32_t i = 0; i < CHUNK; i++) {
            fill(query, width(g), c->tokens[i], l, 3);
            kv_attend(c->q, l, c->slots[i], query, c->out + i * out_floats(g) + (l - FIRST) * width(g), c->k0, c->k1, x);
        }
    }
    free(x);
    return NULL;
}

Test(kv, threads_over_heads_give_the_bits_of_one_thread)
{
    kv_geometry g = geometry(8, 4, 16, KV_F16);
    uint32_t tokens[CHUNK], slots[CHUNK];
    kv_row rows[CHUNK];
    pick_tokens(tokens, CHUNK, 9);
    for (uint32_t i = 0; i < CHUNK; i++) rows[i] = (kv_row){ i, i, i ? i - 1 : KV_ROW_NONE, 0, 0, 0 };
    kv *s = open_store(&g);
    kv_seq *q = open_seq(s, 1);
    err e = { 0 };
    cr_assert_eq(kv_reserve(q, rows, CHUNK, slots, &e), ERR_OK);
    float *got = new_out(&g, CHUNK), *want = singles(&g, tokens, CHUNK);
    pthread_barrier_t meet;
    pthread_barrier_init(&meet, NULL, 4);
    pthread_t t[4];
    crew c[4];
    for (uint32_t i = 0; i < 4; i++) {
        c[i] = (crew){ s, &g, q, slots, tokens, got, &meet, i, i + 1 };
        cr_assert_eq(pthread_create(&t[i], NULL, crew_main, &c[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    cr_assert(same(got, want, CHUNK * out_floats(&g)));
    pthread_barrier_destroy(&meet);
    free(got);
    free(want);
    kv_close(&s);
}

/* ---- the small refusals ---- */

Test(kv, a_bad_reserve_changes_nothing)
{
    kv_geometry g = geometry(2, 1, 8, KV_F16);
    kv *s = open_store(&g);
    kv_seq *q = open_seq(s, 1);
    kv_row rows[40];
    uint32_t slots[40];
    err e = { 0 };
    for (uint32_t i = 0; i < 40; i++) rows[i] = (kv_row){ i, i, i ? i - 1 : KV_ROW_NONE, 0, 0, 0 };
    rows[39].pos = CTX;
    cr_assert_eq(kv_reserve(q, rows, 40, slots, &e), ERR_INPUT);
    cr_assert(strstr(e.text, "row 39") && strstr(e.text, "320"), "%s", e.text);
    cr_assert_eq(kv_bytes(s).pages_used, 0);
    cr_assert_eq(kv_rows_tentative(q), 0);
    rows[39].pos = 39;
    cr_assert_eq(kv_reserve(q, rows, 40, slots, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_bytes(s).pages_used, 2 * LAYERS);
    cr_assert_eq(kv_import(q, "", 0, &e), ERR_INPUT);
    cr_assert_eq(kv_commit(q, 40, &e), ERR_INPUT);
    cr_assert_eq(kv_rows_tentative(q), 40);
    cr_assert_eq(kv_commit(q, KV_ROW_NONE, &e), ERR_OK, "drops all");
    cr_assert_eq(kv_rows_tentative(q) + kv_rows(q), 0);
    cr_assert_eq(kv_bytes(s).pages_used, 0);
    kv_close(&s);
}

Test(kv, an_impossible_geometry_is_refused)
{
    kv_geometry good = geometry(4, 2, 16, KV_F16), bad[9];
    for (int i = 0; i < 9; i++) bad[i] = good;
    bad[0].last = bad[0].first;
    bad[1].K = 3;
    bad[2].K = 0;
    bad[3].d = 0;
    bad[4].d = 1 << 20;
    bad[5].rope.n_rot = 18;
    bad[6].n_ctx = 0;
    bad[7].isa = (isa)9;
    bad[8].look.soft_cap = -1;
    for (int i = 0; i < 9; i++) {
        err e = { 0 };
        kv *s;
        cr_assert_neq(kv_open(&s, &bad[i], &e), ERR_OK, "case %d", i);
        cr_assert_null(s);
        cr_assert(e.text[0]);
    }
}

Test(kv, a_format_has_a_name_and_a_name_a_format)
{
    err e = { 0 };
    for (int i = 0; i < KV_FORMAT_COUNT; i++) {
        kv_format f;
        cr_assert_eq(kv_format_parse(kv_format_name((kv_format)i), &f, &e), ERR_OK);
        cr_assert_eq((int)f, i);
    }
    kv_format f;
    cr_assert_eq(kv_format_parse("q3", &f, &e), ERR_CONFIG);
    cr_assert(strstr(e.text, "\"q3\""), "%s", e.text);
}
