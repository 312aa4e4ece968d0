#include "coordinator/route.h"
#include "coordinator/route_policies.h"
#include <stdlib.h>
#include <string.h>

/* ---- the job's mask ------------------------------------------------------------------------------------------------ */

/* An event's payload: "RULE | MASK". */
static const char bar[] = " | ";

void route_said(const job *j, view *rule, view *mask)
{
    const event *v = log_find(&j->log, EVENT_MASK);
    const char *at = v && v->payload.ptr ? strstr(v->payload.ptr, bar) : NULL;
    *rule = at ? (view){ v->payload.ptr, (size_t)(at - v->payload.ptr) } : (view){ "", 0 };
    *mask = at ? (view){ at + 3, v->payload.len - rule->len - 3 } : (view){ "", 0 };
}

static err_code keep(job *j, const layer_mask *m, err *e)
{
    if (mask_is_none(m)) return ERR_OK;
    if (!j->mask) j->mask = malloc(sizeof *j->mask);
    if (!j->mask) return err_set(e, ERR_NOMEM, "out of memory for a mask");
    *j->mask = *m;
    return ERR_OK;
}

static bool say(job *j, const char *rule, const layer_mask *m)
{
    text line = { 0 }, mask = { 0 };
    bool ok = mask_print(m, &mask) && text_addf(&line, "%s%s%s", rule, bar, mask.ptr) && log_add(&j->log, 0, 0, EVENT_MASK, (view){ line.ptr, line.len });
    text_free(&line);
    text_free(&mask);
    return ok;
}

err_code route_fix(coordinator *c, job *j, bool has_log, err *e)
{
    layer_mask m;
    skip_rule r;
    view rule, mask;
    const char *asked = j->ask.skip[0] ? j->ask.skip : c->skip;
    route_said(j, &rule, &mask);
    if (mask.len) {
        err_code rc = mask_parse(&m, c->shape.L, mask.ptr, mask.len, e);
        return rc ? rc : keep(j, &m, e);
    }
    if (has_log || !asked[0]) return ERR_OK;
    route_world w = { .L = c->shape.L, .answer = j->ask.kind ? 0 : (uint32_t)j->ask.max_tokens };
    err_code rc = skip_rule_parse(&r, asked, e);
    if (!rc) rc = route_choose(&m, &r, &w, e);
    if (rc || mask_is_none(&m)) return rc;
    rc = keep(j, &m, e);
    return rc || say(j, asked, &m) ? rc : err_set(e, ERR_NOMEM, "out of memory for a mask");
}

/* ---- sessions and steps -------------------------------------------------------------------------------------------- */

uint32_t route_records(const session *s, mask_rec *recs)
{
    for (uint32_t l = 0; s->mask && l < s->mask->n; l++) recs[l] = (mask_rec){ s->mask->at[l].attn, s->mask->at[l].ffn };
    return s->mask ? s->mask->n : 0;
}

uint32_t route_tell(const session *s, step_op *ops)
{
    uint32_t n = 0;
    for (uint32_t l = 0; s->mask && l < s->mask->n; l++) {
        const mask_layer *told = &s->job->mask->at[l], *now = &s->mask->at[l];
        if (told->attn != now->attn) ops[n++] = (step_op){ .session = s->id, .other = 2 * l, .row = now->attn, .kind = OP_SKIP };
        if (told->ffn != now->ffn) ops[n++] = (step_op){ .session = s->id, .other = 2 * l + 1, .row = now->ffn, .kind = OP_SKIP };
    }
    return n;
}

/* A session needs a stage for every row in front of the first one that does nothing there, and once more: its last row there is to be
 * committed, and then gives its room back. */
static bool needs(const session *s, const plan_part *p, uint32_t first)
{
    uint32_t idle = s->mask ? mask_idle(s->mask, p->first, p->last) : MASK_NEVER;
    return idle && first <= idle;
}

bool route_visits(const coordinator *c, const flight *f, uint32_t i)
{
    const plan_part *p = &c->by_stage[i]->part;
    if (f->everywhere || p->embed || p->head) return true;
    for (uint32_t k = 0; k < f->n_parts; k++)
        if (needs(f->part[k].s, p, f->part[k].first)) return true;
    return false;
}

/* ---- what it saves ------------------------------------------------------------------------------------------------- */

uint32_t route_layers(const job *j, uint32_t first, uint32_t last)
{
    uint32_t n = 0;
    for (uint32_t l = first; l < last; l++) n += !j->mask || j->mask->at[l].attn > 0;
    return n;
}

double route_share(const coordinator *c, const job *j, uint32_t index)
{
    const model_shape *s = &c->shape;
    layer_mask m;
    view rule, mask;
    err quiet;
    uint32_t n = (uint32_t)(j->tokens.n ? j->tokens.n : j->n_prompt);
    route_said(j, &rule, &mask);
    if (!mask.len || !j->choice[index].n_tok || mask_parse(&m, s->L, mask.ptr, mask.len, &quiet)) return 0;
    mask_bind(&m, &m, n, 0);
    return mask_share(&m, n, n + (uint32_t)j->choice[index].n_tok, 2.0 * (s->H + s->K) * s->d, 3.0 * s->F); /* x D */
}

bool route_prompt_text(const job *j, text *out)
{
    layer_mask m;
    text_clear(out);
    if (!j->mask) return true;
    m = *j->mask;
    for (uint32_t l = 0; l < m.n; l++) {
        if (m.at[l].attn & MASK_AFTER) m.at[l].attn = MASK_NEVER;
        if (m.at[l].ffn & MASK_AFTER) m.at[l].ffn = MASK_NEVER;
    }
    return mask_is_none(&m) || mask_print(&m, out);
}
