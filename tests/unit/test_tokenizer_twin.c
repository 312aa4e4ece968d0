/* The tokenizer against second implementations on random texts. BPE: words cut by hand (twin_words.h) and merged by looking
 * at all pairs again and again. SPM: SentencePiece itself, where it is installed.
 * Texts that are not UTF-8 are compared too. BPE's twin knows that the bytes stay; SentencePiece puts U+FFFD in place of each
 * byte that is no part of a character, so there the two agree on the text with those in it. */
#include "engine/byte_alphabet.h"
#include "tests/unit/twin_words.h"
#include "tests/unit/vocab_world.h"
#include <inttypes.h>

/* ---- words ---- */

static void compare_words(const pretoken *p, const twin_family *f, view in, word_list *w, const char *what)
{
    err e = { 0 };
    twin_text t = twin_read(in);
    uint8_t *cut = calloc(t.n + 1, 1);
    cr_assert_not_null(cut);
    cr_assert_eq(pretoken_split(p, in, w, &e), ERR_OK, "%s", e.text);
    twin_split(&t, f, cut);
    size_t k = 0;
    for (size_t i = 1; i <= t.n; i++)
        if (cut[i]) {
            cr_assert(k < w->n && w->end[k] == t.c[i].at, "%s %s: '%.*s': word %zu ends at %u, not %u", f->pre, what, (int)in.len,
                      (const char *)in.ptr, k, k < w->n ? w->end[k] : 0, t.c[i].at);
            k++;
        }
    cr_assert_eq(k, w->n);
    free(cut);
    free(t.c);
}

Test(tokenizer_twin, words_of_every_family_are_those_cut_by_hand)
{
    enum { TEXTS = 6000 };
    text in = { 0 };
    word_list w = { 0 };
    err e = { 0 };
    for (size_t k = 0; k < sizeof families / sizeof *families; k++) {
        pretoken *p;
        char what[64];
        cr_assert_not_null(pretoken_find(v(families[k].pre)), "%s", families[k].pre);
        cr_assert_eq(pretoken_open(&p, pretoken_find(v(families[k].pre)), &e), ERR_OK, "%s", e.text);
        for (uint64_t i = 0; i < TEXTS; i++) {
            mixed_text(&in, support_seed() + i, 1 + i % 12, i % 4 == 3);
            snprintf(what, sizeof what, "text %" PRIu64, i);
            if (in.len) compare_words(p, &families[k], (view){ in.ptr, in.len }, &w, what);
        }
        pretoken_close(&p);
    }
    word_list_free(&w);
    text_free(&in);
}

/* ---- a naive byte-level BPE ---- */

typedef struct { uint64_t hash; uint32_t value; } slot;
typedef struct { slot *at; size_t mask; } string_map;              /* by a 64-bit hash alone: no collision in 10^6 strings */

static uint64_t hash_of(const char *p, size_t n)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)p[i]) * 0x100000001B3u;
    return (h ^ h >> 29) * 0xBF58476D1CE4E5B9u | 1;
}

static uint32_t *map_at(string_map *m, const char *p, size_t n)    /* the value, or UINT32_MAX in a free place */
{
    uint64_t h = hash_of(p, n), i = h >> 20 & m->mask;
    while (m->at[i].hash && m->at[i].hash != h) i = (i + 1) & m->mask;
    if (!m->at[i].hash) m->at[i].value = UINT32_MAX;
    return &m->at[i].value;
}

static void map_put(string_map *m, const char *p, size_t n, uint32_t value)
{
    uint64_t h = hash_of(p, n), i = h >> 20 & m->mask;
    while (m->at[i].hash && m->at[i].hash != h) i = (i + 1) & m->mask;
    if (!m->at[i].hash) m->at[i] = (slot){ h, value };
}

static string_map map_new(uint64_t n)
{
    size_t size = 64;
    while (size < 2 * n) size *= 2;
    string_map m = { calloc(size, sizeof(slot)), size - 1 };
    cr_assert_not_null(m.at);
    return m;
}

typedef struct {
    gguf *g;
    string_map token, merge;
    uint32_t user[4096], unk;             /* user-defined tokens, longest first */
    size_t n_user;
    const twin_family *family;
    bool whole;
} twin;

