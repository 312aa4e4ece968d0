/* Made-up vocabularies: all bytes, the special tokens of their kind, and short words from frequent English letters, each
 * one letter longer than another, so that the merges are complete. It refuses to pretend that they were trained. */
#include "engine/byte_alphabet.h"
#include "engine/model_random.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NORMAL = 1, UNKNOWN, CONTROL, BYTE = 6 };
static const char letters[] = "etaoinshrdlucmfwypvbgkqjxz";
#define N_LETTERS 26u
#define N_FIRST 27u                       /* a word may also begin with a blank */

typedef struct { size_t at, len; } span;
typedef struct {
    text bytes, merges;
    span *token, *merge;                  /* [n] each */
    int32_t *type;                        /* [n] */
    float *score;                         /* [n] */
    uint32_t n, n_tokens, n_merges;
    bool ok;
} vocab;

static void add(vocab *v, view piece, int32_t type, float score)
{
    v->token[v->n_tokens] = (span){ v->bytes.len, piece.len };
    v->type[v->n_tokens] = type;
    v->score[v->n_tokens] = score;
    v->n_tokens++;
    v->ok = v->ok && text_add(&v->bytes, piece.ptr, piece.len);
}

static void add_str(vocab *v, const char *s, int32_t type) { add(v, (view){ s, strlen(s) }, type, 0); }

/* Token number `prefix` and one more letter. The piece is copied first: add() may move the bytes. */
static void add_word(vocab *v, uint32_t prefix, char letter)
{
    char word[64];
    span p = v->token[prefix];
    memcpy(word, v->bytes.ptr + p.at, p.len);
    word[p.len] = letter;
    size_t at = v->merges.len;
    v->ok = v->ok && text_add(&v->merges, word, p.len) && text_add(&v->merges, " ", 1) && text_add(&v->merges, &letter, 1);
    v->merge[v->n_merges] = (span){ at, p.len + 2 };
    add(v, (view){ word, p.len + 1 }, NORMAL, -(float)++v->n_merges);
}

/* Words until there are n tokens. first[N_FIRST]: tokens of the one-letter words. */
static void add_words(vocab *v, const uint32_t first[N_FIRST], uint32_t n)
{
    uint32_t begin = v->n_tokens;
    for (uint32_t i = 0; i < N_FIRST && v->ok; i++)
        for (uint32_t l = 0; l < N_LETTERS && v->n_tokens < n; l++) add_word(v, first[i], letters[l]);
    for (uint32_t prefix = begin; v->n_tokens < n && v->ok; prefix++)
        for (uint32_t l = 0; l < N_LETTERS && v->n_tokens < n; l++) add_word(v, prefix, letters[l]);
}

static void fill_spm(vocab *v)
{
    uint32_t first[N_FIRST] = { 0 };
    char buf[8];
    add_str(v, "<unk>", UNKNOWN);
    add_str(v, "<s>", CONTROL);
    add_str(v, "</s>", CONTROL);
    for (int b = 0; b < 256; b++) {
        snprintf(buf, sizeof buf, "<0x%02X>", b);
        add_str(v, buf, BYTE);
    }
    for (char c = 33; c < 127; c++) {
        const char *at = strchr(letters, c);
        if (at) first[1 + (at - letters)] = v->n_tokens;
        add(v, (view){ &c, 1 }, NORMAL, -1e6f - (float)c);   /* single letters come last, as SentencePiece has them */
    }
    first[0] = v->n_tokens;
    add(v, (view){ "\xE2\x96\x81", 3 }, NORMAL, -1e6f);
    add_words(v, first, v->n);
}

typedef struct { const char *pre; uint32_t bos, eos; bool add_bos; const char *token[6]; } bpe_kind;   /* bos, eos: in token */
static const bpe_kind kinds[] = {
    { "llama-bpe", 0, 1, true,
      { "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", NULL } },
    { "qwen2", 0, 2, false, { "<|endoftext|>", "<|im_start|>", "<|im_end|>", NULL } },
};

static uint32_t n_control(const bpe_kind *k)
{
    uint32_t n = 0;
    while (k->token[n]) n++;
    return n;
}

