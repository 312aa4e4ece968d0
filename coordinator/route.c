#include "coordinator/route.h"
#include "coordinator/back_off.h"
#include "coordinator/route_policies.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the job's mask ------------------------------------------------------------------------------------------------ */

/* An event's payload: "RULE | MASK". */
static const char bar[] = " | ";

/* The newest one: a rule that has to see the prompt first says that before it says which. */
static const event *last_word(const session_log *l)
{
    const event *v = NULL;
    for (uint32_t i = 0; i < l->n; i++)
        if (l->at[i].kind == EVENT_MASK) v = &l->at[i];
    return v;
}

void route_said(const job *j, view *rule, view *mask)
{
    const event *v = last_word(&j->log);
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

static err_code say(job *j, uint32_t row, const char *rule, const char *mask, err *e)
{
    text line = { 0 };
    bool ok = text_addf(&line, "%s%s%s", rule, bar, mask) && log_add(&j->log, 0, row, EVENT_MASK, (view){ line.ptr, line.len });
    text_free(&line);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for a mask");
}

static err_code take(job *j, uint32_t row, const char *rule, const layer_mask *m, err *e)
{
    text t = { 0 };
    if (mask_is_none(m) && !row) return ERR_OK;
    err_code rc = mask_print(m, &t) ? keep(j, m, e) : err_set(e, ERR_NOMEM, "out of memory for a mask");
    if (!rc) rc = say(j, row, rule, t.ptr, e);
    text_free(&t);
    return rc;
}

/* What the cluster knows about its layers, for rules. */
typedef struct { route_world w; double cost[MASK_LAYERS], more[512]; uint32_t stage[513]; } knowledge;

static err_code know(const coordinator *c, knowledge *k, err *e)
{
    double head = 0;
    k->w = (route_world){ .L = c->shape.L, .known = c->router, .cost = k->cost, .stage = k->stage, .stage_more = k->more, .n_stages = c->n_stages };
    k->w.low_order = stand_ins_order(c->stand);
    for (int i = 0; i < MASK_STANDS; i++) k->w.stand_id[i] = stand_ins_id(c->stand, (mask_stand)i);
    err_code rc = plan_costs(c->file, &c->shape, k->cost, &head, e);
    for (uint32_t i = 0; i < c->n_stages; i++) {
        k->stage[i] = c->by_stage[i] ? c->by_stage[i]->part.first : 0;
        k->more[i] = c->by_stage[i] && c->by_stage[i]->part.head ? head : 0;
    }
    k->stage[c->n_stages] = c->shape.L;
    return rc;
}

static const char *rule_of(const coordinator *c, const job *j) { return j->ask.skip[0] ? j->ask.skip : c->skip; }
static const char due[] = "due";

static void watch_over(job *j, const skip_rule *r)
{
    j->back = r->back;
    j->alarm = r->alarm;
    j->by_entropy = r->kind == SKIP_EXIT;
}

static err_code follow(coordinator *c, job *j, view rule, view mask, err *e)
{
    layer_mask m;
    skip_rule r;
    char text_of_rule[SKIP_TEXT + 1];
    snprintf(text_of_rule, sizeof text_of_rule, "%.*s", (int)rule.len, (const char *)rule.ptr);
    if (skip_rule_parse(&r, text_of_rule, e)) return e->code;
    watch_over(j, &r);
    j->route_due = mask.len == 3 && !memcmp(mask.ptr, due, 3);
    if (j->route_due) return ERR_OK;
    err_code rc = mask_parse(&m, c->shape.L, mask.ptr, mask.len, e);
    return rc ? rc : keep(j, &m, e);
}

err_code route_fix(coordinator *c, job *j, bool has_log, err *e)
{
    layer_mask m;
    skip_rule r;
    knowledge k;
    view rule, mask;
    const char *asked = rule_of(c, j);
    route_said(j, &rule, &mask);
    if (mask.len) return follow(c, j, rule, mask, e);
    if (has_log || !asked[0]) return ERR_OK;
    err_code rc = skip_rule_parse(&r, asked, e);
    if (!rc) watch_over(j, &r);
    if (!rc) rc = know(c, &k, e);
    k.w.answer = j->ask.kind ? 0 : (uint32_t)j->ask.max_tokens;
    if (!rc) rc = route_choose(&m, &r, &k.w, e); /* of one that has to see the prompt: can it be followed here at all? */
    if (rc || (r.kind != SKIP_FIRST && r.kind != SKIP_EXIT)) return rc ? rc : take(j, 0, asked, &m, e);
    if (j->ask.kind == 1 && j->ask.role == 1) return err_set(e, ERR_INPUT, "--skip %s: these rows have no prompt to look at", asked);
    j->route_due = true;
    return say(j, 0, asked, due, e);
}

/* ---- by the prompt ------------------------------------------------------------------------------------------------- */

err_code route_open(coordinator *c, err *e)
{
    bool any = c->profile && profile_has(c->profile, PROFILE_ROUTE);
    err_code rc = any ? router_open(&c->router, c->profile, c->shape.L, c->shape.D, e) : ERR_OK;
    return rc || !c->profile ? rc : stand_ins_open(&c->stand, c->profile, &c->shape, 0, c->shape.L, e);
}

void route_close(coordinator *c)
{
    router_close(&c->router);
    stand_ins_close(&c->stand);
}

/* The prompt's last row goes through the pipeline whoever computes the others, so it is left out. */
uint32_t route_pool_rows(const session *s)
{
    if (!s->job->route_due || s->job->by_entropy || s->index) return 0;
    return s->n_prompt > 1 ? s->n_prompt - 1 : 1;
}

bool route_waits(const session *s) { return s->job->route_due && s->state != SESSION_OVER && s->cursor >= s->n_prompt && !s->refs; }

struct pooled { uint32_t have; uint8_t here[MASK_LAYERS]; float sum[]; };   /* sum [L][D] */

static err_code tell_session(session *s, err *e)
{
    if (!s->job->mask) return ERR_OK;
    if (!s->mask && !(s->mask = malloc(sizeof *s->mask))) return err_set(e, ERR_NOMEM, "out of memory for a session's mask");
    mask_bind(s->mask, s->job->mask, session_prompt_rows(s), 0);
    s->tell = true;
    return ERR_OK;
}

/* What was due has come: damage by layer, or the entropy. */
static err_code decide(coordinator *c, session *s, const double *damage, const double *entropy, err *e)
{
    double rho[MASK_LAYERS];
    layer_mask m;
    skip_rule r;
    knowledge k;
    view rule, mask;
    char text_of_rule[SKIP_TEXT + 1];
    job *j = s->job;
    route_said(j, &rule, &mask);
    snprintf(text_of_rule, sizeof text_of_rule, "%.*s", (int)rule.len, (const char *)rule.ptr);
    err_code rc = c->router ? skip_rule_parse(&r, text_of_rule, e) : err_set(e, ERR_STATE, "--skip %s: this cluster has no profile with routers", text_of_rule);
    if (!rc) rc = know(c, &k, e);
    if (rc) return rc;
    k.w.damage = damage;
    k.w.entropy = entropy;
    if (c->router->rho_w && s->pooled) router_rho(c->router, s->pooled->sum, rho), k.w.rho = rho;
    rc = route_choose(&m, &r, &k.w, e);
    if (!rc) rc = take(j, s->n_prompt, text_of_rule, &m, e);
    j->route_due = false;
    for (session *x = c->sessions.head; !rc && x; x = x->next) {
        if (x->job != j) continue;
        x->t_asked = 0;
        rc = tell_session(x, e);
    }
    return rc;
}

static err_code decide_by_prompt(coordinator *c, session *s, err *e)
{
    double damage[MASK_LAYERS];
    size_t n = (size_t)c->shape.L * c->shape.D;
    if (!c->router) return decide(c, s, NULL, NULL, e);
    for (size_t i = 0; i < n; i++) s->pooled->sum[i] /= (float)route_pool_rows(s);
    router_look(c->router, s->pooled->sum, damage);
    return decide(c, s, damage, NULL, e);
}

void route_entropy(coordinator *c, session *s, float entropy)
{
    err e;
    double x = (double)entropy;
    if (s->job->route_due && s->job->by_entropy && decide(c, s, NULL, &x, &e)) job_fail(c, s->job, &e);
}

static bool fits(const coordinator *c, const msg_pooled *m)
{
    return m->dim == c->shape.D && m->layers <= c->shape.L && m->first <= c->shape.L - m->layers;
}

void route_pooled(coordinator *c)
{
    const msg_pooled *m = &c->in.head.pooled;
    session *s = session_find(&c->sessions, m->session);
    err e;
    size_t row = (size_t)c->shape.D * sizeof(float);
    if (m->epoch != c->epoch || !s || s->state == SESSION_OVER || !s->job->route_due || !fits(c, m)) return;
    if (!s->pooled && !(s->pooled = calloc(1, sizeof *s->pooled + c->shape.L * row))) {
        job_fail(c, s->job, &(err){ ERR_NOMEM, "out of memory for the layer inputs of a prompt" });
        return;
    }
    for (uint32_t l = (uint32_t)m->first; l < m->first + m->layers; l++) {
        memcpy(s->pooled->sum + (size_t)l * c->shape.D, (const uint8_t *)c->in.frame[0].ptr + (l - m->first) * row, row);
        s->pooled->have += !s->pooled->here[l];
        s->pooled->here[l] = 1;
    }
    if (s->pooled->have < c->shape.L) return;
    if (decide_by_prompt(c, s, &e)) job_fail(c, s->job, &e);
    free(s->pooled);
    s->pooled = NULL;
}

/* ---- sessions and steps -------------------------------------------------------------------------------------------- */

uint32_t route_records(const session *s, mask_rec *recs)
{
    for (uint32_t l = 0; s->mask && l < s->mask->n; l++) recs[l] = (mask_rec){ s->mask->at[l].attn, s->mask->at[l].ffn };
    return s->mask ? s->mask->n : 0;
}

void route_say_more(const session *s, msg_session_open *m)
{
    const mask_calm *c = s->mask ? &s->mask->calm : NULL;
    if (c) m->stand = s->mask->stand, m->stand_id = s->mask->stand_id;
    if (!c || !c->last) return;
    m->calm_first = c->first;
    m->calm_last = c->last;
    m->calm_count = c->count;
    m->calm_theta = (double)c->theta;
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
    for (uint32_t l = first; l < last; l++) n += j->back || !j->mask || j->mask->at[l].attn > 0;
    return n;
}

double route_share(const coordinator *c, const job *j, uint32_t index)
{
    const model_shape *s = &c->shape;
    layer_mask m;
    view rule, mask;
    err quiet;
    uint32_t n = (uint32_t)(j->tokens.n ? j->tokens.n : j->n_prompt), rows = (uint32_t)j->choice[index].n_tok;
    if (j->ask.kind && j->ask.prompt_rows && j->ask.prompt_rows < n) rows = n - (uint32_t)j->ask.prompt_rows, n -= rows;
    route_said(j, &rule, &mask);
    if (!mask.len || !rows || mask_parse(&m, s->L, mask.ptr, mask.len, &quiet)) return 0;
    mask_bind(&m, &m, n, 0);
    double attn = 2.0 * (s->H + s->K) * s->d, ffn = 3.0 * s->F; /* x D */
    uint32_t masked = back_off_at(j, index) ? back_off_at(j, index) : rows;
    double read = m.stand == MASK_LOW_RANK ? 2.0 * stand_ins_rank(c->stand) : 0; /* of an FFN's stand-in */
    return (mask_share(&m, n, n + masked, attn, ffn) - mask_share(&m, n, n + masked, 0, 1) * read / (attn + ffn)) * masked / rows
           + (double)j->choice[index].calm * (ffn - read) / (s->L * (attn + ffn) * rows);
}

bool route_stands_in_prompt(const job *j)
{
    bool any = false;
    for (uint32_t l = 0; j->mask && j->mask->stand && l < j->mask->n; l++) any = any || !j->mask->at[l].attn || !j->mask->at[l].ffn;
    return any;
}

bool route_prompt_text(const job *j, text *out)
{
    layer_mask m;
    text_clear(out);
    if (!j->mask) return true;
    m = *j->mask;
    m.calm = (mask_calm){ 0 };
    for (uint32_t l = 0; l < m.n; l++) {
        if (m.at[l].attn & MASK_AFTER) m.at[l].attn = MASK_NEVER;
        if (m.at[l].ffn & MASK_AFTER) m.at[l].ffn = MASK_NEVER;
    }
    return mask_is_none(&m) || mask_print(&m, out);
}
