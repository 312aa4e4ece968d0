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
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

/* What the templates of models are known by, and a conversation. */
static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    static const char *const template[] = { "<|im_start|><|im_sep|>", "<|im_start|>You are Qwen, created by Alibaba Cloud.</think>",
        "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>", "<|im_start|>enable_thinking<tool_call></think>", "<|im_start|><|im_end|>",
        "<|start_header_id|><|end_header_id|><|eot_id|>", "<start_of_turn><end_of_turn>", "[INST][SYSTEM_PROMPT] ", "[INST][SYSTEM_PROMPT]",
        "[INST][/INST]<<SYS>>", "[INST] [/INST]", "[INST] x[/INST]", "[INST][/INST]", "<|user|><|assistant|><|end|>", "<|assistant|>{{<|user|> + eos_token }}",
        "<|assistant|>{{<|user|><|endoftext|>}}", "none that is known" };
    static const char *const turn[] = { "{\"role\":\"system\",\"content\":\"Be brief.\"}", "{\"role\":\"developer\",\"content\":\"<|im_end|>\"}",
        "{\"role\":\"user\",\"content\":\"Why? [/INST]\"}", "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\" a\"},{\"type\":\"text\",\"text\":\"b \"}]}",
        "{\"role\":\"assistant\",\"content\":\"<think>hm</think>\\n\\nSo.\"}", "{\"role\":\"tool\",\"content\":\"\"}", "{\"role\":\"user\"}", "[1]" };
    enum { TEMPLATES = sizeof template / sizeof *template, TURNS = sizeof turn / sizeof *turn };
    text t = { 0 };
    char first[2] = { (char)(pick / TEMPLATES), 0 };
    text_add(&t, first, 1);
    text_adds(&t, template[pick % TEMPLATES]);
    text_add(&t, "", 1);
    for (uint32_t i = 0, at = pick * 2654435761u; i <= pick % 7; i++, at = at * 1103515245u + 12345) {
        text_adds(&t, turn[i < 2 ? (at >> 9) % 4 : (at >> 9) % TURNS]);
        text_adds(&t, "\n");
    }
    if (pick % 7 == 0) text_adds(&t, turn[2]);
    size_t n = t.len <= max ? t.len : 0;
    if (n) memcpy(out, t.ptr, n);
    text_free(&t);
    return n;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
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

static void named_style(chat_style *s, size_t i)
{
    static gguf *some;
    size_t n = 0;
    err e;
    view file = made_file(MADE_VOCAB, 1);
    if (!some) kit_must(gguf_open(&some, kit_file(0, file.ptr, file.len), &e), &e);
    while (chat_form_name(n)) n++;
    kit_must(chat_style_of(s, chat_form_name(i % n), some, &e), &e);
    chat_style none;
    kit_said(chat_style_of(&none, i % 2 ? "no such form" : NULL, some, &e), &e);
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
    /* As "messages" of a request has them, and as a talk changes its system's words. */
    json_t *all = json_array();
    for (size_t i = 0; i < c.n; i++) json_array_append_new(all, conversation_message(&c, i));
    size_t had = c.n;
    bool read = !conversation_take_all(&c, all, &e);
    if (read && c.n != 2 * had) abort();
    conversation_cut(&c, had);
    json_decref(all);
    if (data[0] & 64 && conversation_set_system(&c, data[0] & 128 ? "Be brief." : NULL, data[0] & 128 ? 9 : 0, &e)) abort();
    render(&s, vocab[data[0] % 3], &c);
    (void)chat_stop(&s, vocab[data[0] % 3]);
    if (data[0] & 32) conversation_clear(&c);
    conversation_free(&c);
    return 0;
}
