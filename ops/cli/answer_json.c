#include "ops/cli/answer.h"
#include "proto/finish.h"
#include "core/utf8.h"
#include "ops/cli/describe.h"
#include "ops/cli/pieces.h"
#include <math.h>
#include <string.h>

/* Answers as JSON objects. Field names are part of the versioned schemas: they are added to, never changed. */

json_t *json_bytes(const void *p, size_t n)
{
    text clean = { 0 };
    json_t *j = json_stringn(n ? p : "", n);
    if (j || !utf8_clean(&clean, (view){ p, n }, NULL)) return j;
    j = json_stringn(clean.ptr ? clean.ptr : "", clean.len);
    text_free(&clean);
    return j;
}

json_t *json_finite(double x) { return isfinite(x) ? json_real(x) : json_null(); }

json_t *answer_error_json(const err *e)
{
    json_t *o = json_object();
    json_object_set_new(o, "code", json_string(err_name(e->code)));
    json_object_set_new(o, "status", json_integer(err_exit_status(e->code)));
    json_object_set_new(o, "message", json_bytes(e->text, strlen(e->text)));
    return o;
}

static json_t *token_ids(const choice *c)
{
    json_t *a = json_array();
    for (size_t i = 0; i < c->n_tokens; i++) json_array_append_new(a, json_integer(c->token[i].id));
    return a;
}

static json_t *top_list(const cand_rec *top, size_t n, const tokenizer *names)
{
    json_t *a = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *o = json_object();
        json_object_set_new(o, "id", json_integer(top[i].id));
        pieces_put(o, "text", names, top[i].id);
        json_object_set_new(o, "logprob", json_finite((double)top[i].logit));
        json_array_append_new(a, o);
    }
    return a;
}

static json_t *logprob_list(const choice *c, const tokenizer *names)
{
    json_t *a = json_array();
    size_t at = 0;
    for (size_t i = 0; i < c->n_tokens; i++) {
        size_t left = c->n_top - at, n = c->token[i].n_top < left ? c->token[i].n_top : left;
        json_t *o = json_object();
        json_object_set_new(o, "id", json_integer(c->token[i].id));
        pieces_put(o, "text", names, c->token[i].id);
        json_object_set_new(o, "logprob", json_finite((double)c->token[i].logprob));
        json_object_set_new(o, "top", top_list(c->top + at, n, names));
        json_array_append_new(a, o);
        at += n;
    }
    return a;
}

/* exact_from: the first token that came from exact rows alone; null: none did. */
static json_t *prediction(const choice *c)
{
    json_t *o = json_object();
    bool ever = c->done.predicted < c->n_tokens;
    json_object_set_new(o, "mode", json_string(describe_way(c->done.prefill_mode)));
    json_object_set_new(o, "auxiliary", json_bytes(c->done.aux, strlen(c->done.aux)));
    json_object_set_new(o, "exact_from", ever ? json_integer((json_int_t)c->done.predicted) : json_null());
    return o;
}

/* What is a choice's own: also the whole answer when there is one choice. */
static void put_choice(json_t *o, const choice *c, bool logprobs, const tokenizer *names)
{
    json_object_set_new(o, "text", json_bytes(c->text.ptr, c->text.len));
    json_object_set_new(o, "tokens", token_ids(c));
    json_object_set_new(o, "completion_tokens", json_integer((json_int_t)c->n_tokens));
    json_object_set_new(o, "finish_reason", json_string(finish_name(c->done.finish)));
    if (c->done.aux[0]) json_object_set_new(o, "prediction", prediction(c));
    json_object_set_new(o, "slides", json_integer((json_int_t)c->done.slides));
    if (logprobs) json_object_set_new(o, "logprobs", logprob_list(c, names));
}

static double rate(uint64_t n, uint64_t us) { return us ? (double)n * 1e6 / (double)us : 0; }

static json_t *timings(const msg_done *d)
{
    json_t *o = json_object();
    json_object_set_new(o, "queue_ms", json_real((double)d->queue_us / 1e3));
    json_object_set_new(o, "ttft_ms", json_real((double)d->ttft_us / 1e3));
    json_object_set_new(o, "prefill_ms", json_real((double)d->prefill_us / 1e3));
    json_object_set_new(o, "decode_ms", json_real((double)d->decode_us / 1e3));
    json_object_set_new(o, "prefill_tok_s", json_real(rate(d->prompt_tokens, d->prefill_us)));
    json_object_set_new(o, "decode_tok_s", json_real(rate(d->tokens ? d->tokens - 1 : 0, d->decode_us)));
    json_object_set_new(o, "prefill_mode", json_string(describe_way(d->prefill_mode)));
    if (d->why[0]) json_object_set_new(o, "prefill_why", json_bytes(d->why, strlen(d->why)));
    return o;
}

static json_t *adapter(const msg_done *d)
{
    if (!d->lora[0]) return json_null();
    json_t *o = json_object();
    json_object_set_new(o, "file", json_bytes(d->lora, strlen(d->lora)));
    json_object_set_new(o, "digest", json_string(d->lora_digest));
    json_object_set_new(o, "scale", json_finite(d->lora_scale));
    return o;
}

/* What was left out, and the share of the weights that generated rows did not read for it. */
static json_t *skipped(const answer *a, const msg_done *d)
{
    if (!d->skip[0]) return json_null();
    json_t *o = json_object();
    json_object_set_new(o, "rule", json_bytes(d->skip, strlen(d->skip)));
    json_object_set_new(o, "mask", json_bytes(a->mask.ptr, a->mask.len));
    json_object_set_new(o, "share", json_finite(d->skipped));
    if (d->back_off) json_object_set_new(o, "back_off", json_integer((json_int_t)d->back_off));
    return o;
}

json_t *answer_json(const answer *a, bool logprobs, const tokenizer *names)
{
    static const choice none;
    const choice *first = a->n_choices ? &a->choice[0] : &none;
    json_t *o = json_object(), *list = a->n_choices > 1 ? json_array() : NULL;
    put_choice(o, first, logprobs, names);
    json_object_set_new(o, "prompt_tokens", json_integer((json_int_t)first->done.prompt_tokens));
    if (a->from) json_object_set_new(o, "from", json_integer((json_int_t)a->from));
    json_object_set_new(o, "cached_tokens", json_integer((json_int_t)first->done.cached));
    json_object_set_new(o, "timings", timings(&first->done));
    json_object_set_new(o, "adapter", adapter(&first->done));
    json_object_set_new(o, "skip", skipped(a, &first->done));
    json_object_set_new(o, "passages", a->passages ? json_incref(a->passages) : json_array());
    for (uint32_t i = 0; list && i < a->n_choices; i++) {
        json_t *c = json_object();
        json_object_set_new(c, "index", json_integer(i));
        put_choice(c, &a->choice[i], logprobs, names);
        json_array_append_new(list, c);
    }
    if (list) json_object_set_new(o, "choices", list);
    return o;
}
