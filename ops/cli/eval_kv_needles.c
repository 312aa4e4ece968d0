#include "ops/cli/eval_kv.h"
#include "ops/cli/needle.h"
#include "ops/cli/qa.h"
#include "ops/cli/signals.h"
#include <stdlib.h>
#include <string.h>

/* Needles under every policy. One exact pass over a prompt serves all: at the end of the context each policy is forked off and gets the
 * question behind what it kept; the exact pass goes on over the question, and each policy is forked off again. All lanes then answer
 * greedily, a step at a time. */

enum { ANSWER_TOKENS = 24 };   /* as sluice eval qa */

typedef struct {
    kv_seq *q;
    uint32_t trial, asked, made;
    uint32_t token;            /* the newest of the answer */
    bool over;
    text answer;
} lane;

typedef struct {
    kv_eval *v;
    needle item;
    token_list ids;
    uint32_t context;          /* of them, tokens of the context */
    uint16_t *segment;         /* [ids] 1: rows of the fact */
    lane *lane;                /* [2 n] */
    uint32_t lanes;
    uint32_t asked_inside;     /* the exact cache's first token behind the question */
} quiz;

static void take_last(void *me, uint32_t i, const float *logits, const row_stats *s)
{
    quiz *z = me;
    candidate c;
    (void)i;
    (void)s;
    forward_top(logits, z->v->lab.V, &c, 1);
    z->asked_inside = c.id;
}

/* ---- the prompt ---------------------------------------------------------------------------------------------------- */

static size_t common(const token_list *a, const token_list *b)
{
    size_t n = 0;
    while (n < a->n && n < b->n && a->id[n] == b->id[n]) n++;
    return n;
}

static err_code encode(quiz *z, const char *s, size_t len, token_list *out, err *e)
{
    out->n = 0;
    return tokenizer_encode(z->v->lab.words, (view){ s, len }, true, false, out, e);
}

/* Tokens of the whole prompt, and where context and fact end in them: the longest beginning that both have. */
static err_code read_item(quiz *z, uint32_t i, err *e)
{
    token_list part = { 0 };
    text whole = { 0 };
    size_t from = 0, to = 0;
    err_code rc = needle_make(&z->item, z->v->seed, i, e);
    const text *c = &z->item.context;
    if (rc == ERR_OK && !(text_add(&whole, c->ptr, c->len) && text_add(&whole, z->item.question.ptr, z->item.question.len)))
        rc = err_set(e, ERR_NOMEM, "out of memory for a needle");
    if (rc == ERR_OK) rc = encode(z, whole.ptr, whole.len, &z->ids, e);
    if (rc == ERR_OK) rc = encode(z, c->ptr, c->len, &part, e);
    z->context = (uint32_t)common(&z->ids, &part);
    if (rc == ERR_OK) rc = encode(z, c->ptr, z->item.at, &part, e);
    from = common(&z->ids, &part);
    if (rc == ERR_OK) rc = encode(z, c->ptr, z->item.at + z->item.len, &part, e);
    to = common(&z->ids, &part);
    uint16_t *more = rc == ERR_OK ? realloc(z->segment, (z->ids.n + 1) * sizeof *more) : NULL;
    if (rc == ERR_OK && !more) rc = err_set(e, ERR_NOMEM, "out of memory for a needle");
    if (more) z->segment = more;
    for (size_t k = 0; more && k < z->ids.n; k++) more[k] = k >= from && k < to ? KV_SEGMENT_SYSTEM : KV_SEGMENT_USER;
    if (rc == ERR_OK && z->ids.n + ANSWER_TOKENS > z->v->lab.n_ctx)
        rc = err_set(e, ERR_INPUT, "a needle has %zu tokens, the context %u", z->ids.n, z->v->lab.n_ctx);
    token_list_free(&part);
    text_free(&whole);
    return rc;
}

/* ---- lanes ---------------------------------------------------------------------------------------------------------- */

static err_code lane_add(quiz *z, kv_seq *from, uint32_t trial, uint32_t asked, err *e)
{
    lane *l = &z->lane[z->lanes++];
    *l = (lane){ .trial = trial, .asked = asked, .answer = l->answer };
    text_clear(&l->answer);
    return kvlab_fork(&z->v->lab, from, &z->v->policy[trial], &l->q, e);
}

/* The question behind what lanes from `first` on kept. */
static err_code lanes_ask(quiz *z, uint32_t first, err *e)
{
    kv_seq *q[KVLAB_ROWS] = { NULL };
    uint32_t next[KVLAB_ROWS] = { 0 }, n = z->lanes - first;
    for (uint32_t i = 0; i < n; i++) q[i] = z->lane[first + i].q;
    err_code rc = kvlab_feed_each(&z->v->lab, q, n, z->ids.id + z->context, (uint32_t)z->ids.n - z->context, next, e);
    for (uint32_t i = 0; rc == ERR_OK && i < n; i++) z->lane[first + i].token = next[i];
    return rc;
}

