#include "ops/cli/answer.h"
#include <stdlib.h>
#include <string.h>

/* Owns what is known of a running job. JSON is made in answer_json.c. */

void answer_free(answer *a)
{
    for (uint32_t i = 0; i < a->n_choices; i++) {
        text_free(&a->choice[i].text);
        free(a->choice[i].token);
        free(a->choice[i].top);
    }
    free(a->choice);
    free(a->score);
    json_decref(a->passages);
    text_free(&a->mask);
    *a = (answer){ 0 };
}

static err_code no_memory(err *e) { return err_set(e, ERR_NOMEM, "out of memory"); }

/* Append n records of `size` bytes; records in a frame may be unaligned. */
static err_code append(void *list, size_t *count, const view *frame, size_t n, size_t size, err *e)
{
    void **at = list, *more;
    if (!n) return ERR_OK;
    if (frame->len != n * size) return err_set(e, ERR_PROTO, "a table has %zu bytes instead of %zu", frame->len, n * size);
    if (!(more = realloc(*at, (*count + n) * size))) return no_memory(e);
    *at = more;
    memcpy((char *)more + *count * size, frame->ptr, n * size);
    *count += n;
    return ERR_OK;
}

static choice *choice_at(answer *a, uint64_t index, err *e)
{
    if (index < a->n_choices) return &a->choice[index];
    choice *more = realloc(a->choice, (index + 1) * sizeof *more);
    if (!more) return no_memory(e), NULL;
    memset(more + a->n_choices, 0, (index + 1 - a->n_choices) * sizeof *more);
    a->choice = more;
    a->n_choices = (uint32_t)index + 1;
    return &more[index];
}

static err_code take_token(answer *a, const packet *p, bool *fresh, err *e)
{
    const msg_token *m = &p->head.token;
    choice *c = choice_at(a, m->index, e);
    if (!c) return ERR_NOMEM;
    uint64_t have = a->from + c->n_tokens;
    if (!m->n && !p->frame[TOKEN_TEXT].len) return ERR_OK; /* a probe: is anybody there? */
    *fresh = m->offset == have;
    if (m->offset + m->n <= have && m->n) return *fresh = false, ERR_OK; /* heard before */
    if (!*fresh)
        return err_set(e, ERR_PROTO, "tokens %llu to %llu of choice %llu are missing", (unsigned long long)have, (unsigned long long)m->offset,
                       (unsigned long long)m->index);
    err_code rc = append(&c->token, &c->n_tokens, &p->frame[TOKEN_TOKENS], m->n, sizeof *c->token, e);
    if (rc == ERR_OK) rc = append(&c->top, &c->n_top, &p->frame[TOKEN_TOP], m->n_top, sizeof *c->top, e);
    if (rc != ERR_OK) return rc;
    return text_add(&c->text, p->frame[TOKEN_TEXT].ptr, p->frame[TOKEN_TEXT].len) ? ERR_OK : no_memory(e);
}

static err_code take_scored(answer *a, const packet *p, bool *fresh, err *e)
{
    const msg_scored *m = &p->head.scored;
    if (m->first != a->n_scores)
        return err_set(e, ERR_PROTO, "scored rows %zu to %llu are missing", a->n_scores, (unsigned long long)m->first);
    if (m->n_full && a->n_full && m->vocab != a->vocab) return err_set(e, ERR_PROTO, "rows of logits change their length");
    a->vocab = m->vocab;
    a->n_full += m->n_full;
    *fresh = true;
    return append(&a->score, &a->n_scores, &p->frame[SCORED_ROWS], m->n, sizeof *a->score, e);
}

static void take_failure(answer *a, const packet *p)
{
    const msg_done *m = &p->head.done;
    const view *t = &p->frame[DONE_TEXT];
    err_code code = m->code < ERR_COUNT ? (err_code)m->code : ERR_STATE;
    if (m->code && a->fail.code == ERR_OK)
        err_set(&a->fail, code, "%.*s", (int)(t->len < 500 ? t->len : 500), t->len ? (const char *)t->ptr : "");
    if (m->code && !t->len) err_set(&a->fail, code, "%s", err_name(code));
}

static err_code take_done(answer *a, const packet *p, err *e)
{
    const msg_done *m = &p->head.done;
    const view *passages = &p->frame[DONE_PASSAGES];
    choice *c = choice_at(a, m->index, e);
    if (!c) return ERR_NOMEM;
    c->done = *m;
    c->finished = true;
    take_failure(a, p);
    if (passages->len && !a->passages) a->passages = json_loadb(passages->ptr, passages->len, 0, NULL);
    const view *mask = &p->frame[DONE_MASK];
    if (mask->len && !a->mask.len && !text_add(&a->mask, mask->ptr, mask->len)) return no_memory(e);
    a->over = m->last;
    return ERR_OK;
}

err_code answer_take(answer *a, const packet *p, bool *fresh, err *e)
{
    *fresh = false;
    switch (p->head.type) {
    case MSG_TOKEN: return take_token(a, p, fresh, e);
    case MSG_SCORED: return take_scored(a, p, fresh, e);
    case MSG_DONE: return take_done(a, p, e);
    default: return ERR_OK;
    }
}

/* Frames are bytes: what is in them lies as it comes. */
err_code answer_rows(const packet *p, uint32_t V, answer_row *fn, void *me, size_t index, err *e)
{
    const msg_scored *m = &p->head.scored;
    if (p->head.type != MSG_SCORED) return ERR_OK;
    if (m->n_full != m->n || m->vocab != V) return err_set(e, ERR_PROTO, "rows came without their logits");
    float *row = malloc(V * sizeof *row);
    if (!row) return no_memory(e);
    for (uint64_t i = 0; i < m->n; i++) {
        score_rec r;
        memcpy(&r, (const uint8_t *)p->frame[SCORED_ROWS].ptr + i * sizeof r, sizeof r);
        memcpy(row, (const uint8_t *)p->frame[SCORED_FULL].ptr + i * V * sizeof *row, V * sizeof *row);
        fn(me, index, m->first + i, row, &r);
    }
    free(row);
    return ERR_OK;
}
