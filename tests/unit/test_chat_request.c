/* Conversations and OpenAI's shape in lines of a batch file: ops/cli/request_line.c, chat_model.c. */
#include "ops/cli/chat_model.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <string.h>

static err_code read_line(request *r, const char *line, err *e)
{
    settings s;
    settings_init(&s, CMD_SUBMIT);
    cr_assert_eq(request_init(r, &s, e), ERR_OK, "%s", e->text);
    settings_free(&s);
    *e = (err){ 0 };
    return request_line(r, (view){ line, strlen(line) }, e);
}

#define CHAT(body) "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":" body "}"
#define TEXT_(body) "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":" body "}"
#define HI "\"messages\":[{\"role\":\"developer\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"Hi\"}]"

Test(chat_request, openais_fields_land_where_ours_do)
{
    request r;
    err e;
    cr_assert_eq(
        read_line(&r,
                  CHAT("{\"model\":\"gpt\",\"max_completion_tokens\":7,\"temperature\":0.5,\"top_p\":0.9,\"seed\":3,\"n\":2,"
                       "\"stop\":[\"x\"],\"logprobs\":true,\"top_logprobs\":5,\"stream\":false,\"user\":\"u\",\"tools\":null,"
                       "\"frequency_penalty\":0,\"response_format\":{\"type\":\"text\"},\"logit_bias\":{\"5\":-1}," HI "}"),
                  &e),
        ERR_OK, "%s", e.text);
    const msg_submit *m = &r.m.submit;
    cr_expect(m->max_tokens == 7 && m->temperature == 0.5 && m->top_p == 0.9 && m->seed == 3 && m->n == 2 && m->logprobs == 5);
    cr_expect(r.shape == SHAPE_OPENAI_CHAT && r.chat.n == 2 && r.chat.turn[0].role == CHAT_SYSTEM && m->n_bias == 1 &&
              r.stop.len == 2);
    cr_expect_str_eq(r.model.ptr, "gpt");
    request_free(&r);
    cr_assert_eq(read_line(&r, TEXT_("{\"model\":\"gpt\",\"prompt\":[1,2],\"logprobs\":3}"), &e), ERR_OK, "%s", e.text);
    cr_expect(r.shape == SHAPE_OPENAI_TEXT && r.m.submit.n_tokens == 2 && r.m.submit.logprobs == 3);
    request_free(&r);
    cr_assert_eq(read_line(&r, CHAT("{\"logprobs\":true," HI "}"), &e), ERR_OK, "%s", e.text);
    cr_expect_eq(r.m.submit.logprobs, 1);
    request_free(&r);
    cr_assert_eq(read_line(&r, CHAT("{\"top_logprobs\":4,\"logprobs\":false," HI "}"), &e), ERR_OK, "%s", e.text);
    cr_expect_eq(r.m.submit.logprobs, 0);
    request_free(&r);
}

Test(chat_request, lines_that_mean_nothing_clear_are_refused)
{
    static const struct { const char *line, *why;
    } bad[] = {
        { CHAT("{\"prompt\":\"x\"}"), "\"messages\" is missing" },
        { TEXT_("{" HI "}"), "belong to /v1/chat" },
        { CHAT("{\"stream\":true," HI "}"), "\"stream\" is not supported" },
        { CHAT("{\"presence_penalty\":0.5," HI "}"), "\"presence_penalty\"" },
        { CHAT("{\"response_format\":{\"type\":\"json_object\"}," HI "}"), "\"response_format\"" },
        { CHAT("{\"tools\":[]," HI "}"), "unknown field \"tools\"" },
        { CHAT("{\"custom_id\":\"b\"," HI "}"), "beside \"body\"" },
        { CHAT("[]"), "\"body\" is no object" },
        { CHAT("{\"prompt\":\"x\"," HI "}"), "exclude each other" },
        { "{\"custom_id\":\"a\",\"body\":{}}", "\"url\" is missing" },
        { "{\"custom_id\":\"a\",\"url\":\"/v1/embeddings\",\"body\":{}}", "/v1/embeddings" },
        { "{\"custom_id\":\"a\",\"method\":\"GET\",\"url\":\"/v1/completions\",\"body\":{}}", "\"GET\"" },
        { "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{},\"n\":1}",
          "unknown field \"n\" beside" },
        { "{\"custom_id\":\"a\"," HI ",\"prompt\":\"x\"}", "exclude each other" },
        { "{\"custom_id\":\"a\"," HI ",\"rag\":true}", "\"rag\"" },
        { "{\"custom_id\":\"a\"," HI ",\"model\":\"m\"}", "unknown field \"model\"" },
        { "{\"custom_id\":\"a\",\"messages\":[7]}", "message 1" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        request r;
        err e;
        cr_expect_eq(read_line(&r, bad[i].line, &e), ERR_INPUT, "%s", bad[i].line);
        cr_expect(strstr(e.text, bad[i].why), "%s: %s", bad[i].line, e.text);
        cr_expect_str_eq(r.m.submit.custom_id, "a");
        request_free(&r);
    }
}

Test(chat_request, a_conversation_becomes_tokens_and_its_forms_end_a_stop)
{
    chat_model m;
    request r;
    err e = { 0 };
    cr_assert_eq(chat_model_open(&m, support_root("models/sluice-tiny-Q8_0.gguf"), "chatml", &e), ERR_OK, "%s", e.text);
    cr_assert_eq(read_line(&r, "{\"custom_id\":\"a\"," HI "}", &e), ERR_OK, "%s", e.text);
    cr_assert_eq(chat_model_request(&m, &r.chat, &r, &e), ERR_OK, "%s", e.text);
    cr_expect_gt(r.m.submit.n_tokens, 10);
    cr_expect_eq(r.tokens[0].id, tokenizer_bos(m.tok));
    cr_expect(r.stop.len == 11 && !strcmp(r.stop.ptr, "<|im_end|>"));
    request_free(&r);
    chat_model_close(&m);
}

Test(chat_request, conversations_go_to_files_and_come_back)
{
    char path[256];
    conversation a = { 0 }, b = { 0 };
    err e = { 0 };
    snprintf(path, sizeof path, "%s/talk.jsonl", support_tmpdir());
    cr_expect_eq(chat_load(&a, path, true, &e), ERR_OK);
    cr_expect_eq(chat_load(&a, path, false, &e), ERR_IO);
    cr_assert_eq(conversation_add(&a, CHAT_USER, "a\n\"b\"", 5, &e), ERR_OK);
    cr_assert_eq(conversation_add(&a, CHAT_ASSISTANT, "", 0, &e), ERR_OK);
    cr_assert_eq(chat_store(&a, path, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(chat_load(&b, path, false, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(b.n, 2);
    cr_expect(b.turn[0].text.len == 5 && !memcmp(b.turn[0].text.ptr, "a\n\"b\"", 5) && b.turn[1].role == CHAT_ASSISTANT);
    cr_assert(support_write(path, "{\"role\":\"user\",\"content\":\"a\"}\n\nx\n", 33));
    cr_expect_eq(chat_load(&b, path, false, &e), ERR_INPUT);
    cr_expect(strstr(e.text, "talk.jsonl:3: not JSON"), "%s", e.text);
    cr_expect_eq(chat_store(&a, "/nonexistent/x", &e), ERR_IO);
    conversation_free(&a);
    conversation_free(&b);
}
