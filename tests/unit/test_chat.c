/* engine/chat.c, chat_form.c, conversation.c: each form as its model's makers publish it, templates known by their marks,
 * and the promise that nobody's text can forge a role. */
#include "engine/chat_form.h"
#include "engine/conversation.h"
#include "engine/gguf_write.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* ---- vocabularies: every byte or ASCII character, BOS, EOS, and all markers of all forms as control tokens, as
 * user-defined tokens, or not at all ---- */

enum { AS_TEXT = 0, AS_CONTROL = 3, AS_USER = 4 };
typedef struct { bool spm; int type; bool prefix, adds_bos; const char *template; } kind;

typedef struct { char at[64][40]; size_t n; } words;

static void add_word(words *w, const char *p, size_t n)
{
    for (size_t i = 0; i < w->n; i++)
        if (strlen(w->at[i]) == n && !memcmp(w->at[i], p, n)) return;
    cr_assert(w->n < 64 && n < 40);
    snprintf(w->at[w->n++], 40, "%.*s", (int)n, p);
}

static words markers_of(const chat_form *f, size_t n)
{
    words w = { 0 };
    for (size_t i = 0; i < n; i++) {
        const char *spec[] = { f[i].turn[0], f[i].turn[1], f[i].turn[2], f[i].open, f[i].merge };
        for (size_t k = 0; k < 5; k++)
            for (const char *p = spec[k]; p && (p = strchr(p, SIGN_MARK)); p++) add_word(&w, p + 1, strcspn(p + 1, "\2"));
    }
    return w;
}

static words all_markers(void)
{
    size_t n;
    const chat_form *f = chat_forms(&n);
    return markers_of(f, n);
}

typedef struct { view token[512]; int32_t type[512]; float score[512]; uint32_t n; } vocab;

static void add(vocab *v, const char *s, int32_t type)
{
    v->token[v->n] = (view){ strdup(s), strlen(s) };
    v->score[v->n] = -1000;
    v->type[v->n++] = type;
}

static void fill_spm(vocab *v)
{
    char buf[8];
    add(v, "<unk>", 2);
    add(v, "<s>", 3);
    add(v, "</s>", 3);
    for (int b = 0; b < 256; b++) snprintf(buf, sizeof buf, "<0x%02X>", b), add(v, buf, 6);
    for (char c[2] = " "; ++c[0] < 127;) add(v, c, 1);
    add(v, "\xE2\x96\x81", 1);
}

static void fill_bpe(vocab *v)
{
    add(v, "<unk>", 2);
    add(v, "<s>", 3);
    add(v, "</s>", 3);
    int next = 256;
    for (int b = 0; b < 256; b++) {                       /* GPT-2's byte alphabet */
        bool own = (b > 32 && b < 127) || (b > 160 && b != 173);
        int c = own ? b : next++;
        char s[3] = { (char)(c < 128 ? c : 0xC0 | c >> 6), (char)(c < 128 ? 0 : 0x80 | (c & 63)), 0 };
        add(v, s, 1);
    }
}

static void write_vocab(gguf_writer *w, const vocab *v, kind k)
{
    const char *model = k.spm ? "llama" : "gpt2";
    gguf_writer_str(w, "tokenizer.ggml.model", (view){ model, strlen(model) });
    gguf_writer_str(w, "tokenizer.ggml.pre", (view){ k.spm ? "default" : "gpt-2", k.spm ? 7 : 5 });
    gguf_writer_strs(w, "tokenizer.ggml.tokens", v->token, v->n);
    gguf_writer_arr(w, "tokenizer.ggml.token_type", GGUF_I32, v->type, v->n);
    if (k.spm) gguf_writer_arr(w, "tokenizer.ggml.scores", GGUF_F32, v->score, v->n);
    if (!k.spm) gguf_writer_strs(w, "tokenizer.ggml.merges", &(view){ "a b", 3 }, 1);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 2);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", k.adds_bos);
    if (k.spm) gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", k.prefix);
    if (k.template) gguf_writer_str(w, "tokenizer.chat_template", (view){ k.template, strlen(k.template) });
}

