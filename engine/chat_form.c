/* The table of chat forms, and the marks by which a model's template is recognised. It refuses to interpret templates. */
#include "engine/chat_form.h"
#include <stdio.h>
#include <string.h>

enum { SOURCE_MAX = 1 << 18 };      /* published templates have up to 20 KB; what lies behind this is not looked at */

/* From the models' published templates; Mistral's from the company's table of its tokenizer versions (v1, v3, v7, and
 * "tekken", its byte-level vocabulary, which takes no blanks). */
static const chat_form forms[] = {
    { .name = "chatml",
      .turn = { M("<|im_start|>") "system\n" TEXT M("<|im_end|>") "\n", M("<|im_start|>") "user\n" TEXT M("<|im_end|>") "\n",
                M("<|im_start|>") "assistant\n" TEXT M("<|im_end|>") "\n" },
      .open = M("<|im_start|>") "assistant\n",
      .stop = "<|im_end|>" },
    { .name = "qwen",
      .turn = { M("<|im_start|>") "system\n" TEXT M("<|im_end|>") "\n", M("<|im_start|>") "user\n" TEXT M("<|im_end|>") "\n",
                M("<|im_start|>") "assistant\n" TEXT M("<|im_end|>") "\n" },
      .open = M("<|im_start|>") "assistant\n",
      .stop = "<|im_end|>" },
    { .name = "llama2",
      .turn = { NULL, BOS M("[INST]") " " TEXT " " M("[/INST]"), " " TEXT " " EOS },
      .open = "",
      .merge = M("<<SYS>>") "\n" TEXT "\n" M("<</SYS>>") "\n\n",
      .trim = TRIM_USER | TRIM_ASSISTANT,
      .bos = true,
      .merge_whole = true },
    { .name = "llama3",
      .turn = { M("<|start_header_id|>") "system" M("<|end_header_id|>") "\n\n" TEXT M("<|eot_id|>"),
                M("<|start_header_id|>") "user" M("<|end_header_id|>") "\n\n" TEXT M("<|eot_id|>"),
                M("<|start_header_id|>") "assistant" M("<|end_header_id|>") "\n\n" TEXT M("<|eot_id|>") },
      .open = M("<|start_header_id|>") "assistant" M("<|end_header_id|>") "\n\n",
      .stop = "<|eot_id|>",
      .trim = TRIM_ALL,
      .bos = true },
    { .name = "mistral-v1",
      .turn = { NULL, BLANK M("[INST]") " " TEXT " " M("[/INST]"), " " TEXT EOS },
      .open = "",
      .merge = TEXT "\n\n",
      .bos = true },
    { .name = "mistral-v3",
      .turn = { NULL, M("[INST]") BLANK TEXT M("[/INST]"), BLANK TEXT EOS },
      .open = "",
      .merge = TEXT "\n\n",
      .trim = TRIM_ASSISTANT,
      .bos = true,
      .merge_last = true },
    { .name = "mistral-v3-tekken",
      .turn = { NULL, M("[INST]") TEXT M("[/INST]"), TEXT EOS },
      .open = "",
      .merge = TEXT "\n\n",
      .bos = true,
      .merge_last = true },
    { .name = "mistral-v7",
      .turn = { M("[SYSTEM_PROMPT]") BLANK TEXT M("[/SYSTEM_PROMPT]"), M("[INST]") BLANK TEXT M("[/INST]"), BLANK TEXT EOS },
      .open = "",
      .bos = true },
    { .name = "mistral-v7-tekken",
      .turn = { M("[SYSTEM_PROMPT]") TEXT M("[/SYSTEM_PROMPT]"), M("[INST]") TEXT M("[/INST]"), TEXT EOS },
      .open = "",
      .bos = true },
    { .name = "zephyr",
      .turn = { M("<|system|>") "\n" TEXT EOS "\n", M("<|user|>") "\n" TEXT EOS "\n", M("<|assistant|>") "\n" TEXT EOS "\n" },
      .open = M("<|assistant|>") "\n" },
    { .name = "gemma",
      .turn = { NULL, M("<start_of_turn>") "user\n" TEXT M("<end_of_turn>") "\n",
                M("<start_of_turn>") "model\n" TEXT M("<end_of_turn>") "\n" },
      .open = M("<start_of_turn>") "model\n",
      .merge = TEXT "\n\n",
      .stop = "<end_of_turn>",
      .trim = TRIM_USER | TRIM_ASSISTANT,
      .bos = true },
    { .name = "phi3",
      .turn = { M("<|system|>") "\n" TEXT M("<|end|>") "\n", M("<|user|>") "\n" TEXT M("<|end|>") "\n",
                M("<|assistant|>") "\n" TEXT M("<|end|>") "\n" },
      .open = M("<|assistant|>") "\n",
      .stop = "<|end|>",
      .eats_blanks = true },
    { .name = "phi4",
      .turn = { M("<|im_start|>") "system" M("<|im_sep|>") TEXT M("<|im_end|>"),
                M("<|im_start|>") "user" M("<|im_sep|>") TEXT M("<|im_end|>"),
                M("<|im_start|>") "assistant" M("<|im_sep|>") TEXT M("<|im_end|>") },
      .open = M("<|im_start|>") "assistant" M("<|im_sep|>"),
      .stop = "<|im_end|>" },
};
enum { N_FORMS = sizeof forms / sizeof forms[0] };