static view token_text(const twin *t, uint32_t id)
{
    view p = { 0 };
    cr_assert(gguf_arr_str(t->g, "tokenizer.ggml.tokens", id, &p));
    return p;
}

static void read_token(twin *t, uint32_t id)
{
    int64_t type;
    view p = token_text(t, id);
    cr_assert(gguf_arr_i64(t->g, "tokenizer.ggml.token_type", id, &type));
    if (type == TOKEN_NORMAL) map_put(&t->token, p.ptr, p.len, id);
    if (type != TOKEN_USER || !memcmp(p.ptr, "[PAD", p.len < 4 ? p.len : 4)) return;
    size_t k = t->n_user++;
    cr_assert_lt(t->n_user, 4096);
    for (; k && token_text(t, t->user[k - 1]).len < p.len; k--) t->user[k] = t->user[k - 1];
    t->user[k] = id;
}

static twin *twin_open(const char *path, const char *pre)
{
    twin *t = calloc(1, sizeof *t);
    err e = { 0 };
    uint64_t n, m, unk;
    cr_assert(t && !gguf_open(&t->g, path, &e), "%s", e.text);
    cr_assert(gguf_get_arr(t->g, "tokenizer.ggml.tokens", NULL, &n) && gguf_get_arr(t->g, "tokenizer.ggml.merges", NULL, &m));
    t->token = map_new(n);
    t->merge = map_new(m);
    t->unk = gguf_get_u64(t->g, "tokenizer.ggml.unknown_token_id", &unk) ? (uint32_t)unk : TOKEN_NONE;
    for (uint32_t i = 0; i < n; i++) read_token(t, i);
    for (uint32_t i = 0; i < m; i++) {
        view p;
        cr_assert(gguf_arr_str(t->g, "tokenizer.ggml.merges", i, &p));
        map_put(&t->merge, p.ptr, p.len, i);
    }
    for (size_t k = 0; k < sizeof families / sizeof *families; k++)
        if (!strcmp(families[k].pre, pre)) t->family = &families[k];
    cr_assert_not_null(t->family);
    t->whole = !strcmp(pre, "llama-bpe");
    return t;
}

static void twin_close(twin *t)
{
    gguf_close(&t->g);
    free(t->token.at);
    free(t->merge.at);
    free(t);
}

/* Position of the pair with the lowest rank among n symbols that end at end[], or n. */
static size_t best_pair(twin *t, const char *p, const size_t *end, size_t n)
{
    size_t best = n;
    uint32_t rank = UINT32_MAX;
    char pair[2048];
    for (size_t i = 0, start = 0; i + 1 < n; start = end[i++]) {
        size_t a = end[i] - start, b = end[i + 1] - end[i];
        if (a + b + 1 > sizeof pair) continue;                     /* longer than any merge */
        memcpy(pair, p + start, a);
        pair[a] = ' ';
        memcpy(pair + a + 1, p + end[i], b);
        uint32_t r = *map_at(&t->merge, pair, a + b + 1);
        if (r < rank) rank = r, best = i;
    }
    return best;
}

static void twin_word(twin *t, view raw, token_list *out)
{
    text s = { 0 };
    size_t *end = malloc((raw.len + 1) * sizeof *end), n = 0;
    cr_assert_not_null(end);
    for (size_t i = 0; i < raw.len; i++) {
        cr_assert(byte_alphabet_encode((view){ (const char *)raw.ptr + i, 1 }, &s));
        end[n++] = s.len;
    }
    if (t->whole && *map_at(&t->token, s.ptr, s.len) != UINT32_MAX) end[0] = s.len, n = 1;
    for (size_t k; (k = best_pair(t, s.ptr, end, n)) < n; n--) memmove(end + k, end + k + 1, (n - k - 1) * sizeof *end);
    for (size_t i = 0, start = 0; i < n; start = end[i++]) {
        uint32_t id = *map_at(&t->token, s.ptr + start, end[i] - start);
        if (id == UINT32_MAX) id = t->unk;
        if (id != TOKEN_NONE) cr_assert(token_list_add(out, id));
    }
    free(end);
    text_free(&s);
}

static void twin_plain(twin *t, view in, token_list *out)
{
    twin_text c = twin_read(in);
    uint8_t *cut = calloc(c.n + 1, 1);
    cr_assert_not_null(cut);
    if (c.n) twin_split(&c, t->family, cut);
    for (size_t i = 1, from = 0; i <= c.n; i++)
        if (cut[i]) {
            twin_word(t, (view){ (const char *)in.ptr + from, c.c[i].at - from }, out);
            from = c.c[i].at;
        }
    free(cut);
    free(c.c);
}