/* Lanes of all policies of one kind, exact ones first: the oracle's rows carry a segment that is never evicted. */
static err_code lanes_of(quiz *z, bool oracle, err *e)
{
    kv_eval *v = z->v;
    kv_seq *p = NULL;
    uint32_t n = 0, first = z->lanes, rest = (uint32_t)z->ids.n - z->context;
    for (size_t i = 0; i < v->n; i++) n += v->trial[i].oracle == oracle;
    if (!n) return ERR_OK;
    const uint16_t *segment = oracle ? z->segment : NULL;
    err_code rc = kvlab_watch(&v->lab, v->policy, v->n, z->context, &p, e);
    if (rc == ERR_OK) rc = kvlab_feed(&v->lab, p, z->ids.id, z->context, segment, NULL, e);
    for (uint32_t i = 0; rc == ERR_OK && i < v->n; i++)
        if (v->trial[i].oracle == oracle && i) rc = lane_add(z, p, i, KV_AFTER, e);
    if (rc == ERR_OK) rc = lanes_ask(z, first, e);
    if (rc == ERR_OK) rc = kv_seq_prompt(p, (uint32_t)z->ids.n, e);
    if (rc == ERR_OK) rc = kvlab_feed(&v->lab, p, z->ids.id + z->context, rest, NULL, &(kvlab_sink){ take_last, z, rest - 1 }, e);
    first = z->lanes;
    for (uint32_t i = 0; rc == ERR_OK && i < v->n; i++)
        if (v->trial[i].oracle == oracle) rc = lane_add(z, p, i, KV_INSIDE, e);
    for (uint32_t i = first; i < z->lanes; i++) z->lane[i].token = z->asked_inside;
    kvlab_drop(&v->lab, &p);
    return rc;
}

static void lanes_drop(quiz *z)
{
    for (uint32_t i = 0; i < z->lanes; i++) kvlab_drop(&z->v->lab, &z->lane[i].q);
    z->lanes = 0;
}

/* ---- answers -------------------------------------------------------------------------------------------------------- */

static err_code lane_take(quiz *z, lane *l, err *e)
{
    const tokenizer *t = z->v->lab.words;
    if (tokenizer_is_eog(t, l->token)) return l->over = true, ERR_OK;
    err_code rc = tokenizer_piece(t, l->token, false, &l->answer, e);
    l->over = ++l->made == ANSWER_TOKENS || (l->answer.len && strchr(l->answer.ptr, '\n'));
    return rc;
}

/* One token more in every lane that goes on. */
static err_code step(quiz *z, bool *more, err *e)
{
    kv_seq *q[KVLAB_ROWS];
    uint32_t ids[KVLAB_ROWS], which[KVLAB_ROWS], n = 0;
    err_code rc = ERR_OK;
    for (uint32_t i = 0; i < z->lanes; i++)
        if (!z->lane[i].over) q[n] = z->lane[i].q, ids[n] = z->lane[i].token, which[n++] = i;
    *more = n > 0;
    if (n) rc = kvlab_step(&z->v->lab, q, ids, n, e);
    for (uint32_t i = 0; rc == ERR_OK && i < n; i++) {
        z->lane[which[i]].token = ids[i];
        rc = lane_take(z, &z->lane[which[i]], e);
    }
    return rc;
}

static void mark(quiz *z, uint32_t item)
{
    view want = { z->item.answer, strlen(z->item.answer) };
    for (uint32_t i = 0; i < z->lanes; i++) {
        const lane *l = &z->lane[i];
        view got = qa_answer((view){ l->answer.ptr ? l->answer.ptr : "", l->answer.len });
        z->v->trial[l->trial].right[l->asked][item] = qa_same(got, want);
    }
    /* With every row kept it does not matter when the question came: the numerics contract. */
    z->v->trial[0].right[KV_AFTER][item] = z->v->trial[0].right[KV_INSIDE][item];
}

static err_code run_item(quiz *z, uint32_t item, err *e)
{
    bool more = true;
    err_code rc = read_item(z, item, e);
    if (rc == ERR_OK) rc = lanes_of(z, false, e);
    if (rc == ERR_OK) rc = lanes_of(z, true, e);
    for (uint32_t i = 0; rc == ERR_OK && i < z->lanes; i++) rc = lane_take(z, &z->lane[i], e);
    while (rc == ERR_OK && more) rc = step(z, &more, e);
    if (rc == ERR_OK) mark(z, item);
    lanes_drop(z);
    eval_kv_step(z->v);
    return rc;
}

err_code eval_kv_needles(kv_eval *v, err *e)
{
    quiz z = { .v = v, .lane = calloc(KV_ASKED * v->n + 1, sizeof *z.lane) };
    err_code rc = z.lane ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for needles");
    for (uint32_t i = 0; rc == ERR_OK && i < v->needles; i++) {
        if (signals_caught()) v->needles = i;      /* what there is counts */
        else rc = run_item(&z, i, e);
    }
    for (size_t i = 0; z.lane && i < KV_ASKED * v->n; i++) text_free(&z.lane[i].answer);
    free(z.lane);
    free(z.segment);
    token_list_free(&z.ids);
    needle_free(&z.item);
    return rc;
}