static void fill_bpe(vocab *v, const bpe_kind *k)
{
    uint32_t first[N_FIRST] = { ' ' };                     /* token number = byte */
    for (int b = 0; b < 256 && v->ok; b++) {
        text t = { 0 };
        uint8_t byte = (uint8_t)b;
        v->ok = byte_alphabet_encode((view){ &byte, 1 }, &t);
        if (v->ok) add(v, (view){ t.ptr, t.len }, NORMAL, 0);
        text_free(&t);
    }
    for (uint32_t l = 0; l < N_LETTERS; l++) first[1 + l] = (uint8_t)letters[l];
    add_words(v, first, v->n - n_control(k));
    for (uint32_t i = 0; k->token[i]; i++) add_str(v, k->token[i], CONTROL);
}

/* ---- writing ---- */

static void write_strs(vocab *v, gguf_writer *w, const char *key, const text *bytes, const span *s, uint32_t n)
{
    view *list = malloc((n ? n : 1) * sizeof *list);
    for (uint32_t i = 0; list && i < n; i++) list[i] = (view){ bytes->ptr + s[i].at, s[i].len };
    if (list) gguf_writer_strs(w, key, list, n);
    v->ok = v->ok && list;
    free(list);
}

static void write_spm(vocab *v, gguf_writer *w)
{
    gguf_writer_str(w, "tokenizer.ggml.model", (view){ "llama", 5 });
    gguf_writer_str(w, "tokenizer.ggml.pre", (view){ "default", 7 });
    write_strs(v, w, "tokenizer.ggml.tokens", &v->bytes, v->token, v->n);
    gguf_writer_arr(w, "tokenizer.ggml.scores", GGUF_F32, v->score, v->n);
    gguf_writer_arr(w, "tokenizer.ggml.token_type", GGUF_I32, v->type, v->n);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 2);
    gguf_writer_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", true);
    gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", false);
}

static void write_bpe(vocab *v, gguf_writer *w, const bpe_kind *k)
{
    uint32_t control = v->n - n_control(k);
    gguf_writer_str(w, "tokenizer.ggml.model", (view){ "gpt2", 4 });
    gguf_writer_str(w, "tokenizer.ggml.pre", (view){ k->pre, strlen(k->pre) });
    write_strs(v, w, "tokenizer.ggml.tokens", &v->bytes, v->token, v->n);
    gguf_writer_arr(w, "tokenizer.ggml.token_type", GGUF_I32, v->type, v->n);
    write_strs(v, w, "tokenizer.ggml.merges", &v->merges, v->merge, v->n_merges);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", control + k->bos);
    gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", control + k->eos);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", k->add_bos);
}

static const bpe_kind *find_kind(const char *pre)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].pre, pre)) return &kinds[i];
    return NULL;
}

err_code random_vocab_write(gguf_writer *w, const char *pre, uint32_t n, err *e)
{
    const bpe_kind *kind = pre ? find_kind(pre) : NULL;
    if (pre && !kind) return err_set(e, ERR_INPUT, "no made-up vocabulary for the pre-tokenizer '%s'", pre);
    uint32_t least = kind ? 256 + n_control(kind) : 3 + 256 + 95;
    if (n < least || n > 400000) return err_set(e, ERR_INPUT, "a made-up vocabulary has %u to 400000 tokens, not %u", least, n);
    vocab v = { .n = n, .ok = true };
    v.token = calloc(n, sizeof *v.token);
    v.merge = calloc(n, sizeof *v.merge);
    v.type = calloc(n, sizeof *v.type);
    v.score = calloc(n, sizeof *v.score);
    v.ok = v.token && v.merge && v.type && v.score;
    if (v.ok && kind) fill_bpe(&v, kind);
    if (v.ok && !kind) fill_spm(&v);
    if (v.ok && kind) write_bpe(&v, w, kind);
    if (v.ok && !kind) write_spm(&v, w);
    text_free(&v.bytes);
    text_free(&v.merges);
    free(v.token);
    free(v.merge);
    free(v.type);
    free(v.score);
    return v.ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a vocabulary of %u", n);
}
