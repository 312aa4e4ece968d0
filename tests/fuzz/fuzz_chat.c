/* Any bytes as a model's chat template, and any bytes as lines of a conversation, rendered with every vocabulary kind. What
 * comes out may hold no more control tokens than the same roles with empty texts. The first byte picks. */
#include "engine/conversation.h"
#include "engine/model_random.h"
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
    snprintf(path, sizeof path, "/tmp/fuzz-chat-%ld.gguf", (long)getpid());
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

static size_t control_tokens(const chat_style *s, const tokenizer *t, const chat_turn *turn, size_t n)
{
    token_list l = { 0 };
    err e;
    size_t found = 0;
    err_code rc = chat_render(s, t, turn, n, &l, NULL, &e);
    for (size_t i = 0; i < l.n; i++) found += tokenizer_is_control(t, l.id[i]);
    token_list_free(&l);
    if (rc && rc != ERR_INPUT) abort();
    return rc ? SIZE_MAX : found;
}

static void render(const chat_style *s, const tokenizer *t, conversation *c)
{
    size_t said = control_tokens(s, t, c->turn, c->n);
    chat_turn *blank = calloc(c->n + 1, sizeof *blank);
    for (size_t i = 0; blank && i < c->n; i++) blank[i] = (chat_turn){ c->turn[i].role, { "", 0 } };
    if (blank && said != control_tokens(s, t, blank, c->n)) abort();
    free(blank);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tokenizer *vocab[3];
    static const char *const pre[3] = { NULL, "llama-bpe", "qwen2" };
    for (int i = 0; i < 3; i++)
        if (!vocab[i]) vocab[i] = open_vocab(pre[i]);
    if (!size) return 0;
    const uint8_t *cut = memchr(data + 1, 0, size - 1);
    size_t first = cut ? (size_t)(cut - data - 1) : size - 1;
    chat_style s;
    conversation c = { 0 };
    err e;
    if (!chat_detect((view){ data + 1, first }, &s) && !chat_detect((view){ "<|im_start|><|im_end|>", 22 }, &s)) abort();
    view rest = { cut ? cut + 1 : data, cut ? size - first - 2 : 0 };
    while (rest.len) {
        const char *end = memchr(rest.ptr, '\n', rest.len);
        size_t n = end ? (size_t)(end - (const char *)rest.ptr) : rest.len, used = end ? n + 1 : n;
        (void)conversation_line(&c, (view){ rest.ptr, n }, &e);
        rest = (view){ (const char *)rest.ptr + used, rest.len - used };
    }
    /* Most inputs are no JSON; as texts they are worth as much. */
    if (!c.n && conversation_add(&c, CHAT_USER, data + 1, size - 1, &e)) abort();
    for (size_t i = 0; i < c.n; i++) json_decref(conversation_message(&c, i));
    render(&s, vocab[data[0] % 3], &c);
    conversation_free(&c);
    return 0;
}