/* User-defined tokens from the k-th on are cut out of the text, then the rest is plain. */
static void twin_encode(twin *t, view in, size_t k, token_list *out)
{
    const char *p = in.ptr;
    for (; in.len && k < t->n_user; k++) {
        view u = token_text(t, t->user[k]);
        const char *hit = memmem(p, in.len, u.ptr, u.len);
        if (!hit) continue;
        twin_encode(t, (view){ p, (size_t)(hit - p) }, k + 1, out);
        cr_assert(token_list_add(out, t->user[k]));
        twin_encode(t, (view){ hit + u.len, in.len - (size_t)(hit - p) - u.len }, k, out);
        return;
    }
    if (in.len) twin_plain(t, in, out);
}

static void compare_ids(const token_list *got, const token_list *want, view in, const char *what, uint64_t i)
{
    size_t k = 0;
    while (k < got->n && k < want->n && got->id[k] == want->id[k]) k++;
    cr_assert(k == got->n && k == want->n, "%s: text %" PRIu64 " '%.*s': id %zu is %u, not %u", what, i, (int)in.len,
              (const char *)in.ptr, k, k < got->n ? got->id[k] : 0, k < want->n ? want->id[k] : 0);
}

static void long_run(text *in, uint64_t seed)
{
    text_clear(in);
    uint64_t n = 200 + support_draw(seed, 0, 600), r = support_draw(seed, 1, sizeof mixed_bits / sizeof *mixed_bits + 95);
    for (uint64_t k = 0; k < n; k++) {
        if (r < 95) cr_assert(text_add(in, &(char){ (char)(32 + r) }, 1));
        else cr_assert(text_adds(in, mixed_bits[r - 95]));
    }
}

static void compare_vocab(const char *pre, uint64_t texts)
{
    char name[96];
    snprintf(name, sizeof name, "data/vocabs/ggml-vocab-%s.gguf", pre);
    SHARED_OR_SKIP(path, name);
    tokenizer *ours = open_at(path);
    twin *t = twin_open(path, pre);
    text in = { 0 };
    for (uint64_t i = 0; i < texts; i++) {
        if (i % 500 == 499) long_run(&in, support_seed() + i);
        else mixed_text(&in, support_seed() + i, 1 + i % 12, i % 4 == 3);
        view text_ = { in.ptr ? in.ptr : "", in.len };
        token_list got = encode(ours, text_, false, false), want = { 0 };
        twin_encode(t, text_, 0, &want);
        compare_ids(&got, &want, text_, pre, i);
        token_list_free(&got);
        token_list_free(&want);
    }
    text_free(&in);
    twin_close(t);
    tokenizer_close(&ours);
}

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { BPE_TEXTS = 1000, SPM_TEXTS = 10000 };
#else
enum { BPE_TEXTS = 17000, SPM_TEXTS = 100000 };     /* six vocabularies: 10^5 texts */
#endif
Test(tokenizer_twin, gpt_2_merges_as_the_naive_one) { compare_vocab("gpt-2", BPE_TEXTS); }
Test(tokenizer_twin, falcon_merges_as_the_naive_one) { compare_vocab("falcon", BPE_TEXTS); }
Test(tokenizer_twin, mpt_merges_as_the_naive_one) { compare_vocab("mpt", BPE_TEXTS); }
Test(tokenizer_twin, llama_bpe_merges_as_the_naive_one) { compare_vocab("llama-bpe", BPE_TEXTS); }
Test(tokenizer_twin, deepseek_llm_merges_as_the_naive_one) { compare_vocab("deepseek-llm", BPE_TEXTS); }
Test(tokenizer_twin, deepseek_coder_merges_as_the_naive_one) { compare_vocab("deepseek-coder", BPE_TEXTS); }

/* ---- SentencePiece ---- */

/* U+FFFD for every byte that is no part of a character. */
static void replace_bad(const text *in, text *out)
{
    text_clear(out);
    const uint8_t *p = (const uint8_t *)in->ptr;
    for (size_t i = 0; i < in->len;) {
        utf8_step s = utf8_look(p + i, in->len - i);
        if (s.state != UTF8_OK) s.len = 1;
        cr_assert(s.state == UTF8_OK ? text_add(out, p + i, s.len) : text_adds(out, "\xEF\xBF\xBD"));
        i += s.len;
    }
}

