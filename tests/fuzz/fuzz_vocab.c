/* Any bytes as a file with a vocabulary: opened, then some text through it both ways, the file's own pieces and the text that
 * the file's last bytes are.
 * Parser: engine/tokenizer.c engine/tokenizer_bpe.c engine/tokenizer_spm.c engine/tokenizer_wpm.c engine/tokenizer_special.c
 * Parser: engine/tokenizer_strip.c engine/piece_table.c engine/merge.c */
#include "engine/chat.h"
#include "tests/fuzz/kit.h"
#include "tests/fuzz/made.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    view v = made_file(MADE_VOCAB, pick);
    if (v.len > max) return 0;
    memcpy(out, v.ptr, v.len);
    return v.len;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

static void both_ways(const tokenizer *t, view in, bool special)
{
    token_list l = { 0 };
    text out = { 0 };
    detok d = { 0 };
    err e;
    kit_must(tokenizer_encode(t, in, true, special, &l, &e), &e);
    for (size_t i = 0; i < l.n; i++) {
        if (l.id[i] >= tokenizer_vocab(t)) abort();
        kit_must(tokenizer_piece(t, l.id[i], special, &out, &e), &e);
        kit_must(detok_push(&d, t, l.id[i], &out, &e), &e);
    }
    kit_must(detok_end(&d, &out, &e), &e);
    token_list_free(&l);
    text_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char some[] = " ab  <s>é\n字<|im_end|> [SEP] xab<|endoftext|>";
    gguf *g;
    tokenizer *t;
    chat_style style;
    err e = { 0 };
    if (gguf_open(&g, kit_file(0, data, size), &e)) return 0;
    kit_said(chat_style_of(&style, NULL, g, &e), &e);
    err_code rc = tokenizer_open(&t, g, &e);
    kit_said(rc, &e);
    gguf_close(&g);
    if (rc) return 0;
    text pieces = { 0 };
    for (uint32_t i = 0; i < tokenizer_vocab(t) && i < 64; i++) kit_must(tokenizer_piece(t, i, true, &pieces, &e), &e);
    size_t tail = size < 64 ? size : 64;
    for (int special = 0; special < 2; special++) {
        both_ways(t, (view){ some, sizeof some - 1 }, special);
        both_ways(t, (view){ data + size - tail, tail }, special);
        if (pieces.len < 65536) both_ways(t, (view){ pieces.ptr, pieces.len }, special);
    }
    text_free(&pieces);
    tokenizer_close(&t);
    return 0;
}
