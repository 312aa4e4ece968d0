/* Any bytes as text for made-up vocabularies: SPM, WordPiece, and byte-level BPE once for every kind of pre-tokenizer. The
 * pieces must give the text back (WordPiece cleans it: there the ids must be in range and the stream valid UTF-8). The first
 * byte picks the vocabulary, the second the options. Then the same bytes are token ids, and turned into text.
 * Parser: engine/tokenizer_spm.c engine/tokenizer_bpe.c engine/tokenizer_wpm.c engine/tokenizer_special.c engine/pretoken.c
 * Parser: engine/detok.c */
#include "engine/gguf_write.h"
#include "engine/tokenizer_priv.h"
#include "engine/utf8.h"
#include "tests/fuzz/kit.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const pres[] = { NULL, "bert", "llama-bpe", "qwen2", "gpt-2", "default", "falcon", "smollm", "qwen35", "llama4",
                                    "tekken", "deepseek-llm", "deepseek-coder", "deepseek-v3" };
#define N_PRES (sizeof pres / sizeof *pres)

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

static tokenizer *open_bert(void)
{
    const char *path = kit_path("bert.gguf");
    err e = { 0 };
    gguf_writer *w;
    gguf *g;
    tokenizer *t;
    kit_must(gguf_writer_open(&w, path, &e), &e);
    kit_must(write_bert(w), &e);
    kit_must(gguf_writer_begin(w, &e), &e);
    kit_must(gguf_writer_commit(w, &e), &e);
    gguf_writer_close(&w);
    kit_must(gguf_open(&g, path, &e), &e);
    kit_must(tokenizer_open(&t, g, &e), &e);
    gguf_close(&g);
    unlink(path);
    return t;
}

static tokenizer *open_vocab(const char *pre)
{
    err e = { 0 };
    if (pre && !strcmp(pre, "bert")) return open_bert();
    bool own = !pre || !strcmp(pre, "qwen2");
    tokenizer *t = kit_vocab(own ? pre : "llama-bpe");
    if (own) return t;
    pretoken_close(&t->pre);
    kit_must(pretoken_open(&t->pre, pretoken_find((view){ pre, strlen(pre) }), &e), &e);
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

/* Two bytes an id; those past the vocabulary must be refused, and change nothing. */
static void decode(const tokenizer *t, view in)
{
    detok d = { 0 };
    text out = { 0 };
    for (size_t i = 0; i + 1 < in.len; i += 2) {
        const uint8_t *p = (const uint8_t *)in.ptr + i;
        uint32_t id = p[0] + 256u * p[1];
        err e = { 0 };
        err_code rc = detok_push(&d, t, id, &out, &e);
        if ((rc == ERR_OK) != (id < t->n)) abort();
        kit_said(rc, &e);
    }
    err e = { 0 };
    kit_must(detok_end(&d, &out, &e), &e);
    check_utf8(&out);
    text_free(&out);
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
    kit_must(tokenizer_encode(t, in, false, special, &l, &e), &e);
    for (size_t i = 0; i < l.n; i++) {
        kit_must(tokenizer_piece(t, l.id[i], true, &out, &e), &e);
        kit_must(detok_push(&d, t, l.id[i], &shown, &e), &e);
    }
    kit_must(detok_end(&d, &shown, &e), &e);
    check_utf8(&shown);
    bool stripped = special && data[1] & 4;
    /* SPM adds blanks and uses U+2581 itself. */
    bool exact = (bpe && !stripped) || (spm && !special && !t->squeeze && !memmem(in.ptr, in.len, SPM_SPACE, 3));
    size_t skip = spm && l.n ? 1 : 0;
    if (exact && (out.len != in.len + skip || (in.len && memcmp(out.ptr + skip, in.ptr, in.len)))) abort();
    token_list_free(&l);
    text_free(&out);
    text_free(&shown);
    decode(t, in);
    return 0;
}