static void nth_text(text *in, uint64_t i)
{
    if (i % 1000 == 999) long_run(in, support_seed() + i);
    else mixed_text(in, support_seed() + i, 1 + i % 12, i % 4 == 3);
}

static void write_texts(const char *path)
{
    text all = { 0 }, one = { 0 };
    for (uint64_t i = 0; i < SPM_TEXTS; i++) {
        nth_text(&one, i);
        uint32_t n = (uint32_t)one.len;
        cr_assert(text_add(&all, &n, 4) && text_add(&all, one.ptr, n));
    }
    cr_assert(support_write(path, all.ptr, all.len));
    text_free(&all);
    text_free(&one);
}

/* False: this python has no SentencePiece. */
static bool run_python(const char *python, const char *model, bool squeeze)
{
    char in[256], out[256];
    text errs = { 0 };
    int status;
    snprintf(in, sizeof in, "%s/texts", support_tmpdir());
    snprintf(out, sizeof out, "%s/ids", support_tmpdir());
    const char *argv[] = { python, support_root("tests/tools/sentencepiece_ids.py"), model, in, out, squeeze ? "squeeze" : NULL,
                           NULL };
    bool ran = support_run(argv, NULL, 120, &status, NULL, &errs) && status != 77 && status != 127;
    cr_assert(!ran || !status, "sentencepiece_ids.py: status %d: %s", status, errs.ptr ? errs.ptr : "");
    text_free(&errs);
    return ran;
}

/* False: SentencePiece is not installed. A distribution's package is seen by the distribution's own python only. */
static bool run_sentencepiece(const char *model, bool squeeze, text *ids)
{
    char path[256];
    err e = { 0 };
    snprintf(path, sizeof path, "%s/texts", support_tmpdir());
    write_texts(path);
    if (!run_python("python3", model, squeeze) && !run_python("/usr/bin/python3", model, squeeze)) return false;
    snprintf(path, sizeof path, "%s/ids", support_tmpdir());
    cr_assert_eq(text_read_file(ids, path, 1u << 30, &e), ERR_OK, "%s", e.text);
    return true;
}

static void compare_sentencepiece(tokenizer *t, const text *ids)
{
    text in = { 0 }, good = { 0 };
    size_t at = 0;
    for (uint64_t i = 0; i < SPM_TEXTS; i++) {
        uint32_t n;
        cr_assert_leq(at + 4, ids->len);
        memcpy(&n, ids->ptr + at, 4);
        cr_assert_leq(at + 4 + 4ul * n, ids->len);
        nth_text(&in, i);
        replace_bad(&in, &good);
        token_list got = encode(t, (view){ good.ptr ? good.ptr : "", good.len }, false, false), want = { 0 };
        for (uint32_t k = 0, id; k < n; k++) {
            memcpy(&id, ids->ptr + at + 4 + 4ul * k, 4);
            cr_assert(token_list_add(&want, id));
        }
        compare_ids(&got, &want, (view){ good.ptr, good.len }, "sluice-tiny", i);
        at += 4 + 4ul * n;
        token_list_free(&got);
        token_list_free(&want);
    }
    text_free(&in);
    text_free(&good);
}

static void sentencepiece_agrees(bool squeeze)
{
    SHARED_OR_SKIP(path, "data/models/sluice-tiny-Q8_0.gguf");
    SHARED_OR_SKIP(model, "data/vocabs/sluice-tiny.spm.model");
    text ids = { 0 };
    if (!run_sentencepiece(model, squeeze, &ids)) cr_skip_test("SentencePiece is absent (python3-sentencepiece)");
    tokenizer *t = open_at(path);
    t->squeeze = squeeze;
    compare_sentencepiece(t, &ids);
    text_free(&ids);
    tokenizer_close(&t);
}

Test(tokenizer_twin, sluice_tiny_gives_the_ids_of_sentencepiece_on_random_texts) { sentencepiece_agrees(false); }
Test(tokenizer_twin, extra_white_space_is_removed_as_by_sentencepiece) { sentencepiece_agrees(true); }
