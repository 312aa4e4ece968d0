/* Sequences under policies: the same bits however their rows came, attention over what is kept, and nothing lost. */
#include "core/rope.h"
#include "core/vec.h"
#include "tests/unit/kv_world.h"
#include <math.h>
#include <xxhash.h>

enum { PROMPT = 83, ROWS = 270, H = 4, KH = 2 };
static const char *const texts[] = {
    "[format]\nk=q8_0\nv=q8_0\n", "[format]\nk=q4_0+h\nv=token4\n", "[format]\nk=q8_0+h\nv=q4_0+h\n",
    "[format]\nk=kivi4\nv=kivi4\nresidual=32\n", "[format]\nk=kivi2\nv=kivi2\n", "[format]\nk=raw\nv=token3+h\n",
    "[format]\nk=channel8\nv=token8\nlevels=8,4,2\n", "[format]\nk=kvquant4\nv=kvquant3\n[keep]\nsinks=3\n",
    "[keep]\nscore=position\nrows=48\nsinks=4\nwindow=8\n",
    "[keep]\nscore=random\nshare=0.5\nsinks=2\nwindow=8\n[format]\nk=kivi4\nv=q8_0\n",
    "[keep]\nscore=h2o\nrows=64\nsinks=1\nwindow=16\n", "[keep]\nscore=tova\nrows=50\nwindow=1\n[format]\nk=q8_0\nv=q8_0\n",
    "[keep]\nscore=snapkv\nrows=64\nwindow=8\nqueries=16\npool=5\nbudget=adakv\n[format]\nk=kivi4\nv=kivi4\n",
    "[keep]\nscore=knorm\nrows=64\nwindow=8\n[change]\nmerge=nearest\n",
    "[keep]\nscore=keydiff\nshare=0.4\nwindow=8\nbudget=pyramid\n",
    "[keep]\nscore=critic\nrows=64\nwindow=8\nqueries=8\n", "[keep]\nscore=expected\nrows=64\nwindow=8\nqueries=32\n",
    "[keep]\nscore=h2o\nbudget=mass\ntau=0.7\nwindow=8\n[format]\nk=q8_0\nv=q8_0\nk2=token2\nv2=token2\n",
    "[change]\nprune=think\n[keep]\nqueries=16\n[format]\nk=kivi4\nv=kivi4\n", "[change]\nprune=think\n[format]\nk=q8_0\nv=raw\n",
    "[change]\nprune=think\n[keep]\nscore=knorm\nshare=0.5\nwindow=8\n", "[keep]\nscore=critic\nbudget=pressure\nshare=0.5\nwindow=8\nqueries=8\n",
    "[keep]\nroles=razor\nscore=position\nrows=90\nwindow=16\nsinks=2\n[change]\nmerge=compensate\n[format]\nk=q8_0\nv=q8_0\n",
    "[format]\nk=kivi3+s\nv=token2+h+s\n", "[keep]\nroles=alpha\nalpha=0.5\nscore=position\nwindow=24\nsinks=2\n[format]\nk=kivi2+s\nv=kvquant2\n",
    "[keep]\nscore=semantic\nbudget=layer-error\nshare=0.5\nwindow=8\nqueries=8\npool=5\n",
};
enum { POLICIES = sizeof texts / sizeof *texts };

/* ---- a profile of its own ------------------------------------------------------------------------------------------------ */

static const kv_tables *profile(uint32_t d)
{
    static float lo[LAYERS * KH * 64], hi[LAYERS * KH * 64], lut[5][LAYERS * 16];
    static uint8_t local[LAYERS * KH] = { 1, 0, 0, 1, 1, 1 }, semantic[LAYERS * 4] = { 0, 3, 2, 1, 1, 2, 255, 255, 3, 255, 255, 255 };
    static float alpha[LAYERS * KH] = { 1, 0.2f, 0.6f, 0.4f, 0, 1 }, error[LAST] = { 0.4f, 0.1f, 0.3f, 0.2f };
    static kv_tables t = { .first = FIRST, .last = LAST, .k_lo = lo, .k_hi = hi, .local = local, .alpha = alpha, .semantic = semantic,
                           .layer_error = error };
    for (uint32_t i = 0; i < LAYERS * KH * d; i++) lo[i] = -1.9f, hi[i] = 1.9f;
    for (uint32_t bits = 2; bits < 5; bits++) {
        for (uint32_t i = 0; i < (uint32_t)LAYERS << bits; i++)
            lut[bits][i] = (float)(i & ((1u << bits) - 1)) * 2 / (float)((1u << bits) - 1) - 1;
        t.lut_k[bits] = t.lut_v[bits] = lut[bits];
    }
    return &t;
}

static kv_policy policy(const char *text)
{
    kv_policy p;
    err e = { 0 };
    cr_assert_eq(kv_policy_parse(&p, text, strlen(text), "test", &e), ERR_OK, "%s", e.text);
    return p;
}

static kv_geometry geometry_of(uint32_t d, kv_format f, isa i)
{
    kv_geometry g = geometry(H, KH, d, f);
    g.isa = i;
    g.tables = profile(d);
    return g;
}

static kv_seq *open_under(kv *s, uint64_t id, const kv_policy *p, uint32_t n_prompt)
{
    kv_seq *q;
    err e = { 0 };
    cr_assert_eq(kv_seq_open_policy(s, id, p, n_prompt, &q, &e), ERR_OK, "%s", e.text);
    return q;
}

/* As line(), but no step goes beyond a boundary. */
static void go(kv *s, const kv_geometry *g, kv_seq *q, const uint32_t *tokens, uint32_t n, uint32_t chunk, float *out)
{
    for (uint32_t i = 0, m; i < n; i += m) {
        uint32_t room = kv_boundary(q) - kv_rows(q);
        m = n - i < chunk ? n - i : chunk;
        if (m > room) m = room;
        line(s, g, q, tokens + i, m, m, out ? out + i * out_floats(g) : NULL);
    }
}

