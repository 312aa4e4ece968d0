#include "ops/cli/request.h"
#include "engine/skip_rule.h"
#include "kvstore/kv.h"
#include "kvstore/preset.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Owns requests made from options; batch lines are in request_line.c. */

enum { PROMPT_BYTES_MAX = 1 << 26, STOP_BYTES_MAX = 65536, TABLE_MAX = 1 << 24, BIAS_MAX = 65536 };   /* proto/messages.def */
#define LORA_SCALE_MAX 1e6                                                                                      /* the same */

static err_code no_memory(err *e) { return err_set(e, ERR_NOMEM, "out of memory"); }

err_code request_add_stop(request *r, const char *s, err *e)
{
    size_t n = strlen(s);
    if (!n) return err_set(e, ERR_INPUT, "a stop string is empty");
    if (r->stop.len + n + 1 > STOP_BYTES_MAX)
        return err_set(e, ERR_INPUT, "the stop strings have more than %d bytes", STOP_BYTES_MAX);
    return text_add(&r->stop, s, n + 1) ? ERR_OK : no_memory(e);
}

err_code request_add_bias(request *r, uint32_t id, float bias, err *e)
{
    uint64_t n = r->m.submit.n_bias;
    if (n >= BIAS_MAX) return err_set(e, ERR_INPUT, "more than %d logit biases", BIAS_MAX);
    bias_rec *at = realloc(r->bias, (n + 1) * sizeof *at);
    if (!at) return no_memory(e);
    r->bias = at;
    at[n] = (bias_rec){ .id = id, .bias = bias };
    r->m.submit.n_bias = n + 1;
    return ERR_OK;
}

static err_code bias_option(request *r, const char *word, err *e)
{
    char *end = NULL, *after = NULL;
    unsigned long long id = *word >= '0' && *word <= '9' ? strtoull(word, &end, 10) : 0;
    float x = end && *end == '=' && end[1] ? strtof(end + 1, &after) : NAN;
    if (!after || *after || isnan(x) || id >= UINT32_MAX)
        return err_set(e, ERR_USAGE, "--logit-bias wants ID=X, not \"%.100s\"", word);
    return request_add_bias(r, (uint32_t)id, x, e);
}

err_code request_set_lora(request *r, const char *word, err *e)
{
    msg_submit *m = &r->m.submit;
    const char *colon = strrchr(word, ':');
    char *end = NULL;
    double scale = colon && colon[1] ? strtod(colon + 1, &end) : 1;
    bool scaled = end && !*end;
    if (scaled && !(fabs(scale) <= LORA_SCALE_MAX))
        return err_set(e, ERR_INPUT, "adapter \"%.200s\": a scale is a number from %g to %g", word,
                       -LORA_SCALE_MAX, LORA_SCALE_MAX);
    char *file = scaled ? strndup(word, (size_t)(colon - word)) : strdup(word);
    char *path = file ? realpath(file, NULL) : NULL;
    err_code rc = ERR_OK;
    if (!file) rc = no_memory(e);
    else if (!path) rc = err_set(e, ERR_INPUT, "adapter \"%.200s\": %s", file, strerror(errno));
    else if (strlen(path) >= sizeof m->lora)
        rc = err_set(e, ERR_INPUT, "adapter \"%.200s\": its path has more than %zu bytes", path, sizeof m->lora - 1);
    else memcpy(m->lora, path, strlen(path) + 1);
    m->lora_scale = scaled ? scale : 1;
    free(file);
    free(path);
    return rc;
}

err_code request_set_cache(request *r, const char *path, err *e)
{
    msg_submit *m = &r->m.submit;
    char *here = *path == '/' ? NULL : getcwd(NULL, 0);
    if (!*path) return err_set(e, ERR_USAGE, "--prompt-cache wants a file, not an empty text");
    if (*path != '/' && !here) return err_set(e, ERR_IO, "the current folder: %s", strerror(errno));
    int n = snprintf(m->cache, sizeof m->cache, "%s%s%s", here ? here : "", here ? "/" : "", path);
    free(here);
    return n < (int)sizeof m->cache ? ERR_OK : err_set(e, ERR_USAGE, "--prompt-cache: the path has more than %zu bytes", sizeof m->cache - 1);
}

static bool is(const char *a, const char *b) { return a && !strcmp(a, b); }

