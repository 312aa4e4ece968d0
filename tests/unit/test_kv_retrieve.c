/* TidalDecode: what is chosen and what sparse layers read, against plain f64; the same bits however rows and layers are cut. */
#include "core/rope.h"
#include "core/vec.h"
#include "tests/unit/kv_world.h"
#include <math.h>

TestSuite(kv_retrieve, .timeout = 60);

enum { L = 6, H = 4, KH = 2, D = 32, PROMPT = 150, ROWS = 180, MOST = 24 };
static const char tidal[] = "[change]\nretrieve=tidal\nretrieve_rows=24\nretrieve_every=3\n[keep]\nsinks=2\nwindow=4\n";   /* 2 and 5 choose */
static const char drawn[] = "[change]\nretrieve=random\nretrieve_rows=24\nretrieve_every=3\n[keep]\nsinks=2\nwindow=4\n";
static const char *how = tidal;

static kv *store_of(uint32_t first, uint32_t last, kv_format f, isa i)
{
    kv_geometry g = geometry(H, KH, D, f);
    g.first = first, g.last = last, g.n_layers = L, g.isa = i;
    g.rope.n_rot = D / 2;
    return open_store(&g);
}

static kv_seq *seq_of(kv *s, const char *more)
{
    char text[256];
    kv_policy p;
    err e = { 0 };
    kv_seq *q;
    snprintf(text, sizeof text, "%s%s", how, more);
    cr_assert_eq(kv_policy_parse(&p, text, strlen(text), "test", &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_seq_open_policy(s, 1, &p, PROMPT, &q, &e), ERR_OK, "%s", e.text);
    return q;
}

static void (*make)(float *, uint32_t, uint32_t, uint32_t, uint32_t) = fill;

/* Rows [at, at + n) of the line through layers [first, last) of a store that has rows up to at. before: what other layers chose. */
static void rows_through(kv *s, kv_seq *q, uint32_t first, uint32_t last, uint32_t at, uint32_t n, const kv_seq *before, const uint32_t *their,
                         uint32_t *slots, float *out)
{
    kv_row rows[ROWS];
    err e = { 0 };
    float k[2 * KH * D], query[H * D], *x = scratch_of(s);
    for (uint32_t i = 0; i < n; i++) rows[i] = (kv_row){ at + i, at + i, i ? at + i - 1 : KV_ROW_NONE, 0, 0, 0 };
    cr_assert_eq(kv_reserve(q, rows, n, slots, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; before && i < n; i++) {
        uint32_t m;
        const uint32_t *row = kv_choice(before, their[i], &m);
        cr_assert_eq(kv_choice_set(q, slots[i], row, sizeof *row, m, &e), ERR_OK, "%s", e.text);
    }
    for (uint32_t l = first; l < last; l++) {
        for (uint32_t i = 0; i < n; i++) {
            make(k, KH * D, at + i, l, 1);
            make(k + KH * D, KH * D, at + i, l, 2);
            kv_append(q, l, slots[i], k, k + KH * D, 0, KH);
        }
        for (uint32_t i = 0; i < n; i++) {
            make(query, H * D, at + i, l, 3);
            kv_attend(q, l, slots[i], query, out + ((size_t)(at + i) * L + l) * H * D, 0, KH, x);
            kv_choose(q, l, slots[i]);
        }
    }
    free(x);
}

static uint32_t chunk_of(kv_seq *q, uint32_t at, uint32_t chunk)
{
    uint32_t room = kv_boundary(q) - at, n = ROWS - at < chunk ? ROWS - at : chunk;
    return n < room ? n : room;
}

/* All rows, in stores of layers [0, cut) and [cut, L), or one (cut L). */
static float *whole(uint32_t cut, uint32_t chunk, kv_format f, isa i, const char *more)
{
    uint32_t slots[2][ROWS];
    err e = { 0 };
    kv *s[2] = { store_of(0, cut, f, i), cut < L ? store_of(cut, L, f, i) : NULL };
    kv_seq *q[2] = { seq_of(s[0], more), s[1] ? seq_of(s[1], more) : NULL };
    float *out = calloc((size_t)ROWS * L * H * D, sizeof *out);
    for (uint32_t at = 0, n; at < ROWS; at += n) {
        n = chunk_of(q[0], at, chunk);
        rows_through(s[0], q[0], 0, cut, at, n, NULL, NULL, slots[0], out);
        if (s[1]) rows_through(s[1], q[1], cut, L, at, n, q[0], slots[0], slots[1], out);
        for (int k = 0; k < 2 && s[k]; k++) cr_assert_eq(kv_commit(q[k], at + n - 1, &e), ERR_OK, "%s", e.text);
    }
    for (int k = 0; k < 2; k++)
        if (s[k]) kv_close(&s[k]);
    return out;
}

static void same_however_cut(void)
{
    static const char *const more[] = { "", "[format]\nk=kivi2\nv=kivi2\n", "[format]\nk=q8_0+h\nv=q4_0+h\nresidual=32\n", "[format]\nk=kivi4\nv=raw\n" };
    for (uint32_t i = 0; i < 4; i++) {
        float *want = whole(L, 1, i % 2 ? KV_F32 : KV_F16, ISA_PLAIN, more[i]);
        for (uint32_t cut = 1; cut < L; cut++) {
            isa use = isa_supported() >> cut % ISA_COUNT & 1 ? (isa)(cut % ISA_COUNT) : ISA_PLAIN;
            float *got = whole(cut, cut * 13 - 12, i % 2 ? KV_F32 : KV_F16, use, more[i]);
            cr_expect(same(got, want, (size_t)ROWS * L * H * D), "layers cut at %u, policy\n%s", cut, more[i]);
            free(got);
        }
        free(want);
    }
}

Test(kv_retrieve, stages_chunks_and_isas_give_the_same_bits) { same_however_cut(); }

Test(kv_retrieve, so_does_a_choice_that_is_drawn)
{
    how = drawn;
    same_however_cut();
    how = tidal;
}

/* ---- plain f64 ------------------------------------------------------------------------------------------------------------ */

static void turned(float *x, const rope_table *t, uint32_t pos, uint32_t heads)
{
    for (uint32_t h = 0; h < heads; h++)
        vec_for(ISA_PLAIN)->rope(x + h * D, t->cos + (size_t)pos * t->half, t->sin + (size_t)pos * t->half, D / 2, 0);
}

/* Weights of row `row` over the rows that sees[] names, head by head. */
static void weights(uint32_t row, uint32_t layer, const uint8_t *sees, double w[H][ROWS])
{
    rope_table t;
    rope_config c = { .n_rot = D / 2, .base = 10000, .factor = 1 };
    err e;
    float q[H * D], k[KH * D];
    cr_assert_eq(rope_table_open(&t, &c, CTX, &e), ERR_OK);
    make(q, H * D, row, layer, 3);
    turned(q, &t, row, H);
    for (uint32_t j = 0; j <= row; j++) {
        make(k, KH * D, j, layer, 1);
        turned(k, &t, j, KH);
        for (uint32_t h = 0; h < H; h++) {
            w[h][j] = 0;
            for (uint32_t i = 0; i < D; i++) w[h][j] += (double)q[h * D + i] * k[h / (H / KH) * D + i];
            w[h][j] = sees[j] ? exp(w[h][j] / sqrt(D)) : 0;
        }
    }
    for (uint32_t h = 0; h < H; h++) {
        double sum = 0;
        for (uint32_t j = 0; j <= row; j++) sum += w[h][j];
        for (uint32_t j = 0; j <= row; j++) w[h][j] /= sum;
    }
    rope_table_close(&t);
}

/* The rows that a sort by summed weights picks; returns how many. */
static uint32_t naive_choice(uint32_t row, uint32_t layer, uint8_t *chosen)
{
    static double w[H][ROWS], total[ROWS];
    uint8_t all[ROWS];
    uint32_t n = 0;
    memset(all, 1, sizeof all);
    weights(row, layer, all, w);
    for (uint32_t j = 0; j <= row; j++) {
        chosen[j] = j < 2 || j + 4 > row;
        n += chosen[j];
        total[j] = w[0][j] + w[1][j] + w[2][j] + w[3][j];
    }
    for (; n < MOST; n++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t j = 0; j <= row; j++)
            if (!chosen[j] && (best == UINT32_MAX || total[j] > total[best])) best = j;
        chosen[best] = 1;
    }
    return n;
}

static double worst(const float *out, uint32_t row, uint32_t layer, const uint8_t *sees)
{
    static double w[H][ROWS];
    double bad = 0;
    weights(row, layer, sees, w);
    for (uint32_t h = 0; h < H; h++)
        for (uint32_t i = 0; i < D; i++) {
            double x = 0;
            for (uint32_t j = 0; j <= row; j++) {
                float v[KH * D];
                if (!sees[j]) continue;
                make(v, KH * D, j, layer, 2);
                x += w[h][j] * v[h / (H / KH) * D + i];
            }
            bad = fmax(bad, fabs(x - out[((size_t)row * L + layer) * H * D + h * D + i]));
        }
    return bad;
}

Test(kv_retrieve, layers_choose_and_read_what_plain_f64_does)
{
    float *out = whole(L, 1, KV_F32, ISA_PLAIN, "");
    for (uint32_t row = PROMPT - 1; row < ROWS; row += 10) {
        uint8_t all[ROWS], chosen[ROWS];
        memset(all, 1, sizeof all);
        cr_assert_eq(naive_choice(row, 2, chosen), MOST);
        for (uint32_t l = 0; l < L; l++) {
            bool sparse = row >= PROMPT && (l == 3 || l == 4);
            cr_expect_lt(worst(out, row, l, sparse ? chosen : all), 1e-5, "row %u, layer %u", row, l);
            if (sparse) cr_expect_gt(worst(out, row, l, all), 1e-3, "row %u, layer %u: it read all", row, l);
        }
    }
    free(out);
}

/* ---- a planted signal ----------------------------------------------------------------------------------------------------- */

static bool planted(uint32_t row) { return row % 17 == 5 && row < PROMPT; }

/* Rows that are planted answer the question, which lies where RoPE does not turn; their values are 1, those of the others -1. */
static void plant(float *x, uint32_t n, uint32_t token, uint32_t layer, uint32_t what)
{
    fill(x, n, token, layer, what);
    for (uint32_t i = 0; i < n; i++) {
        bool tail = i % D >= D / 2;
        if (what == 1) x[i] = (tail && planted(token) ? 6.0f : 0.1f * x[i]);
        else if (what == 2) x[i] = planted(token) ? 1 : -1;
        else x[i] = tail ? 1 : 0.1f * x[i];
    }
}

Test(kv_retrieve, rows_that_answer_are_found_and_few_are_read)
{
    make = plant;
    kv *s = store_of(0, L, KV_F16, ISA_PLAIN);
    kv_seq *q = seq_of(s, "[format]\nk=q8_0\nv=q8_0\n");
    float *out = calloc((size_t)ROWS * L * H * D, sizeof *out);
    uint32_t slots[ROWS], n, found = 0;
    err e = { 0 };
    rows_through(s, q, 0, L, 0, PROMPT, NULL, NULL, slots, out);
    cr_assert_eq(kv_commit(q, PROMPT - 1, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(kv_bytes(s).sparse_seen, 0, "prompt rows read everything");
    rows_through(s, q, 0, L, PROMPT, 1, NULL, NULL, slots, out);
    const uint32_t *row = kv_choice(q, slots[0], &n);
    for (uint32_t i = 0; i < n; i++) found += planted(row[i]);
    cr_expect_eq(found, 9);
    for (uint32_t l = 3; l < 5; l++)
        for (uint32_t i = 0; i < H * D; i++) cr_assert_gt(out[((size_t)PROMPT * L + l) * H * D + i], 0.99f, "layer %u", l);
    kv_usage u = kv_bytes(s);
    cr_expect_eq(u.sparse_read, 2 * KH * MOST);
    cr_expect_eq(u.sparse_seen, 2 * KH * (PROMPT + 1));
    free(out);
    kv_close(&s);
    make = fill;
}

enum { DRAWS = CTX - PROMPT, SYSTEM = 3 };

static bool of_system(uint32_t row) { return row >= 50 && row < 50 + SYSTEM; }

/* Rows of a system segment are read, of the others each about as often as any other, whatever attention says. */
Test(kv_retrieve, a_choice_that_is_drawn_has_no_favourites_but_the_system)
{
    kv_row rows[PROMPT];
    uint32_t slots[PROMPT], often[CTX] = { 0 }, n;
    double each = 0;
    err e = { 0 };
    how = drawn;
    kv *s = store_of(0, L, KV_F16, ISA_PLAIN);
    kv_seq *q = seq_of(s, "");
    how = tidal;
    for (uint32_t i = 0; i < PROMPT; i++)
        rows[i] = (kv_row){ i, i, i ? i - 1 : KV_ROW_NONE, of_system(i) ? KV_SEGMENT_SYSTEM : KV_SEGMENT_USER, 0, 0 };
    cr_assert_eq(kv_reserve(q, rows, PROMPT, slots, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_commit(q, PROMPT - 1, &e), ERR_OK, "%s", e.text);
    for (uint32_t at = PROMPT; at < CTX; at++) {
        kv_row r = { at, at, at - 1, 0, 0, 0 };
        cr_assert_eq(kv_reserve(q, &r, 1, slots, &e), ERR_OK, "%s", e.text);
        kv_choose(q, at % 2 ? 2 : 5, slots[0]);
        const uint32_t *row = kv_choice(q, slots[0], &n);
        cr_assert_eq(n, MOST);
        for (uint32_t k = 0; k < n; k++) often[row[k]]++;
        each += (double)(MOST - 2 - 4 - SYSTEM) / (at + 1 - 2 - 4 - SYSTEM);
        cr_assert_eq(kv_commit(q, at, &e), ERR_OK, "%s", e.text);
    }
    for (uint32_t i = 0; i < PROMPT - 4; i++) {
        bool right = i < 2 || of_system(i) ? often[i] == DRAWS : fabs(often[i] - each) < 5 * sqrt(each);
        cr_expect(right, "row %u was read %u times, others %.1f", i, often[i], each);
    }
    kv_close(&s);
}

Test(kv_retrieve, choices_that_cannot_be_are_refused)
{
    kv *s = store_of(3, L, KV_F16, ISA_PLAIN);
    kv_seq *q = seq_of(s, "");
    err e = { 0 };
    kv_row r = { 0, 0, KV_ROW_NONE, 0, 0, 0 };
    uint32_t slot, from[L] = { 7, 7, 7, 7, 7, 7 };
    cr_assert_eq(kv_seq_prompt(q, 0, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(kv_reserve(q, &r, 1, &slot, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(kv_choice_set(q, slot, NULL, 4, 0, &e), ERR_INPUT, "layer 3 is sparse");
    cr_expect_eq(kv_choice_set(q, slot, (uint32_t[]){ 1 }, 4, 1, &e), ERR_INPUT, "there is no second row");
    cr_expect_eq(kv_choice_set(q, slot, (uint32_t[]){ 0, 0 }, 4, 2, &e), ERR_INPUT, "a row twice");
    cr_expect_eq(kv_choice_set(q, slot, (uint32_t[MOST + 1]){ 0 }, 4, MOST + 1, &e), ERR_INPUT, "more than it reads");
    cr_expect_eq(kv_choice_set(q, slot, (uint32_t[]){ 0 }, 4, 1, &e), ERR_OK, "%s", e.text);
    cr_expect_neq(kv_skip(q, from, &e), ERR_OK, "no layer may be left out");
    kv_seq *exact = open_seq(s, 2);
    cr_assert_eq(kv_reserve(exact, &r, 1, &slot, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(kv_choice_set(exact, slot, NULL, 4, 0, &e), ERR_OK);
    cr_expect_eq(kv_choice_set(exact, slot, (uint32_t[]){ 0 }, 4, 1, &e), ERR_INPUT, "nothing chooses for it");
    kv_close(&s);
}