static float *run(const kv_geometry *g, const kv_policy *p, const uint32_t *tokens, uint32_t n, uint32_t chunk)
{
    kv *s = open_store(g);
    float *out = new_out(g, n);
    kv_seq *q = open_under(s, 1, p, PROMPT);
    go(s, g, q, tokens, n, chunk, out);
    kv_seq_close(s, 1);
    cr_assert_eq(kv_bytes(s).pages_used, 0);
    kv_close(&s);
    return out;
}

/* ---- the contract -------------------------------------------------------------------------------------------------------- */

Test(kv_lossy, chunks_and_isas_give_the_same_bits_under_every_policy)
{
    uint32_t tokens[ROWS];
    pick_tokens(tokens, ROWS, 5);
    for (uint32_t i = 0; i < POLICIES; i++) {
        kv_policy p = policy(texts[i]);
        static const uint32_t sizes[] = { 48, 16, 64, 32 };
        kv_geometry g = geometry_of(sizes[i % 4], i % 3 == 1 ? KV_F32 : KV_F16, ISA_PLAIN);
        float *want = run(&g, &p, tokens, ROWS, 1);
        static const uint32_t chunks[] = { 7, 64, ROWS };
        for (uint32_t c = i % 2; c < 3; c += 2 - i % 2) {
            g.isa = isa_supported() >> ((c + 1) % ISA_COUNT) & 1 ? (isa)((c + 1) % ISA_COUNT) : ISA_PLAIN;
            float *got = run(&g, &p, tokens, ROWS, chunks[c]);
            size_t n = ROWS * out_floats(&g), at = 0;
            while (at < n && !memcmp(got + at, want + at, sizeof *got)) at++;
            cr_expect(at == n, "chunk %u, %s, policy\n%s: row %zu: %g, %g", chunks[c], isa_name(g.isa), texts[i],
                      at / out_floats(&g), at < n ? got[at] : 0, at < n ? want[at] : 0);
            free(got);
        }
        free(want);
    }
}

Test(kv_lossy, prompts_are_exact_until_they_settle)
{
    uint32_t tokens[ROWS];
    pick_tokens(tokens, ROWS, 5);
    kv_geometry g = geometry_of(16, KV_F16, ISA_PLAIN);
    float *exact = singles(&g, tokens, PROMPT + 1);
    for (uint32_t i = 0; i < POLICIES; i++) {
        kv_policy p = policy(texts[i]);
        float *got = run(&g, &p, tokens, PROMPT + 1, 64);
        cr_expect(same(got, exact, PROMPT * out_floats(&g)), "%s", texts[i]);
        size_t next = PROMPT * out_floats(&g);
        cr_expect(!same(got + next, exact + next, out_floats(&g)), "nothing happened: %s", texts[i]);
        free(got);
    }
    free(exact);
}

/* ---- against a model of attention in f64 ---------------------------------------------------------------------------------- */

/* Attention of token `row` over the rows that see[] names; keys and values as the world makes them. */
static void oracle(const kv_geometry *g, const uint32_t *tokens, uint32_t row, const uint8_t *sees, double *out)
{
    rope_table t;
    err e;
    cr_assert_eq(rope_table_open(&t, &g->rope, CTX, &e), ERR_OK);
    const vec_ops *vec = vec_for(ISA_PLAIN);
    for (uint32_t l = FIRST; l < LAST; l++) {
        float q[H * 64], k[KH * 64], v[KH * 64];
        fill(q, H * g->d, tokens[row], l, 3);
        for (uint32_t h = 0; h < H; h++) {
            double sum = 0, *to = out + (l - FIRST) * width(g) + h * g->d;
            memset(to, 0, g->d * sizeof *to);
            vec->rope(q + h * g->d, t.cos + (size_t)row * t.half, t.sin + (size_t)row * t.half, g->d, 0);
            for (uint32_t j = 0; j <= row; j++) {
                if (!sees[j]) continue;
                double dot = 0;
                uint32_t kh = h / (H / KH);
                fill(k, KH * g->d, tokens[j], l, 1);
                fill(v, KH * g->d, tokens[j], l, 2);
                vec->rope(k + kh * g->d, t.cos + (size_t)j * t.half, t.sin + (size_t)j * t.half, g->d, 0);
                for (uint32_t c = 0; c < g->d; c++) dot += (double)q[h * g->d + c] * k[kh * g->d + c];
                double p = exp(dot / sqrt(g->d));
                sum += p;
                for (uint32_t c = 0; c < g->d; c++) to[c] += p * v[kh * g->d + c];
            }
            for (uint32_t c = 0; c < g->d; c++) to[c] /= sum;
        }
    }
    rope_table_close(&t);
}

static double worst_error(const float *got, const double *want, uint32_t n)
{
    double worst = 0;
    for (uint32_t i = 0; i < n; i++) worst = fmax(worst, fabs(got[i] - want[i]));
    return worst;
}

/* Sinks and the newest rows, counted at every settlement. */
Test(kv_lossy, sinks_and_window_see_what_they_should)
{
    kv_geometry g = geometry_of(16, KV_F32, ISA_PLAIN);
    kv_policy p = policy("[keep]\nscore=position\nrows=48\nsinks=4\nwindow=8\n");
    uint32_t tokens[ROWS];
    uint8_t sees[ROWS];
    static double want[LAYERS * H * 16];
    pick_tokens(tokens, ROWS, 5);
    float *got = run(&g, &p, tokens, ROWS, 7);
    memset(sees, 1, sizeof sees);
    for (uint32_t row = 0; row < ROWS; row++) {
        for (uint32_t j = 0; j < row && (row == PROMPT || row == 256); j++) sees[j] = j < 4 || j + 44 >= row;
        if (row % 9 && row != PROMPT && row != 256) continue;
        oracle(&g, tokens, row, sees, want);
        double off = worst_error(got + row * out_floats(&g), want, (uint32_t)out_floats(&g));
        cr_assert_lt(off, 2e-5, "row %u: %g", row, off);
    }
    free(got);
}