static void copy_numbers(msg_submit *m, const settings *s)
{
    bool own_rag = s->command & CMD_SUBMIT; /* elsewhere --rag-passages shapes the cluster */
    m->max_tokens = s->max_tokens;
    m->temperature = s->temp;
    m->top_k = s->top_k;
    m->top_p = s->top_p;
    m->min_p = s->min_p;
    m->repeat_penalty = s->repeat_penalty;
    m->repeat_last = s->repeat_last;
    m->seed = s->seed;
    m->n = s->choices;
    m->logprobs = s->logprobs;
    m->full_policy = is(s->context_full, "slide");
    m->prefill = is(s->prefill, "pipeline") ? 1 : is(s->prefill, "local") ? 2 : is(s->prefill, "predict") ? 3 : is(s->prefill, "hybrid") ? 4 : 0;
    m->refresh_at = s->refresh_at;
    m->ttft_ms = s->ttft_ms;
    m->quality = s->quality;
    m->parse_special = s->special;
    m->ignore_eog = s->ignore_eos;
    m->priority = s->priority;
    m->deadline_ms = (uint64_t)(s->deadline * 1e3 + 0.5);
    m->tenant = s->tenant;
    m->rag = own_rag ? s->use_rag : s->rag != NULL;
    if (own_rag && settings_was_given(s, "rag-passages")) m->rag_passages = s->rag_passages;
    if (own_rag && settings_was_given(s, "rag-tokens")) m->rag_tokens = s->rag_tokens;
}

/* Exact rows are the cluster's matter; a policy is the job's. */
err_code request_set_kv(request *r, const char *name, err *e)
{
    kv_policy p;
    kv_format exact;
    if (!kv_format_parse(name, &exact, NULL)) return ERR_OK;
    err_code rc = kv_policy_load(&p, name, e);
    if (rc) return rc;
    snprintf(r->m.submit.kv, sizeof r->m.submit.kv, "%s", p.name);
    if (p.lossy) kv_policy_print(&p, r->m.submit.kv_policy);
    return ERR_OK;
}

err_code request_init(request *r, const settings *s, err *e)
{
    *r = (request){ .m = msg_init(MSG_SUBMIT) };
    copy_numbers(&r->m.submit, s);
    err_code rc = s->lora ? request_set_lora(r, s->lora, e) : ERR_OK;
    for (size_t i = 0; rc == ERR_OK && i < s->stop.n; i++) rc = request_add_stop(r, s->stop.at[i], e);
    for (size_t i = 0; rc == ERR_OK && i < s->logit_bias.n; i++) rc = bias_option(r, s->logit_bias.at[i], e);
    if (rc == ERR_OK && s->kv) rc = request_set_kv(r, s->kv, e);
    if (rc == ERR_OK && s->skip) rc = skip_rule_load(r->m.submit.skip, s->skip, e);
    if (rc == ERR_OK && s->prompt_cache) rc = request_set_cache(r, s->prompt_cache, e);
    return rc;
}

void request_free(request *r)
{
    text_free(&r->prompt);
    text_free(&r->model);
    conversation_free(&r->chat);
    text_free(&r->stop);
    free(r->tokens);
    free(r->bias);
    *r = (request){ 0 };
}

err_code request_set_prompt(request *r, const void *p, size_t n, err *e)
{
    if (n > PROMPT_BYTES_MAX) return err_set(e, ERR_INPUT, "the prompt has more than %d bytes", PROMPT_BYTES_MAX);
    text_clear(&r->prompt);
    r->has_prompt = true;
    return text_add(&r->prompt, p, n) ? ERR_OK : no_memory(e);
}

err_code request_set_tokens(request *r, const uint32_t *ids, size_t n, err *e)
{
    if (!n || n > TABLE_MAX) return err_set(e, ERR_INPUT, "%zu tokens given, 1 to %d are possible", n, TABLE_MAX);
    id_rec *at = realloc(r->tokens, n * sizeof *at);
    if (!at) return no_memory(e);
    r->tokens = at;
    for (size_t i = 0; i < n; i++) at[i].id = ids[i];
    r->m.submit.n_tokens = n;
    return ERR_OK;
}

err_code request_prompt(request *r, const settings *s, err *e)
{
    bool dash = s->args.n == 1 && !strcmp(s->args.at[0], "-");
    if (s->args.n && !dash)
        return err_set(e, ERR_USAGE, "what is \"%.100s\"? -p TEXT, -f FILE or - (standard input) gives the prompt", s->args.at[0]);
    int ways = (s->prompt != NULL) + (s->file != NULL) + dash;
    if (!ways) return err_set(e, ERR_USAGE, "no prompt: -p TEXT, -f FILE or - (standard input)");
    if (ways > 1) return err_set(e, ERR_USAGE, "more than one prompt: choose among -p, -f and -");
    if (s->prompt) return request_set_prompt(r, s->prompt, strlen(s->prompt), e);
    r->has_prompt = true;
    return text_read_file(&r->prompt, dash ? "-" : s->file, PROMPT_BYTES_MAX, e);
}

void request_frames(const request *r, view out[static 4])
{
    out[SUBMIT_PROMPT] = (view){ r->prompt.ptr, r->prompt.len };
    out[SUBMIT_TOKENS] = (view){ r->tokens, r->m.submit.n_tokens * sizeof *r->tokens };
    out[SUBMIT_STOP] = (view){ r->stop.ptr, r->stop.len };
    out[SUBMIT_BIAS] = (view){ r->bias, r->m.submit.n_bias * sizeof *r->bias };
}