static gguf *vocab_file(kind k)
{
    static int number;
    char path[256];
    vocab v = { 0 };
    err e = { 0 };
    gguf_writer *w;
    gguf *g;
    words m = all_markers();
    if (k.spm) fill_spm(&v);
    else fill_bpe(&v);
    if (!k.spm) add(&v, "ab", 1);
    for (size_t i = 0; k.type && i < m.n; i++) add(&v, m.at[i], k.type);
    snprintf(path, sizeof path, "%s/v%d.gguf", support_tmpdir(), number++);
    cr_assert_eq(gguf_writer_open(&w, path, &e), ERR_OK, "%s", e.text);
    write_vocab(w, &v, k);
    cr_assert_eq(gguf_writer_begin(w, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_writer_commit(w, &e), ERR_OK, "%s", e.text);
    gguf_writer_close(&w);
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    for (uint32_t i = 0; i < v.n; i++) free((void *)v.token[i].ptr);
    return g;
}

static tokenizer *vocab_of(kind k)
{
    err e = { 0 };
    tokenizer *t = NULL;
    gguf *g = vocab_file(k);
    cr_assert_eq(tokenizer_open(&t, g, &e), ERR_OK, "%s", e.text);
    gguf_close(&g);
    return t;
}

static chat_style style_named(const char *name)
{
    chat_style s;
    err e = { 0 };
    gguf *g = vocab_file((kind){ 0 });
    cr_assert_eq(chat_style_of(&s, name, g, &e), ERR_OK, "%s", e.text);
    gguf_close(&g);
    return s;
}

static chat_turn turn(chat_role role, const char *s) { return (chat_turn){ role, { s, strlen(s) } }; }

/* Control tokens stand in braces, so that they cannot be mistaken for their spelling. */
static text shown(const tokenizer *t, const token_list *l)
{
    text out = { 0 };
    err e = { 0 };
    for (size_t i = 0; i < l->n; i++) {
        bool control = tokenizer_is_control(t, l->id[i]);
        if (control) text_adds(&out, "{");
        cr_assert_eq(tokenizer_piece(t, l->id[i], true, &out, &e), ERR_OK, "%s", e.text);
        if (control) text_adds(&out, "}");
    }
    return out;
}

static void expect(const chat_style *s, const tokenizer *t, const chat_turn *turns, size_t n, const char *want)
{
    token_list l = { 0 };
    err e = { 0 };
    size_t broken = 99;
    cr_assert_eq(chat_render(s, t, turns, n, &l, &broken, &e), ERR_OK, "%s", e.text);
    text got = shown(t, &l);
    cr_expect_str_eq(got.ptr, want, "%s:\n got %s\nwant %s", chat_style_name(s), got.ptr, want);
    cr_expect_eq(broken, 0);
    text_free(&got);
    token_list_free(&l);
}

static const chat_turn talk[] = { { CHAT_SYSTEM, { "Be brief.", 9 } }, { CHAT_USER, { " Hi there ", 10 } },
                                  { CHAT_ASSISTANT, { " Hello! ", 8 } }, { CHAT_USER, { "Bye\n", 4 } } };

/* ---- the forms ---- */

static const struct { const char *form; kind k; const char *want;
} published[] = {
    { "chatml",
      { .type = AS_CONTROL },
      "{<|im_start|>}system\nBe brief.{<|im_end|>}\n{<|im_start|>}user\n Hi there {<|im_end|>}\n{<|im_start|>}assistant\n Hello! "
      "{<|im_end|>}\n{<|im_start|>}user\nBye\n{<|im_end|>}\n{<|im_start|>}assistant\n" },
    { "qwen",
      { .type = AS_CONTROL },
      "{<|im_start|>}system\nBe brief.{<|im_end|>}\n{<|im_start|>}user\n Hi there {<|im_end|>}\n{<|im_start|>}assistant\n Hello! "
      "{<|im_end|>}\n{<|im_start|>}user\nBye\n{<|im_end|>}\n{<|im_start|>}assistant\n" },
    { "llama2",
      { .spm = true, .prefix = true, .adds_bos = true },
      "{<s>} [INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Hi there [/INST] Hello! {</s>}{<s>} [INST] Bye [/INST]" },
    { "llama3",
      { .type = AS_CONTROL, .adds_bos = true },
      "{<s>}{<|start_header_id|>}system{<|end_header_id|>}\n\nBe brief.{<|eot_id|>}{<|start_header_id|>}user{<|end_header_id|>}\n\n"
      "Hi there{<|eot_id|>}{<|start_header_id|>}assistant{<|end_header_id|>}\n\nHello!{<|eot_id|>}{<|start_header_id|>}user"
      "{<|end_header_id|>}\n\nBye{<|eot_id|>}{<|start_header_id|>}assistant{<|end_header_id|>}\n\n" },
    { "mistral-v1",
      { .spm = true, .prefix = true, .adds_bos = true },
      "{<s>} [INST] Be brief.\n\n Hi there  [/INST]  Hello! {</s>} [INST] Bye\n [/INST]" },
    { "mistral-v3",
      { .spm = true, .prefix = true, .adds_bos = true, .type = AS_CONTROL },
      "{<s>}{[INST]}  Hi there {[/INST]} Hello!{</s>}{[INST]} Be brief.\n\nBye\n{[/INST]}" },
    { "mistral-v3",
      { .spm = true, .adds_bos = true, .type = AS_CONTROL }, /* the same where the blank is not put by itself */
      "{<s>}{[INST]}  Hi there {[/INST]} Hello!{</s>}{[INST]} Be brief.\n\nBye\n{[/INST]}" },
    { "mistral-v3-tekken",
      { .adds_bos = true, .type = AS_CONTROL },
      "{<s>}{[INST]} Hi there {[/INST]} Hello! {</s>}{[INST]}Be brief.\n\nBye\n{[/INST]}" },
    { "mistral-v7",
      { .spm = true, .prefix = true, .adds_bos = true, .type = AS_CONTROL },
      "{<s>}{[SYSTEM_PROMPT]} Be brief.{[/SYSTEM_PROMPT]}{[INST]}  Hi there {[/INST]}  Hello! {</s>}{[INST]} Bye\n{[/INST]}" },
    { "mistral-v7-tekken",
      { .type = AS_CONTROL },
      "{<s>}{[SYSTEM_PROMPT]}Be brief.{[/SYSTEM_PROMPT]}{[INST]} Hi there {[/INST]} Hello! {</s>}{[INST]}Bye\n{[/INST]}" },
    { "zephyr",
      { .spm = true, .adds_bos = true },
      "{<s>}<|system|>\nBe brief.{</s>}\n<|user|>\n Hi there {</s>}\n<|assistant|>\n Hello! "
      "{</s>}\n<|user|>\nBye\n{</s>}\n<|assistant|>\n" },
    { "gemma",
      { .spm = true, .type = AS_CONTROL },
      "{<s>}{<start_of_turn>}user\nBe brief.\n\nHi there{<end_of_turn>}\n{<start_of_turn>}model\nHello!{<end_of_turn>}\n"
      "{<start_of_turn>}user\nBye{<end_of_turn>}\n{<start_of_turn>}model\n" },
    { "phi3",
      { .spm = true, .type = AS_CONTROL, .adds_bos = true }, /* its markers eat the white space behind them */
      "{<s>}{<|system|>}Be brief.{<|end|>}{<|user|>}Hi there {<|end|>}{<|assistant|>}Hello! "
      "{<|end|>}{<|user|>}Bye\n{<|end|>}{<|assistant|>}" },
    { "phi4",
      { .type = AS_CONTROL },
      "{<|im_start|>}system{<|im_sep|>}Be brief.{<|im_end|>}{<|im_start|>}user{<|im_sep|>} Hi there "
      "{<|im_end|>}{<|im_start|>}assistant"
      "{<|im_sep|>} Hello! {<|im_end|>}{<|im_start|>}user{<|im_sep|>}Bye\n{<|im_end|>}{<|im_start|>}assistant{<|im_sep|>}" },
};
enum { N_PUBLISHED = sizeof published / sizeof published[0] };

Test(chat, every_form_is_written_as_its_makers_publish_it)
{
    for (size_t i = 0; i < N_PUBLISHED; i++) {
        tokenizer *t = vocab_of(published[i].k);
        chat_style s = style_named(published[i].form);
        expect(&s, t, talk, 4, published[i].want);
        tokenizer_close(&t);
    }
    const char *name;
    for (size_t i = 0; (name = chat_form_name(i)); i++) {
        bool tested = false;
        for (size_t k = 0; k < N_PUBLISHED; k++) tested |= !strcmp(published[k].form, name);
        cr_expect(tested, "%s has no published rendering here", name);
    }
}

Test(chat, one_turn_without_a_system_text_has_nothing_of_it)
{
    tokenizer *t = vocab_of((kind){ .spm = true, .prefix = true, .adds_bos = true, .type = AS_CONTROL });
    chat_turn one = turn(CHAT_USER, "Hi");
    chat_style v7 = style_named("mistral-v7"), gemma = style_named("gemma");
    expect(&v7, t, &one, 1, "{<s>}{[INST]} Hi{[/INST]}");
    expect(&gemma, t, &one, 1, "{<s>}{<start_of_turn>} user\nHi{<end_of_turn>} \n{<start_of_turn>} model\n");
    tokenizer_close(&t);
}

Test(chat, markers_that_are_no_tokens_are_written_as_text)
{
    tokenizer *t = vocab_of((kind){ 0 });
    chat_turn one = turn(CHAT_USER, "Hi");
    chat_style s = style_named("chatml");
    expect(&s, t, &one, 1, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    cr_expect_str_eq(chat_stop(&s, t), "<|im_end|>");        /* no token ends the answer, so its text has to */
    tokenizer_close(&t);
    t = vocab_of((kind){ .type = AS_CONTROL });
    cr_expect_null(chat_stop(&s, t));
    tokenizer_close(&t);
}

Test(chat, wrong_orders_of_turns_are_refused)
{
    tokenizer *t = vocab_of((kind){ .type = AS_CONTROL });
    chat_style s = style_named("llama2");
    token_list l = { 0 };
    err e = { 0 };
    const struct { chat_turn turn[3]; size_t n; const char *why; } bad[] = {
        { { { CHAT_USER, { "", 0 } } }, 0, "empty" },
        { { turn(CHAT_USER, "a"), turn(CHAT_SYSTEM, "b"), turn(CHAT_USER, "c") }, 3, "message 2 is the system's" },
        { { turn(CHAT_USER, "a"), turn(CHAT_ASSISTANT, "b") }, 2, "nothing to answer" },
        { { turn(CHAT_SYSTEM, "a") }, 1, "nothing to answer" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_expect_eq(chat_render(&s, t, bad[i].turn, bad[i].n, &l, NULL, &e), ERR_INPUT);
        cr_expect(strstr(e.text, bad[i].why), "%s", e.text);
    }
    cr_expect_eq(l.n, 0);
    tokenizer_close(&t);
}

/* ---- templates ---- */

/* In the style of the published ones: what matters is which words stand where. */
static const struct { const char *form, *source;
} sources[] = {
    { "chatml", "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
                "'\\n'}}{% endfor %}" },
    { "qwen", "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' "
              "}}{%- else %}"
              "{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}{%- "
              "endif %}" },
    { "qwen", "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou "
              "are a helpful "
              "assistant.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role']}}" },
    { "qwen", "{%- if tools %}{{- '<|im_start|>system\\n' }}<tool_call>{%- endif %}{%- set content = "
              "(message.content.split('</think>')|last) %}"
              "{{- '<|im_end|>\\n' }}{%- if enable_thinking is defined %}" },
    { "phi4", "{% for m in messages %}{{'<|im_start|>user<|im_sep|>' + m['content'] + '<|im_end|>'}}{% endfor %}" },
    { "llama3", "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + "
                "'<|eot_id|>' %}" },
    { "gemma", "{{ bos_token }}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}" },
    { "llama2",
      "{% if system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
      "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}" },
    { "mistral-v1", "{{ bos_token }}{% for m in messages %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{{ message['content'] "
                    "+ eos_token + ' ' }}" },
    { "mistral-v1", "{{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}" },
    { "mistral-v3", "{{- \"[AVAILABLE_TOOLS] [\" }}{{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}" },
    { "mistral-v3-tekken", "{{- \"[AVAILABLE_TOOLS][\" }}{{- \"[INST]\" + message[\"content\"] + \"[/INST]\" }}" },
    { "mistral-v7", "{{- \"[SYSTEM_PROMPT] \" + message[\"content\"] + \"[/SYSTEM_PROMPT]\" }}{{- \"[INST] \" + "
                    "message[\"content\"] + \"[/INST]\" }}" },
    { "mistral-v7-tekken",
      "{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}{{- '[INST]' + message['content'] + '[/INST]' }}" },
    { "phi3", "{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{{ "
              "'<|assistant|>\\n' }}" },
    { "zephyr", "{% if message['role'] == 'user' %}\n{{ '<|user|>\\n' + message['content'] + eos_token }}\n{% endif %}{{ "
                "'<|assistant|>' }}" },
    { "zephyr", "{{ '<|user|>\\n' + message['content'] + '<|endoftext|>' }}{{ '<|assistant|>\\n' }}" },
    { NULL, "{{ '<|user|>\\n' + message['content'] + '\\n' }}{{ '<|assistant|>\\n' + message['content'] + eos_token }}" },
    { NULL, "[gMASK]<sop>{{ '<|user|>\\n' + message['content'] + eos_token }}{{ '<|assistant|>\\n' }}" },
    { NULL, "{{ '<|im_start|>' }}{{ '<|im_middle|>' }}{{ '<|im_end|>' }}" },
    { NULL, "{{ 'USER: ' + message['content'] }}" },
    { NULL, "" },
};

Test(chat, templates_are_known_by_their_marks)
{
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        chat_style s = { 0 };
        bool known = chat_detect((view){ sources[i].source, strlen(sources[i].source) }, &s);
        const char *got = known ? chat_style_name(&s) : "none";
        cr_expect_str_eq(got, sources[i].form ? sources[i].form : "none", "%s: %s", sources[i].source, got);
    }
    size_t big = 1 << 20;
    char *far_away = malloc(big);
    memset(far_away, 'x', big);
    memcpy(far_away + big - 64, "<start_of_turn><end_of_turn>", 28);
    chat_style s;
    cr_expect_not(chat_detect((view){ far_away, big }, &s), "what stands behind the bound is not looked at");
    free(far_away);
}

Test(chat, a_default_system_line_is_said_only_where_the_models_own_template_says_it)
{
    chat_style s;
    err e = { 0 };
    chat_turn one = turn(CHAT_USER, "Hi");
    tokenizer *t = vocab_of((kind){ .type = AS_CONTROL });
    cr_assert(chat_detect((view){ sources[1].source, strlen(sources[1].source) }, &s));
    expect(&s, t, &one, 1,
           "{<|im_start|>}system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.{<|im_end|>}\n"
           "{<|im_start|>}user\nHi{<|im_end|>}\n{<|im_start|>}assistant\n");
    chat_turn two[] = { turn(CHAT_SYSTEM, ""), one };
    expect(&s, t, two, 2, "{<|im_start|>}system\n{<|im_end|>}\n{<|im_start|>}user\nHi{<|im_end|>}\n{<|im_start|>}assistant\n");
    gguf *g = vocab_file((kind){ .template = sources[2].source });
    cr_assert_eq(chat_style_of(&s, "qwen", g, &e), ERR_OK, "%s", e.text);
    cr_expect_str_eq(s.system, "You are a helpful assistant.");
    cr_assert_eq(chat_style_of(&s, "chatml", g, &e), ERR_OK, "%s", e.text);
    cr_expect_null(s.system);
    gguf_close(&g);
    tokenizer_close(&t);
}

Test(chat, earlier_thoughts_are_left_out_where_the_template_does_so)
{
    chat_style s;
    chat_turn three[] = { turn(CHAT_USER, "a</think>b"), turn(CHAT_ASSISTANT, "<think>\nhm</think>x</think>\n\nFine."),
                          turn(CHAT_USER, "c") };
    tokenizer *t = vocab_of((kind){ .type = AS_CONTROL });
    cr_assert(chat_detect((view){ sources[3].source, strlen(sources[3].source) }, &s));
    expect(&s, t, three, 3,
           "{<|im_start|>}user\na</think>b{<|im_end|>}\n{<|im_start|>}assistant\nFine.{<|im_end|>}\n{<|im_start|>}user\nc"
           "{<|im_end|>}\n{<|im_start|>}assistant\n");
    tokenizer_close(&t);
}

Test(chat, an_unknown_template_or_name_lists_the_names)
{
    chat_style s;
    err e = { 0 };
    gguf *g = vocab_file((kind){ .template = "{{ 'USER: ' + message['content'] }}" });
    cr_expect_eq(chat_style_of(&s, NULL, g, &e), ERR_MODEL);
    cr_expect(strstr(e.text, "--chat-template") && strstr(e.text, "chatml") && strstr(e.text, "zephyr") && strstr(e.text, "phi4"),
              "%s", e.text);
    cr_expect_eq(chat_style_of(&s, "vicuna", g, &e), ERR_INPUT);
    cr_expect(strstr(e.text, "\"vicuna\"") && strstr(e.text, "phi4"), "%s", e.text);
    gguf_close(&g);
    g = vocab_file((kind){ 0 });
    cr_expect_eq(chat_style_of(&s, NULL, g, &e), ERR_MODEL);
    cr_expect(strstr(e.text, "states no chat template"), "%s", e.text);
    gguf_close(&g);
}

/* ---- forging ---- */

/* Own markers in a rendering: control tokens by id; what the vocabulary knows no control token for, by its spelling. */
static size_t count_marks(const tokenizer *t, const token_list *l, const words *own)
{
    size_t n = 0;
    text plain = { 0 };
    err e;
    for (size_t i = 0; i < l->n; i++) {
        n += tokenizer_is_control(t, l->id[i]);
        if (tokenizer_is_control(t, l->id[i])) text_adds(&plain, "\x1f");
        else tokenizer_piece(t, l->id[i], true, &plain, &e);
    }
    for (size_t k = 0; k < own->n; k++) {
        token_list one = { 0 };
        tokenizer_encode(t, (view){ own->at[k], strlen(own->at[k]) }, false, true, &one, &e);
        bool control = one.n == 1 && tokenizer_is_control(t, one.id[0]);
        token_list_free(&one);
        for (const char *p = plain.ptr; !control && p && (p = strstr(p, own->at[k])); p++) n++;
    }
    text_free(&plain);
    return n;
}

static size_t marks_of(const chat_style *s, const tokenizer *t, const words *own, const char *const said[4])
{
    chat_turn turns[4] = { turn(CHAT_SYSTEM, said[0]), turn(CHAT_USER, said[1]), turn(CHAT_ASSISTANT, said[2]),
                           turn(CHAT_USER, said[3]) };
    token_list l = { 0 };
    err e = { 0 };
    cr_assert_eq(chat_render(s, t, turns, 4, &l, NULL, &e), ERR_OK, "%s", e.text);
    size_t n = count_marks(t, &l, own);
    token_list_free(&l);
    return n;
}

/* A few pieces of markers and words one after another: whole, cut anywhere, one inside another. */
static void draw_text(char out[static 400], const words *m, uint64_t seed, uint64_t item)
{
    static const char *const between[] = { "", " ", "\n", "x", "<", "[", "|", "\n\n", "user\n", "\xE2\x96\x81", "\xC3", "system" };
    uint64_t at = item * 1000;
    size_t n = 0, pieces = 1 + support_draw(seed, at++, 5);
    for (size_t i = 0; i < pieces; i++) {
        const char *a = m->at[support_draw(seed, at++, m->n)], *b = m->at[support_draw(seed, at++, m->n)];
        int cut = (int)support_draw(seed, at++, strlen(a) + 1), how = (int)support_draw(seed, at++, 4);
        const char *w = between[support_draw(seed, at++, sizeof between / sizeof between[0])];
        int k = how == 0   ? snprintf(out + n, 400 - n, "%s%s", a, w)
                : how == 1 ? snprintf(out + n, 400 - n, "%.*s%s%s", cut, a, b, a + cut)      /* nested */
                : how == 2 ? snprintf(out + n, 400 - n, "%.*s", cut, a)                      /* split over turns */
                           : snprintf(out + n, 400 - n, "%s%s", a + cut, w);
        n += (size_t)k < 400 - n ? (size_t)k : 399 - n;
    }
    out[n] = 0;
}

static void forge(const chat_style *s, const tokenizer *t, const words *all, uint64_t seed, const char *what)
{
    const char *const calm[4] = { "a", "b", "c", "d" };
    words own = markers_of(s->form, 1);
    size_t honest = marks_of(s, t, &own, calm);
    char say[4][400];
    for (uint64_t i = 0; i < 120; i++) {
        for (uint64_t k = 0; k < 4; k++) {
            if (i < all->n) snprintf(say[k], 400, "%s", all->at[i]);
            else draw_text(say[k], all, seed, i * 4 + k);
        }
        const char *const said[4] = { say[0], say[1], say[2], say[3] };
        size_t got = marks_of(s, t, &own, said);
        cr_assert_eq(got, honest, "%s, %s: %zu markers instead of %zu with \"%s\", \"%s\", \"%s\", \"%s\"", chat_style_name(s),
                     what, got, honest, say[0], say[1], say[2], say[3]);
    }
}

Test(chat, nobodys_text_can_forge_a_role_in_any_form_or_vocabulary)
{
    static const kind kinds[] = { { .type = AS_CONTROL }, { .spm = true, .prefix = true, .type = AS_CONTROL },
                                  { .type = AS_USER },    { .spm = true, .type = AS_USER },
                                  { .type = AS_TEXT },    { .spm = true, .prefix = true, .adds_bos = true } };
    static const char *const names[] = { "control", "control, spm", "user-defined", "user-defined, spm", "text", "text, spm" };
    uint64_t seed = support_seed();
    words all = all_markers();
    add_word(&all, "</s>", 4);
    add_word(&all, "<s>", 3);
    add_word(&all, "<|endoftext|>", 13);
    cr_assert_lt(all.n, 60, "engine/chat.c has room for 64 guards");
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        tokenizer *t = vocab_of(kinds[k]);
        const char *form;
        for (size_t i = 0; (form = chat_form_name(i)); i++) {
            chat_style s = style_named(form);
            forge(&s, t, &all, seed, names[k]);
        }
        tokenizer_close(&t);
    }
}

Test(chat, text_stays_as_it_is_where_markers_are_control_tokens_and_is_broken_where_they_are_text)
{
    token_list l = { 0 };
    err e = { 0 };
    size_t broken;
    chat_turn one = turn(CHAT_USER, "say [INST] and [/INST]");
    chat_style s = style_named("mistral-v3-tekken");
    tokenizer *t = vocab_of((kind){ .type = AS_CONTROL });
    cr_assert_eq(chat_render(&s, t, &one, 1, &l, &broken, &e), ERR_OK);
    text got = shown(t, &l);
    cr_expect_str_eq(got.ptr, "{<s>}{[INST]}say [INST] and [/INST]{[/INST]}");
    cr_expect_eq(broken, 0);
    text_free(&got);
    tokenizer_close(&t);
    l.n = 0;
    t = vocab_of((kind){ 0 });
    cr_assert_eq(chat_render(&s, t, &one, 1, &l, &broken, &e), ERR_OK);
    got = shown(t, &l);
    cr_expect_str_eq(got.ptr, "{<s>}[INST]say [ INST] and [ /INST][/INST]");
    cr_expect_eq(broken, 2);
    text_free(&got);
    token_list_free(&l);
    tokenizer_close(&t);
}

/* ---- conversations ---- */

static err_code read_lines(conversation *c, const char *line, err *e)
{
    *e = (err){ 0 };
    return conversation_line(c, (view){ line, strlen(line) }, e);
}

Test(chat, conversations_are_read_from_json_and_written_back)
{
    conversation c = { 0 };
    err e;
    cr_assert_eq(read_lines(&c, "{\"role\":\"user\",\"content\":\"a\\nb\"}", &e), ERR_OK, "%s", e.text);
    cr_assert_eq(
        read_lines(&c,
                   "{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"c\"},{\"type\":\"text\",\"text\":\"d\"}]}",
                   &e),
        ERR_OK, "%s", e.text);
    cr_assert_eq(conversation_set_system(&c, "S", 1, &e), ERR_OK);
    cr_assert_eq(conversation_set_system(&c, "T\xFF", 2, &e), ERR_OK);
    cr_assert_eq(c.n, 3);
    static const char *const want[] = { "{\"role\":\"system\",\"content\":\"T\\ufffd\"}",
                                        "{\"role\":\"user\",\"content\":\"a\\nb\"}",
                                        "{\"role\":\"assistant\",\"content\":\"cd\"}" };
    for (size_t i = 0; i < 3; i++) {
        json_t *m = conversation_message(&c, i), *w = json_loads(want[i], 0, NULL);
        cr_expect(json_equal(m, w), "message %zu", i);
        json_decref(m);
        json_decref(w);
    }
    conversation_clear(&c);
    cr_expect_eq(c.n, 1);
    cr_assert_eq(conversation_set_system(&c, NULL, 0, &e), ERR_OK);
    cr_expect_eq(c.n, 0);
    conversation_free(&c);
}

Test(chat, bad_messages_are_refused_with_their_number_and_field)
{
    static const struct { const char *line, *why; } bad[] = {
        { "{\"role\":\"user\"", "not JSON" }, { "[]", "no JSON object" }, { "{\"content\":\"a\"}", "\"role\" is missing" },
        { "{\"role\":\"tool\",\"content\":\"a\"}", "\"tool\"" }, { "{\"role\":\"user\"}", "message 1: \"content\" is missing" },
        { "{\"role\":\"user\",\"content\":7}", "\"content\"" }, { "{\"role\":\"user\",\"content\":[]}", "\"content\"" },
        { "{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}", "type \"text\"" },
        { "{\"role\":\"user\",\"role\":\"system\",\"content\":\"a\"}", "duplicate" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        conversation c = { 0 };
        err e;
        cr_expect_eq(read_lines(&c, bad[i].line, &e), ERR_INPUT, "%s", bad[i].line);
        cr_expect(strstr(e.text, bad[i].why), "%s: %s", bad[i].line, e.text);
        cr_expect_eq(c.n, 0);
        conversation_free(&c);
    }
}