Test(kv_lossy, packed_rows_are_near_the_exact_ones)
{
    static const struct { const char *text; double most; } near[] = {
        { "[format]\nk=q8_0\nv=q8_0\n", 0.02 }, { "[format]\nk=q8_0+h\nv=q8_0+h\n", 0.02 },
        { "[format]\nk=q4_0+h\nv=q4_0+h\n", 0.35 },
        { "[format]\nk=kivi4\nv=kivi4\n", 0.2 }, { "[format]\nk=channel8\nv=token8\n", 0.02 },
        { "[format]\nk=channel8\nv=token8\nlevels=8,4\n", 0.2 }, { "[format]\nk=kvquant4\nv=kvquant4\n", 0.3 },
    };
    uint32_t tokens[ROWS];
    uint8_t sees[ROWS];
    static double want[LAYERS * H * 32];
    kv_geometry g = geometry_of(32, KV_F32, ISA_PLAIN);
    pick_tokens(tokens, ROWS, 5);
    memset(sees, 1, sizeof sees);
    for (size_t i = 0; i < sizeof near / sizeof *near; i++) {
        kv_policy p = policy(near[i].text);
        float *got = run(&g, &p, tokens, ROWS, 64);
        double worst = 0;
        for (uint32_t row = PROMPT; row < ROWS; row += 13) {
            oracle(&g, tokens, row, sees, want);
            worst = fmax(worst, worst_error(got + row * out_floats(&g), want, (uint32_t)out_floats(&g)));
        }
        printf("# worst error %.4f of values in [-2, 2]: %.40s\n", worst, near[i].text + 9);
        cr_assert_lt(worst, near[i].most, "%s", near[i].text);
        free(got);
    }
}

/* Rows of a staircase are packed with fewer bits at 256 and 512 rows of age, and the sequence may have come in any chunks. */
Test(kv_lossy, a_staircase_goes_down_with_age)
{
    enum { LONG = 900 };
    static uint32_t tokens[LONG];
    kv_geometry g = geometry_of(32, KV_F16, ISA_PLAIN);
    kv_policy p = policy("[format]\nk=kivi8\nv=kivi8\nlevels=8,4,2\n"), flat = policy("[format]\nk=kivi8\nv=kivi8\n");
    g.n_ctx = 1024;
    pick_tokens(tokens, LONG, 5);
    kv *s = open_store(&g), *t = open_store(&g), *u = open_store(&g);
    kv_seq *q = open_under(s, 1, &p, PROMPT), *r = open_under(t, 1, &p, PROMPT), *f = open_under(u, 1, &flat, PROMPT);
    float *a = new_out(&g, LONG), *b = new_out(&g, LONG);
    go(s, &g, q, tokens, LONG, 7, a);
    go(t, &g, r, tokens, LONG, 200, b);
    go(u, &g, f, tokens, LONG, 200, NULL);
    cr_assert(same(a, b, LONG * out_floats(&g)), "chunks of 7 and of 200");
    /* settled at 768: 256 rows of 8 bits, 256 of 4, 256 of 2, by whole panes that began at the prompt's end */
    double bytes = (double)kv_bytes(s).packed, even = (double)kv_bytes(u).packed;
    printf("# %.0f bytes, %.0f in 8 bits throughout\n", bytes, even);
    cr_assert_lt(bytes, 0.68 * even);
    cr_assert_gt(bytes, 0.5 * even);
    free(a);
    free(b);
    kv_close(&s);
    kv_close(&t);
    kv_close(&u);
}

/* ---- forks, other rows, memory ---------------------------------------------------------------------------------------------- */

