/* Any bytes as a model's chat template, and any bytes as lines of a conversation, rendered with every vocabulary kind. What
 * comes out may hold no more control tokens than the same roles with empty texts. The first byte picks the vocabulary, and may
 * pick a form by name where the template names none.
 * Parser: engine/chat.c engine/chat_form.c engine/conversation.c */
#include "engine/conversation.h"
#include "tests/fuzz/kit.h"
#include "tests/fuzz/made.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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

static void named_style(chat_style *s, size_t i)
{
    static gguf *some;
    size_t n = 0;
    err e;
    view file = made_file(MADE_VOCAB, 1);
    if (!some) kit_must(gguf_open(&some, kit_file(0, file.ptr, file.len), &e), &e);
    while (chat_form_name(n)) n++;
    kit_must(chat_style_of(s, chat_form_name(i % n), some, &e), &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tokenizer *vocab[3];
    static const char *const pre[3] = { NULL, "llama-bpe", "qwen2" };
    for (int i = 0; i < 3; i++)
        if (!vocab[i]) vocab[i] = kit_vocab(pre[i]);
    if (!size) return 0;
    const uint8_t *cut = memchr(data + 1, 0, size - 1);
    size_t first = cut ? (size_t)(cut - data - 1) : size - 1;
    chat_style s;
    conversation c = { 0 };
    err e;
    if (!chat_detect((view){ data + 1, first }, &s)) named_style(&s, data[0] / 3);
    if (!chat_style_name(&s)) abort();
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
    (void)chat_stop(&s, vocab[data[0] % 3]);
    conversation_free(&c);
    return 0;
}