/* The first row whose words are all there, and whose `lacks` is not, wins. `after` and `before_end`: the second stands
 * between the first and the next "}}", that is, in the same expression. */
static const struct { const char *form, *has[3], *lacks, *after, *before_end; } marks[] = {
    { "phi4", { "<|im_start|>", "<|im_sep|>" }, NULL, NULL, NULL },
    { "qwen", { "<|im_start|>", "You are Qwen, created by Alibaba Cloud." }, NULL, NULL, NULL },
    { "qwen", { "<|im_start|>", "system\\nYou are a helpful assistant.<|im_end|>" }, NULL, NULL, NULL },
    { "qwen", { "<|im_start|>", "system\nYou are a helpful assistant.<|im_end|>" }, NULL, NULL, NULL },
    { "qwen", { "<|im_start|>", "enable_thinking", "<tool_call>" }, NULL, NULL, NULL },
    { "chatml", { "<|im_start|>", "<|im_end|>" }, "<|im_middle|>", NULL, NULL },
    { "llama3", { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" }, NULL, NULL, NULL },
    { "gemma", { "<start_of_turn>", "<end_of_turn>" }, NULL, NULL, NULL },
    { "mistral-v7", { "[INST]", "[SYSTEM_PROMPT] " }, NULL, NULL, NULL },
    { "mistral-v7-tekken", { "[INST]", "[SYSTEM_PROMPT]" }, NULL, NULL, NULL },
    { "llama2", { "[INST]", "[/INST]", "<<SYS>>" }, NULL, NULL, NULL },
    { "mistral-v1", { "[INST]", " [/INST]" }, NULL, NULL, NULL },
    { "mistral-v3", { "[INST] ", "[/INST]" }, NULL, NULL, NULL },
    { "mistral-v3-tekken", { "[INST]", "[/INST]" }, NULL, NULL, NULL },
    { "phi3", { "<|user|>", "<|assistant|>", "<|end|>" }, NULL, NULL, NULL },
    { "zephyr", { "<|user|>", "<|assistant|>" }, "[gMASK]", "<|user|>", "eos_token" },
    { "zephyr", { "<|user|>", "<|assistant|>" }, "[gMASK]", "<|user|>", "<|endoftext|>" },
};

/* System lines that Qwen's templates say when a conversation has none. */
static const char *const qwen_lines[] = { "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
                                          "You are a helpful assistant." };

const chat_form *chat_forms(size_t *n) { return *n = N_FORMS, forms; }
const char *chat_form_name(size_t i) { return i < N_FORMS ? forms[i].name : NULL; }
const char *chat_style_name(const chat_style *s) { return s->form->name; }

static const char *find(view v, const char *word) { return v.len ? memmem(v.ptr, v.len, word, strlen(word)) : NULL; }

static bool same_expression(view v, const char *word, const char *other)
{
    const char *from = find(v, word);
    view rest = { from, from ? v.len - (size_t)(from - (const char *)v.ptr) : 0 };
    const char *end = find(rest, "}}");
    return end && find((view){ from, (size_t)(end - from) }, other);
}

static bool fits(view v, size_t row)
{
    for (size_t i = 0; i < 3 && marks[row].has[i]; i++)
        if (!find(v, marks[row].has[i])) return false;
    if (marks[row].lacks && find(v, marks[row].lacks)) return false;
    return !marks[row].after || same_expression(v, marks[row].after, marks[row].before_end);
}

static const chat_form *form_named(const char *name)
{
    for (size_t i = 0; i < N_FORMS; i++)
        if (!strcmp(forms[i].name, name)) return &forms[i];
    return NULL;
}

/* Habits of a model that only its template shows. */
static void add_habits(chat_style *s, view v)
{
    if (strcmp(s->form->name, "qwen")) return;
    for (size_t i = 0; i < 2 && !s->system; i++)
        if (find(v, qwen_lines[i])) s->system = qwen_lines[i];
    s->drops_thoughts = find(v, "</think>") != NULL;
}

bool chat_detect(view v, chat_style *out)
{
    if (v.len > SOURCE_MAX) v.len = SOURCE_MAX;
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (fits(v, i)) {
            *out = (chat_style){ .form = form_named(marks[i].form) };
            add_habits(out, v);
            return true;
        }
    return false;
}

static err_code refuse(err_code code, const char *what, const char *name, err *e)
{
    char list[300] = "";
    size_t n = 0;
    for (size_t i = 0; i < N_FORMS && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", forms[i].name);
    return err_set(e, code, "%s%.60s%s; chat templates are %s", what, name, code == ERR_MODEL ? " (--chat-template NAME)" : "\"",
                   list);
}

err_code chat_style_of(chat_style *out, const char *name, const gguf *g, err *e)
{
    view v = { "", 0 };
    bool has = gguf_get_str(g, "tokenizer.chat_template", &v);
    *out = (chat_style){ 0 };
    if (!name)
        return chat_detect(v, out) ? ERR_OK
               : has ? refuse(ERR_MODEL, "the model's chat template is none that is known here, say which one it is", "", e)
                     : refuse(ERR_MODEL, "the model states no chat template, say which one it wants", "", e);
    if (!(out->form = form_named(name))) return refuse(ERR_INPUT, "no chat template \"", name, e);
    if (v.len > SOURCE_MAX) v.len = SOURCE_MAX;
    add_habits(out, v);
    return ERR_OK;
}
