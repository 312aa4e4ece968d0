/* Any bytes as lines of a batch file, in our shape and in OpenAI's, and as the output file that an earlier run left. The first
 * byte chooses.
 * Parser: ops/cli/request_line.c ops/cli/results.c */
#include "core/settings.h"
#include "ops/cli/request.h"
#include "ops/cli/results.h"
#include "tests/fuzz/kit.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static const char *const lines[] = {
    "{\"custom_id\":\"a\",\"prompt\":\"Once\",\"max_tokens\":3,\"temperature\":0.5,\"top_k\":2,\"top_p\":0.9,\"min_p\":0.1,\"seed\":7}",
    "{\"custom_id\":\"b\",\"tokens\":[1,2,3],\"stop\":[\"x\",\"y\"],\"n\":2,\"logprobs\":2,\"logit_bias\":{\"5\":-1.5},\"special\":true}",
    "{\"custom_id\":\"c\",\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"}],\"ignore_eos\":true}",
    "{\"custom_id\":\"d\",\"prompt\":\"q\",\"rag\":true,\"rag_passages\":2,\"rag_tokens\":9,\"context_full\":\"slide\",\"prefill\":\"local\","
    "\"repeat_penalty\":1.1,\"repeat_last\":8,\"lora\":\"/dev/null:0.5\",\"stop\":\"z\"}",
    "{\"custom_id\":\"e\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":\"m\",\"messages\":[{\"role\":\"user\","
    "\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]}],\"max_completion_tokens\":4,\"logprobs\":true,\"top_logprobs\":3,\"stream\":false,\"user\":\"u\"}}",
    "{\"custom_id\":\"f\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{\"model\":\"m\",\"prompt\":[1,2],\"logprobs\":2,\"echo\":false,"
    "\"frequency_penalty\":0,\"presence_penalty\":0,\"best_of\":1,\"suffix\":null,\"response_format\":{\"type\":\"text\"},\"store\":false}}",
    "{\"custom_id\":\"a\",\"text\":\"t\"}\n{\"custom_id\":\"b\",\"error\":{\"message\":\"no\"}}\n{\"custom_id\":\"c\",\"response\":{\"status_code\":200}}\n",
    "{\"custom_id\":\"a\",\"error\":null,\"response\":{\"status_code\":429}}\n\n{\"custom_id\":\"d\",\"te",
};
enum { N_LINES = sizeof lines / sizeof *lines, FIRST_RESULT = N_LINES - 2 };

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    const char *s = lines[pick % N_LINES];
    size_t n = strlen(s);
    if (n + 1 > max) return 0;
    out[0] = pick % N_LINES >= FIRST_RESULT;
    memcpy(out + 1, s, n);
    return n + 1;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

static void read_line(view line)
{
    static settings s;
    static bool made;
    request r;
    view frames[4];
    err e = { 0 };
    if (!made) settings_init(&s, CMD_SUBMIT), made = true;
    kit_must(request_init(&r, &s, &e), &e);
    err_code rc = request_line(&r, line, &e);
    kit_said(rc, &e);
    r.m.submit.ref = 1; /* whoever sends it says which */
    request_frames(&r, frames);
    if (rc == ERR_OK && !r.chat.n) kit_must(msg_check_frames(&r.m, frames, 4, &e), &e);
    uint8_t head[MSG_HEADER_MAX];
    size_t n = sizeof head;
    if (rc == ERR_OK) kit_must(msg_encode(&r.m, head, &n, &e), &e); /* what a line may say can be sent */
    request_free(&r);
}

static void read_results(const uint8_t *data, size_t size)
{
    const char *path = kit_path("results.jsonl");
    FILE *f = fopen(path, "we");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) abort();
    results r, again;
    err e = { 0 };
    err_code rc = results_open(&r, path, &e);
    kit_said(rc, &e);
    uint64_t kept = r.kept;
    if (rc == ERR_OK) {
        (void)results_have(&r, "a");
        kit_must(results_write(&r, json_pack("{s:s}", "custom_id", "new"), &e), &e);
    }
    kit_said(results_close(&r, rc, &e), &e);
    if (rc == ERR_OK) { /* what was kept is whole: read again, nothing has to go */
        kit_must(results_open(&again, path, &e), &e);
        if (again.kept != kept + 1 || again.retried) abort();
        kit_must(results_close(&again, ERR_OK, &e), &e);
    }
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size) return 0;
    if (data[0] & 1) {
        read_results(data + 1, size - 1);
        return 0;
    }
    for (view rest = { data + 1, size - 1 }; rest.len;) {
        const char *end = memchr(rest.ptr, '\n', rest.len);
        size_t n = end ? (size_t)(end - (const char *)rest.ptr) : rest.len, used = end ? n + 1 : n;
        read_line((view){ rest.ptr, n });
        rest = (view){ (const char *)rest.ptr + used, rest.len - used };
    }
    return 0;
}
