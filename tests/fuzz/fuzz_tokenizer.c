/* Any bytes as text for three made-up vocabularies (SPM, llama-bpe, qwen2): the pieces must give the text back. The first
 * byte picks vocabulary and options. */
#include "engine/model_random.h"
#include "engine/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static tokenizer *open_vocab(const char *pre)
{
    char path[64];
    err e;
    gguf_writer *w;
    gguf *g;
    tokenizer *t;
    snprintf(path, sizeof path, "/tmp/fuzz-vocab-%ld.gguf", (long)getpid());
    if (gguf_writer_open(&w, path, &e) || random_vocab_write(w, pre, 600, &e) || gguf_writer_begin(w, &e) ||
        gguf_writer_commit(w, &e) || gguf_open(&g, path, &e) || tokenizer_open(&t, g, &e)) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    gguf_writer_close(&w);
    gguf_close(&g);
    unlink(path);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tokenizer *vocab[3];
    static const char *const pre[3] = { NULL, "llama-bpe", "qwen2" };
    for (int i = 0; i < 3; i++)
        if (!vocab[i]) vocab[i] = open_vocab(pre[i]);
    if (!size) return 0;
    const tokenizer *t = vocab[data[0] % 3];
    bool special = data[0] & 64, spm = data[0] % 3 == 0;
    view in = { data + 1, size - 1 };
    token_list l = { 0 };
    text out = { 0 }, shown = { 0 };
    detok d = { 0 };
    err e;
    if (tokenizer_encode(t, in, false, special, &l, &e)) abort();
    for (size_t i = 0; i < l.n; i++)
        if (tokenizer_piece(t, l.id[i], true, &out, &e) || detok_push(&d, t, l.id[i], &shown, &e)) abort();
    if (detok_end(&d, &shown, &e)) abort();
    bool exact = !spm || (!special && !memmem(in.ptr, in.len, "\xE2\x96\x81", 3));   /* SPM adds blanks and uses U+2581 itself */
    size_t skip = spm && l.n ? 1 : 0;
    if (exact && (out.len != in.len + skip || (in.len && memcmp(out.ptr + skip, in.ptr, in.len)))) abort();
    token_list_free(&l);
    text_free(&out);
    text_free(&shown);
    return 0;
}