Test(kv_lossy, forks_go_on_like_the_whole)
{
    uint32_t a[ROWS], b[ROWS];
    kv_geometry g = geometry_of(16, KV_F16, ISA_PLAIN);
    for (uint32_t i = 0; i < POLICIES; i++) {
        kv_policy p = policy(texts[i]);
        uint32_t at = i % 2 ? PROMPT + 20 : PROMPT;
        err e = { 0 };
        pick_tokens(a, ROWS, 5);
        pick_tokens(b, ROWS, 5);
        for (uint32_t j = at; j < ROWS; j++) b[j] += 1000;
        float *wa = run(&g, &p, a, ROWS, 9), *wb = run(&g, &p, b, ROWS, 9), *got = new_out(&g, ROWS);
        kv *s = open_store(&g);
        kv_seq *q = open_under(s, 1, &p, PROMPT);
        go(s, &g, q, a, at, 64, got);
        uint64_t used = kv_bytes(s).pages_used;
        cr_assert_eq(kv_fork(q, 2, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(kv_bytes(s).pages_used, used, "a fork takes no page");
        kv_seq *f = kv_seq_find(s, 2);
        size_t w = out_floats(&g);
        go(s, &g, f, b + at, 200 - at, 5, got + at * w);
        cr_expect(same(got + at * w, wb + at * w, (200 - at) * w), "the fork, %s", texts[i]);
        go(s, &g, q, a + at, ROWS - at, 5, got + at * w);
        cr_expect(same(got + at * w, wa + at * w, (ROWS - at) * w), "the parent, %s", texts[i]);
        kv_seq_close(s, 1);
        go(s, &g, f, b + 200, ROWS - 200, 5, got + 200 * w);
        cr_expect(same(got + 200 * w, wb + 200 * w, (ROWS - 200) * w), "the fork without its parent, %s", texts[i]);
        kv_seq_close(s, 2);
        cr_assert_eq(kv_bytes(s).pages_used, 0, "%s", texts[i]);
        kv_close(&s);
        free(wa);
        free(wb);
        free(got);
    }
}

enum { SEE_ALL = KV_SEE_SUMS | KV_SEE_LAST | KV_SEE_QUERIES | KV_SEE_ENTROPY, EARLY = 41 };

static void go_unseen(kv *s, const kv_geometry *g, kv_seq *q, const uint32_t *tokens, uint32_t n, uint32_t chunk)
{
    float *out = new_out(g, n);
    go(s, g, q, tokens, n, chunk, out);
    free(out);
}

static kv_seq *watcher(kv *s, const kv_geometry *g, const uint32_t *tokens, uint32_t n, uint32_t chunk)
{
    kv_seq *q;
    err e = { 0 };
    cr_assert_eq(kv_seq_open_watch(s, 1, SEE_ALL, 32, n, &q, &e), ERR_OK, "%s", e.text);
    go_unseen(s, g, q, tokens, n, chunk);
    return q;
}

/* The rest of a line under p, behind rows that a watcher had; want: those of a sequence that was under p from the start. */
static void goes_on(kv *s, const kv_geometry *g, kv_seq *q, const kv_policy *p, const uint32_t *tokens, uint32_t from, const char *text)
{
    err e = { 0 };
    kv *alone = open_store(g);
    kv_seq *whole = open_under(alone, 9, p, from);
    float *want = new_out(g, ROWS), *got = new_out(g, ROWS);
    go(alone, g, whole, tokens, from, 64, want);
    cr_assert_eq(kv_fork_policy(q, 2, p, &e), ERR_OK, "%s: %s", text, e.text);
    kv_seq *f = kv_seq_find(s, 2);
    cr_expect_eq(kv_rows(f), from);
    kv_seq_usage a = kv_seq_bytes(f), b = kv_seq_bytes(whole);
    cr_expect(a.data == b.data && a.seen <= b.seen, "%s: %llu and %llu bytes, alone %llu and %llu", text, (unsigned long long)a.data,
              (unsigned long long)a.seen, (unsigned long long)b.data, (unsigned long long)b.seen);
    if (p->lossy) cr_expect_eq(kv_bytes(alone).data, b.data, "%s", text);
    go(alone, g, whole, tokens + from, ROWS - from, 5, want);
    go(s, g, f, tokens + from, ROWS - from, 7, got);
    cr_expect(same(got, want, (ROWS - from) * out_floats(g)), "from row %u on other bits: %s", from, text);
    kv_seq_close(s, 2);
    kv_close(&alone);
    free(want);
    free(got);
}

Test(kv_lossy, a_policy_taken_up_at_the_prompts_end_goes_on_as_one_from_the_start)
{
    uint32_t tokens[ROWS];
    err e = { 0 };
    pick_tokens(tokens, ROWS, 5);
    for (uint32_t i = 0; i <= POLICIES; i++) {
        kv_policy p = i < POLICIES ? policy(texts[i]) : kv_policy_identity();
        const char *text = i < POLICIES ? texts[i] : "identity";
        kv_geometry g = geometry_of(i % 3 ? 16 : 48, KV_F16, ISA_PLAIN);
        kv *s = open_store(&g);
        kv_seq *q = watcher(s, &g, tokens, EARLY, 9);
        if (i % 3 == 0) goes_on(s, &g, q, &p, tokens, EARLY, text);
        cr_assert_eq(kv_seq_prompt(q, PROMPT, &e), ERR_OK, "%s", e.text);
        go_unseen(s, &g, q, tokens + EARLY, PROMPT - EARLY, 64);
        goes_on(s, &g, q, &p, tokens, PROMPT, text);
        kv_seq_close(s, 1);
        cr_expect_eq(kv_bytes(s).pages_used, 0, "%s", text);
        kv_close(&s);
    }
}

Test(kv_lossy, a_watcher_takes_no_more_than_its_prompt_and_gives_no_more_than_it_saw)
{
    uint32_t tokens[ROWS], slots[2];
    kv_geometry g = geometry_of(16, KV_F16, ISA_PLAIN);
    kv_policy h2o = policy("[keep]\nscore=h2o\nrows=40\n"), snap = policy("[keep]\nscore=snapkv\nrows=40\nqueries=33\n");
    err e = { 0 };
    pick_tokens(tokens, ROWS, 5);
    kv *s = open_store(&g);
    kv_seq *q = watcher(s, &g, tokens, EARLY, 64), *few;
    kv_row row = { .row = EARLY, .pos = EARLY, .parent = KV_ROW_NONE };
    cr_expect_eq(kv_reserve(q, &row, 1, slots, &e), ERR_STATE);
    cr_expect_eq(kv_fork_policy(q, 2, &snap, &e), ERR_CONFIG);
    cr_assert_eq(kv_seq_open_watch(s, 3, KV_SEE_LAST, 32, EARLY, &few, &e), ERR_OK);
    cr_expect_eq(kv_fork_policy(few, 2, &h2o, &e), ERR_STATE, "before the prompt is there");
    go_unseen(s, &g, few, tokens, EARLY, 64);
    cr_expect_eq(kv_fork_policy(few, 2, &h2o, &e), ERR_CONFIG);
    cr_expect_null(kv_seq_find(s, 2));
    kv_close(&s);
}

/* Rows that are sent again, and branches that are not taken, leave no trace. */
Test(kv_lossy, tentative_rows_leave_no_trace)
{
    uint32_t tokens[ROWS];
    kv_geometry g = geometry_of(16, KV_F16, ISA_PLAIN);
    pick_tokens(tokens, ROWS, 5);
    for (uint32_t i = 0; i < POLICIES; i++) {
        kv_policy p = policy(texts[i]);
        if (!p.see && i) continue;
        float *want = run(&g, &p, tokens, ROWS, 9), *got = new_out(&g, ROWS);
        kv *s = open_store(&g);
        kv_seq *q = open_under(s, 1, &p, PROMPT);
        size_t w = out_floats(&g);
        err e = { 0 };
        go(s, &g, q, tokens, PROMPT - 10, 64, got);
        for (uint32_t at = PROMPT - 1; at < ROWS; at++) {
            if (at == PROMPT - 1) {     /* the prompt's last rows in one step, then its last row once more */
                kv_row rows[10];
                for (uint32_t j = 0; j < 10; j++) rows[j] = (kv_row){ at - 9 + j, at - 9 + j, at - 10 + j, 0, 0, 0 };
                float *x = new_out(&g, 10);
                step_rows(s, &g, q, rows, tokens + at - 9, 10, false, x);
                free(x);
                cr_assert_eq(kv_commit(q, at - 1, &e), ERR_OK, "%s", e.text);
            }
            /* two branches of the row; the second one is taken, and the row index shows that there was another */
            kv_row two[2] = { { 3 * at, at, KV_ROW_NONE, 0, 0, 0 }, { 3 * at + 1, at, KV_ROW_NONE, 0, 0, 0 } };
            uint32_t t[2] = { 7777, tokens[at] };
            float *x = new_out(&g, 2);
            step_rows(s, &g, q, two, t, 2, false, x);
            memcpy(got + at * w, x + w, w * sizeof *x);
            free(x);
            cr_assert_eq(kv_commit(q, 3 * at + 1, &e), ERR_OK, "%s", e.text);
        }
        cr_expect(same(got + (PROMPT - 1) * w, want + (PROMPT - 1) * w, (ROWS - PROMPT + 1) * w), "%s", texts[i]);
        kv_close(&s);
        free(want);
        free(got);
    }
}

/* ThinK: 40 % of 32 channels, 12 of them, are no bytes any more, whether keys are packed by channel (a pane is whole lines of 64
 * bytes) or stay raw. */
Test(kv_lossy, pruned_channels_give_their_bytes_back)
{
    static const struct { const char *all, *few; double want; } pair[] = {
        { "[format]\nk=kivi4\nv=kivi4\n", "[change]\nprune=think\n[format]\nk=kivi4\nv=kivi4\n", 0.85 },
        { "[format]\nk=raw\nv=q8_0\n", "[change]\nprune=think\n[format]\nk=raw\nv=q8_0\n", 1 - 16 * 12.0 / (32 * 24.5) },
    };
    uint32_t tokens[ROWS];
    pick_tokens(tokens, ROWS, 5);
    kv_geometry g = geometry_of(32, KV_F16, ISA_PLAIN);
    for (uint32_t i = 0; i < 2; i++) {
        double data[2];
        for (uint32_t k = 0; k < 2; k++) {
            kv_policy p = policy(k ? pair[i].few : pair[i].all);
            kv *s = open_store(&g);
            kv_seq *q = open_under(s, 1, &p, 128);
            go_unseen(s, &g, q, tokens, 128, 64);
            data[k] = (double)kv_seq_bytes(q).data;
            kv_close(&s);
        }
        cr_expect(fabs(data[1] / data[0] - pair[i].want) < 0.02, "%g bytes of %g, not %g of them", data[1], data[0], pair[i].want);
    }
}

/* Bytes of a row's K and V, from what the formats say: 128 rows, which fill panes, and one that looks at them. */
Test(kv_lossy, attention_reads_packed_bytes_and_of_pruned_channels_none)
{
    static const struct { const char *text; double row; } all[] = {
        { "[format]\nk=q8_0\nv=q8_0\n", 2 * (64 + 2 * 2) }, { "[format]\nk=q4_0+h\nv=q4_0+h\n", 2 * (32 + 2 * 2) },
        { "[format]\nk=kivi4\nv=kivi4\n", 32 + 4 * 64 / 32.0 + 32 + 2 * 4 }, { "[format]\nk=kivi2\nv=kivi2\n", 16 + 4 * 64 / 32.0 + 16 + 2 * 4 },
        { "[change]\nprune=think\n[format]\nk=kivi4\nv=kivi4\n", 39 * (4 + 32 * 4 / 8.0) / 32 + 32 + 2 * 4 },    /* 25 of 64 channels go */
        { "[change]\nprune=think\n[format]\nk=raw\nv=raw\n", 39 * 2 + 64 * 2 },
    };
    uint32_t tokens[ROWS];
    pick_tokens(tokens, ROWS, 5);
    kv_geometry g = geometry_of(64, KV_F16, ISA_PLAIN);
    for (uint32_t i = 0; i < sizeof all / sizeof *all; i++) {
        kv_policy p = policy(all[i].text);
        kv *s = open_store(&g);
        kv_seq *q = open_under(s, 1, &p, 128);
        go_unseen(s, &g, q, tokens, 128, 64);
        cr_expect_eq(kv_bytes(s).read, 0, "nothing was packed");
        go_unseen(s, &g, q, tokens + 128, 1, 1);
        double want = all[i].row * 128 * LAYERS * KH, read = (double)kv_bytes(s).read;
        cr_expect(fabs(read / want - 1) < 0.05, "%g bytes, not %g: %s", read, want, all[i].text);
        printf("# policy %u: %.1f bytes a row read, %.1f by the format\n", i, read / (128 * LAYERS * KH), all[i].row);
        kv_close(&s);
    }
}

/* What status shows of formats adds up, shared or not. */
Test(kv_lossy, bytes_by_format_are_those_of_the_packed_pages)
{
    uint32_t tokens[ROWS];
    err e;
    pick_tokens(tokens, ROWS, 5);
    kv_geometry g = geometry_of(16, KV_F16, ISA_PLAIN);
    kv *s = open_store(&g);
    for (uint32_t i = 0; i < POLICIES; i++) {
        kv_policy p = policy(texts[i]);
        kv_seq *q = open_under(s, 10 + i, &p, 64);
        go_unseen(s, &g, q, tokens, 70, 64);
        if (i % 3 == 0) cr_assert_eq(kv_fork(q, 100 + i, &e), ERR_OK);
    }
    kv_usage u = kv_bytes(s);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < KV_PACK_COUNT; i++) {
        cr_expect_gt(u.by_kind[i], 0, "kind %u", i);
        sum += u.by_kind[i];
    }
    cr_expect(sum + KV_PACK_COUNT >= u.packed && sum <= u.packed + KV_PACK_COUNT, "%llu of %llu", (unsigned long long)sum, (unsigned long long)u.packed);
    kv_close(&s);
}

Test(kv_lossy, evicted_rows_give_their_pages_back)
{
    kv_geometry g = geometry_of(16, KV_F16, ISA_PLAIN);
    kv_policy p = policy("[keep]\nscore=position\nrows=64\nsinks=4\nwindow=8\n");
    uint32_t tokens[ROWS];
    pick_tokens(tokens, ROWS, 5);
    kv *s = open_store(&g);
    kv_seq *q = open_under(s, 1, &p, 255);
    go(s, &g, q, tokens, 254, 64, NULL);
    uint64_t before = kv_bytes(s).data;
    go(s, &g, q, tokens + 254, 2, 64, NULL);
    kv_usage u = kv_bytes(s);
    uint64_t row = 2 * 16 * 2, kept = (uint64_t)64 * row * KH * LAYERS;
    cr_assert_eq(u.data, kept, "%llu bytes of %llu", (unsigned long long)u.data, (unsigned long long)before);
    cr_assert_eq(u.packed, kept);
    cr_assert_eq(u.evicted, (255 - 64) * KH * LAYERS + KH * LAYERS, "at 255, and one more at 256");
    cr_assert_gt(before, 3 * u.data);
    kv_close(&s);
}

Test(kv_lossy, what_cannot_be_is_refused)
{
    kv_geometry g = geometry_of(16, KV_F16, ISA_PLAIN);
    kv_policy p = policy(texts[10]), nuq = policy(texts[7]), tidal = policy("[change]\nretrieve=tidal\n");
    uint32_t tokens[ROWS], slot[2];
    err e = { 0 };
    pick_tokens(tokens, ROWS, 5);
    kv *s = open_store(&g);
    kv_seq *q = open_under(s, 1, &p, 10);
    go(s, &g, q, tokens, 9, 3, NULL);
    kv_row over[2] = { { 9, 9, 8, 0, 0, 0 }, { 10, 10, 9, 0, 0, 0 } };
    cr_assert_eq(kv_reserve(q, over, 2, slot, &e), ERR_STATE);
    cr_assert(strstr(e.text, "row 10") && strstr(e.text, "10 rows"), "%s", e.text);
    go(s, &g, q, tokens + 9, 5, 3, NULL);
    cr_assert_eq(kv_rows(q), 14);
    cr_assert_eq(kv_truncate(q, 12, &e), ERR_STATE, "what row 12 saw cannot be taken back");
    cr_assert_eq(kv_export_bytes(q, FIRST, LAST, 0, 14), 0, "settled rows are no longer exact");
    cr_assert_eq(kv_seq_prompt(q, 5, &e), ERR_STATE);
    cr_assert_eq(kv_truncate(q, 0, &e), ERR_OK);
    cr_assert_eq(kv_bytes(s).pages_used, 0);
    cr_assert_eq(kv_seq_prompt(q, PROMPT, &e), ERR_OK);
    float *want = run(&g, &p, tokens, 120, 9), *got = new_out(&g, 120);
    go(s, &g, q, tokens, 120, 9, got);
    cr_assert(same(got, want, 120 * out_floats(&g)), "after a fresh start");
    free(want);
    free(got);
    kv_close(&s);
    g.tables = NULL;
    s = open_store(&g);
    cr_assert_eq(kv_seq_open_policy(s, 1, &nuq, 0, &q, &e), ERR_CONFIG);
    cr_assert(strstr(e.text, "codebooks"), "%s", e.text);
    uint32_t from[LAST] = { 0 };
    cr_assert_eq(kv_seq_open_skipping(s, 1, &tidal, 0, from, &q, &e), ERR_CONFIG);
    cr_assert_eq(kv_bytes(s).sequences, 0);
    kv_close(&s);
}

/* ---- the state stream -------------------------------------------------------------------------------------------------- */

static unsigned char *state_of(const kv_seq *q, uint32_t l0, uint32_t l1, size_t *len)
{
    err e = { 0 };
    *len = kv_state_bytes(q, l0, l1);
    unsigned char *buf = malloc(*len + 1);
    cr_assert_eq(kv_state_export(q, l0, l1, buf, *len, &e), ERR_OK, "%s", e.text);
    return buf;
}

static void take_state(const kv_seq *from, kv_seq *to, uint32_t l0, uint32_t l1)
{
    size_t len;
    err e = { 0 };
    unsigned char *buf = state_of(from, l0, l1, &len);
    cr_assert_eq(kv_import(to, buf, len, &e), ERR_OK, "%s", e.text);
    free(buf);
}

Test(kv_lossy, a_state_goes_on_elsewhere_with_the_same_bits)
{
    static const uint32_t cuts[] = { PROMPT - 1, PROMPT, PROMPT + 30, 256, 261 };
    uint32_t tokens[ROWS];
    pick_tokens(tokens, ROWS, 5);
    kv_geometry g = geometry_of(16, KV_F16, ISA_PLAIN);
    for (uint32_t i = 0; i < POLICIES; i++) {
        kv_policy p = policy(texts[i]);
        uint32_t cut = cuts[i % 5];
        float *want = run(&g, &p, tokens, ROWS, 9), *got = new_out(&g, ROWS);
        kv *a = open_store(&g), *b = open_store(&g);
        kv_seq *q = open_under(a, 1, &p, PROMPT), *to = open_under(b, 1, &p, PROMPT);
        go(a, &g, q, tokens, cut, 9, got);
        if (i % 2) take_state(q, to, FIRST, LAST);
        else for (uint32_t l = LAST; l-- > FIRST;) take_state(q, to, l, l + 1);
        cr_assert_eq(kv_rows(to), cut);
        size_t w = out_floats(&g);
        go(b, &g, to, tokens + cut, ROWS - cut, 5, got + cut * w);
        cr_expect(same(got + cut * w, want + cut * w, (ROWS - cut) * w), "cut at %u, %s", cut, texts[i]);
        kv_seq_close(b, 1);
        cr_assert_eq(kv_bytes(b).pages_used, 0);
        kv_close(&a);
        kv_close(&b);
        free(want);
        free(got);
    }
}

/* A stream that something happened to is taken whole or refused with a word; the sequence is empty then. */
Test(kv_lossy, a_damaged_state_is_refused_and_leaves_nothing)
{
    uint32_t tokens[ROWS], refused = 0, taken = 0;
    uint64_t seed = test_seed();
    dice d = { seed, 0 };
    pick_tokens(tokens, ROWS, 5);
    kv_geometry g = geometry_of(16, KV_F16, ISA_PLAIN);
    for (uint32_t i = 0; i < 600; i++) {
        static const uint32_t some[] = { 9, 10, 12, 15, 18, 20 };
        kv_policy p = policy(texts[some[i % 6]]);
        kv *s = open_store(&g);
        kv_seq *q = open_under(s, 1, &p, 40), *to = open_under(s, 2, &p, 40);
        float *out = new_out(&g, 45);
        size_t len;
        err e = { 0 };
        go(s, &g, q, tokens, 45, 9, out);
        unsigned char *buf = state_of(q, FIRST, LAST, &len);
        uint64_t used = kv_bytes(s).pages_used, check;
        uint32_t changes = 1 + roll(&d, 3);
        /* most often in the first bytes, where numbers are; the checksum is made to fit */
        for (uint32_t j = 0; j < changes; j++) {
            uint32_t at = roll(&d, roll(&d, 3) ? 1200 : (uint32_t)len - 8) % (uint32_t)(len - 8);
            buf[at] ^= (unsigned char)(1u << roll(&d, 8));
        }
        check = XXH3_64bits(buf, len - 8);
        memcpy(buf + len - 8, &check, 8);
        err_code rc = kv_import(to, buf, len, &e);
        if (rc) {
            refused++;
            cr_assert(e.text[0]);
            cr_assert_eq(kv_rows(to), 0);
            cr_assert_eq(kv_bytes(s).pages_used, used);
        } else {
            taken++;
            cr_assert_eq(kv_rows(to), 45);
            kv_row next = { kv_last_row(to) + 1, 45, KV_ROW_NONE, 0, 0, 0 };
            uint32_t slot;
            if (!kv_reserve(to, &next, 1, &slot, &e)) compute(s, &g, to, &slot, tokens, 1, false, out);
        }
        free(buf);
        free(out);
        kv_close(&s);
    }
    printf("# %u refused, %u taken\n", refused, taken);
    cr_assert_gt(refused, 50);
    cr_assert_gt(taken, 50);
}

/* ---- lives ---------------------------------------------------------------------------------------------------------------- */

/* A session of the random lives: the tokens it has, its policy and its prompt. */
enum { LIVES = 10, LIFE_ROWS = 60 };
typedef struct { uint32_t n, n_prompt, policy, token[LIFE_ROWS]; } life;
typedef struct { kv *s; kv_geometry g; dice d; life life[LIVES]; uint32_t born, full, next, checks; } town;

static void live_open(town *t, uint32_t i)
{
    life *x = &t->life[i];
    kv_seq *q;
    err e = { 0 };
    *x = (life){ .policy = roll(&t->d, POLICIES), .n_prompt = 8 + roll(&t->d, 30) };
    kv_policy p = policy(texts[x->policy]);
    p.rows = p.rows ? p.rows / 4 + p.sinks + p.window + 1 : 0;       /* small, so that something is evicted */
    err_code rc = kv_seq_open_policy(t->s, i, &p, x->n_prompt, &q, &e);
    cr_assert(rc == ERR_OK || rc == ERR_FULL, "%s", e.text);
    if (rc) t->full++;
    else t->born++;
}

/* Some more rows, one step; a session that finds no room ends. */
static void live_go(town *t, uint32_t i)
{
    life *x = &t->life[i];
    kv_seq *q = kv_seq_find(t->s, i);
    uint32_t n = 1 + roll(&t->d, 12), slots[12], room = kv_boundary(q) - kv_rows(q);
    kv_row rows[12];
    err e = { 0 };
    if (n > room) n = room;
    if (x->n + n > LIFE_ROWS) return kv_seq_close(t->s, i);
    for (uint32_t j = 0; j < n; j++) {
        rows[j] = (kv_row){ x->n + j, x->n + j, x->n + j ? x->n + j - 1 : KV_ROW_NONE, 0, 0, 0 };
        x->token[x->n + j] = t->next++ % 4000;
    }
    err_code rc = kv_reserve(q, rows, n, slots, &e);
    if (!rc) {
        float *out = new_out(&t->g, n);
        compute(t->s, &t->g, q, slots, x->token + x->n, n, false, out);
        free(out);
        rc = kv_commit(q, x->n + n - 1, &e);
    }
    cr_assert(rc == ERR_OK || rc == ERR_FULL, "%s", e.text);
    if (rc) t->full++, kv_seq_close(t->s, i);
    else x->n += n;
}

static void live_fork(town *t, uint32_t i, uint32_t child, bool by_stream)
{
    err e = { 0 };
    kv_seq *q = kv_seq_find(t->s, i), *c;
    if (kv_seq_find(t->s, child) || !t->life[i].n) return;
    err_code rc = ERR_OK;
    if (!by_stream) {
        cr_assert_eq(kv_fork(q, child, &e), ERR_OK, "%s", e.text);
    } else {
        size_t len;
        kv_policy p = policy(texts[t->life[i].policy]);
        p.rows = p.rows ? p.rows / 4 + p.sinks + p.window + 1 : 0;
        unsigned char *buf = state_of(q, FIRST, LAST, &len);
        rc = kv_seq_open_policy(t->s, child, &p, t->life[i].n_prompt, &c, &e);
        if (!rc) rc = kv_import(c, buf, len, &e);
        cr_assert(rc == ERR_OK || rc == ERR_FULL, "%s", e.text);
        if (rc) t->full++, kv_seq_close(t->s, child);
        free(buf);
    }
    if (rc) return;
    t->life[child] = t->life[i];
    t->born++;
}

/* The state it has is that of the same tokens in a line of their own. */
static void live_check(town *t, uint32_t i)
{
    life *x = &t->life[i];
    kv_policy p = policy(texts[x->policy]);
    p.rows = p.rows ? p.rows / 4 + p.sinks + p.window + 1 : 0;
    if (!x->n) return;
    kv_geometry g = t->g;
    g.max_bytes = 0;
    kv *fresh = open_store(&g);
    kv_seq *f = open_under(fresh, 1, &p, x->n_prompt);
    float *out = new_out(&g, x->n);
    go(fresh, &g, f, x->token, x->n, 5, out);
    size_t a, b;
    unsigned char *is = state_of(kv_seq_find(t->s, i), FIRST, LAST, &a), *want = state_of(f, FIRST, LAST, &b);
    cr_assert(a == b && !memcmp(is, want, a), "session %u of %u rows, policy %s", i, x->n, texts[x->policy]);
    t->checks++;
    free(is);
    free(want);
    free(out);
    kv_close(&fresh);
}

/* KV_LIVES=10000 for the long one. */
Test(kv_lossy, random_lives_give_every_page_back)
{
    static town t;
    uint32_t lives = getenv("KV_LIVES") ? (uint32_t)strtoul(getenv("KV_LIVES"), NULL, 10) : 1000;
    t.g = geometry_of(8, KV_F16, ISA_PLAIN);
    t.g.max_bytes = 100000;
    t.s = open_store(&t.g);
    t.d.seed = test_seed();
    for (uint32_t op = 0; t.born < lives; op++) {
        uint32_t i = roll(&t.d, LIVES), what = roll(&t.d, 20);
        kv_seq *q = kv_seq_find(t.s, i);
        if (!q) live_open(&t, i);
        else if (what < 12) live_go(&t, i);
        else if (what < 16) live_fork(&t, i, roll(&t.d, LIVES), what % 2);
        else if (what < 18) kv_seq_close(t.s, i);
        else if (op % 5 == 0) live_check(&t, i);
        kv_usage u = kv_bytes(t.s);
        cr_assert(u.arena <= t.g.max_bytes && u.data <= u.arena);
    }
    for (uint32_t i = 0; i < LIVES; i++) {
        if (kv_seq_find(t.s, i)) live_check(&t, i);
        kv_seq_close(t.s, i);
    }
    kv_usage u = kv_bytes(t.s);
    cr_assert_eq(u.pages_used, 0);
    cr_assert_eq(u.data, 0);
    printf("# %u sessions, %u refusals for room, %u checked\n", t.born, t.full, t.checks);
    cr_assert_gt(t.full, 20);
    cr_assert_gt(t.checks, 20);
    kv_close(&t.s);
}

static uint64_t resident(void)
{
    unsigned long total = 0, pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    cr_assert(f && fscanf(f, "%lu %lu", &total, &pages) == 2);
    fclose(f);
    return (uint64_t)pages * 4096;
}

/* What kv_bytes says is what the process has: within 5 % at tens of megabytes. */
Test(kv_lossy, bytes_are_those_of_the_process)
{
    enum { SESSIONS = 64, LONG = 1216 };
    kv_geometry g = geometry_of(64, KV_F16, ISA_PLAIN);
    kv_policy p = policy("[format]\nk=q8_0\nv=q4_0\n");
    g.n_ctx = 2048;
    kv *s = open_store(&g);
    uint64_t before = resident(), had = kv_bytes(s).arena + kv_bytes(s).meta;
    for (uint64_t i = 0; i < SESSIONS; i++) {
        kv_seq *q = open_under(s, i, &p, LONG);
        uint32_t slots[CTX], tokens[CTX];
        err e = { 0 };
        for (uint32_t at = 0, n; at < LONG; at += n) {
            kv_row rows[CTX];
            n = LONG - at < 300 ? LONG - at : 300;
            for (uint32_t j = 0; j < n; j++) rows[j] = (kv_row){ at + j, at + j, at + j ? at + j - 1 : KV_ROW_NONE, 0, 0, 0 };
            cr_assert_eq(kv_reserve(q, rows, n, slots, &e), ERR_OK, "%s", e.text);
            pick_tokens(tokens, n, at % 7);
            if (!i) compute(s, &g, q, slots, tokens, n, false, NULL);
            cr_assert_eq(kv_commit(q, at + n - 1, &e), ERR_OK, "%s", e.text);
        }
    }
    kv_usage u = kv_bytes(s);
    double says = (double)(u.arena + u.meta - had), is = (double)(resident() - before), row = (double)u.data / SESSIONS / LONG;
    double want = LAYERS * KH * 64 * (8.5 + 4.5) / 8;
    printf("# arena %.1f MB, in use %.1f MB, beside it %.1f MB, process %.1f MB; %.0f bytes a row, codes make %.0f\n",
           (double)u.arena / 1e6, (double)u.data / 1e6, (double)u.meta / 1e6, is / 1e6, row, want);
    cr_expect_lt((double)u.arena, 1.05 * (double)u.data + 8e6, "free slabs");
    cr_expect(row < 1.01 * want, "whole panes and nothing else");
#ifdef __SANITIZE_ADDRESS__
    (void)is, (void)says;
#else
    cr_expect(is < 1.05 * says + 4e6 && is > 0.95 * says - 8e6, "the process grew by %.0f, kv_bytes by %.0f", is, says);
#endif
    kv_close(&s);
}
