/* Any bytes as text for made-up vocabularies: SPM, WordPiece, and byte-level BPE once for every kind of pre-tokenizer. The
 * pieces must give the text back (WordPiece cleans it: there the ids must be in range and the stream valid UTF-8). The first
 * byte picks the vocabulary, the second the options. */
#include "engine/gguf_write.h"
#include "engine/model_random.h"
#include "engine/tokenizer_priv.h"
#include "engine/utf8.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const pres[] = { NULL, "bert", "llama-bpe", "qwen2", "gpt-2", "default", "falcon", "smollm", "qwen35", "llama4",
                                    "tekken", "deepseek-llm", "deepseek-coder", "deepseek-v3" };
#define N_PRES (sizeof pres / sizeof *pres)

static void check(err_code rc, const err *e)
{
    if (!rc) return;
    fprintf(stderr, "%s\n", e->text);
    abort();
}

/* Pieces a, b, ▁a, ... and a few others. */
static err_code write_bert(gguf_writer *w)
{
    static const char *const more[] = { "[UNK]", "[CLS]", "[SEP]", "▁the", "ing", "▁中", "▁.", "▁cafe" };
    char piece[60][8];
    view token[60];
    int32_t type[60];
    for (size_t i = 0; i < 60; i++) {
        if (i < 8) snprintf(piece[i], sizeof piece[i], "%s", more[i]);
        else snprintf(piece[i], sizeof piece[i], "%s%c", i % 2 ? SPM_SPACE : "", (int)('a' + (i - 8) / 2));
        token[i] = (view){ piece[i], strlen(piece[i]) };
        type[i] = i < 3 ? TOKEN_CONTROL : TOKEN_NORMAL;
    }
    gguf_writer_str(w, "tokenizer.ggml.model", (view){ "bert", 4 });
    gguf_writer_strs(w, "tokenizer.ggml.tokens", token, 60);
    gguf_writer_arr(w, "tokenizer.ggml.token_type", GGUF_I32, type, 60);
    gguf_writer_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    return ERR_OK;
}

static tokenizer *open_vocab(const char *pre)
{
    char path[64];
    err e = { 0 };
    gguf_writer *w;
    gguf *g;
    tokenizer *t;
    bool bert = pre && !strcmp(pre, "bert"), own = !pre || !strcmp(pre, "qwen2");
    snprintf(path, sizeof path, "/tmp/fuzz-vocab-%ld.gguf", (long)getpid());
    check(gguf_writer_open(&w, path, &e), &e);
    check(bert ? write_bert(w) : random_vocab_write(w, own ? pre : "llama-bpe", 600, &e), &e);
    check(gguf_writer_begin(w, &e), &e);
    check(gguf_writer_commit(w, &e), &e);
    gguf_writer_close(&w);
    check(gguf_open(&g, path, &e), &e);
    check(tokenizer_open(&t, g, &e), &e);
    gguf_close(&g);
    unlink(path);
    if (bert || own) return t;
    pretoken_close(&t->pre);
    check(pretoken_open(&t->pre, pretoken_find((view){ pre, strlen(pre) }), &e), &e);
    return t;
}

static void check_utf8(const text *s)
{
    for (size_t i = 0; i < s->len;) {
        utf8_step step = utf8_look((const uint8_t *)s->ptr + i, s->len - i);
        if (step.state != UTF8_OK) abort();
        i += step.len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tokenizer *vocab[N_PRES];
    for (size_t i = 0; i < N_PRES; i++)
        if (!vocab[i]) vocab[i] = open_vocab(pres[i]);
    if (size < 2) return 0;
    tokenizer *t = vocab[data[0] % N_PRES];
    bool special = data[1] & 1, spm = t->kind == TOKENIZER_SPM, bpe = t->kind == TOKENIZER_BPE;
    t->squeeze = spm && data[1] & 2;
    for (uint32_t i = 0; i < t->n; i++) t->strip[i] = data[1] & 4 ? data[1] >> 3 & 3 : 0;
    view in = { data + 2, size - 2 };
    token_list l = { 0 };
    text out = { 0 }, shown = { 0 };
    detok d = { 0 };
    err e = { 0 };
    check(tokenizer_encode(t, in, false, special, &l, &e), &e);
    for (size_t i = 0; i < l.n; i++) {
        check(tokenizer_piece(t, l.id[i], true, &out, &e), &e);
        check(detok_push(&d, t, l.id[i], &shown, &e), &e);
    }
    check(detok_end(&d, &shown, &e), &e);
    check_utf8(&shown);
    bool stripped = special && data[1] & 4;
    /* SPM adds blanks and uses U+2581 itself. */
    bool exact = (bpe && !stripped) || (spm && !special && !t->squeeze && !memmem(in.ptr, in.len, SPM_SPACE, 3));
    size_t skip = spm && l.n ? 1 : 0;
    if (exact && (out.len != in.len + skip || (in.len && memcmp(out.ptr + skip, in.ptr, in.len)))) abort();
    token_list_free(&l);
    text_free(&out);
    text_free(&shown);
    return 0;
}
