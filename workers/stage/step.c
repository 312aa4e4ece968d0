#include "workers/stage/step.h"
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

/* ---- in: header, rows ------------------------------------------------------------------------------------------- */

static hop_rec hop_at(const view *hops, uint64_t i)
{
    hop_rec h;
    memcpy(&h, (const uint8_t *)hops->ptr + i * sizeof h, sizeof h);
    return h;
}

bool step_hop(const shard_state *s, const message *m, const view *frame, hop_rec *mine)
{
    if (m->step.hop >= m->step.n_hops) return false;
    *mine = hop_at(&frame[STEP_HOPS], m->step.hop);
    return mine->stage == s->plan.stage;
}

static err_code check_step(const shard_state *s, const msg_step *m, const view *frame, err *e)
{
    const model_shape *sh = &s->model->shape;
    if (m->epoch != s->plan.epoch)
        return err_set(e, ERR_STATE, "step %" PRIu64 " of epoch %" PRIu64 ", plan is %" PRIu64, m->step, m->epoch, s->plan.epoch);
    if (m->hop >= m->n_hops || hop_at(&frame[STEP_HOPS], m->hop).stage != s->plan.stage)
        return err_set(e, ERR_STATE, "step %" PRIu64 ": hop %" PRIu64 " is not stage %" PRIu64, m->step, m->hop, s->plan.stage);
    if (m->n_rows > s->plan.max_rows)
        return err_set(e, ERR_PROTO, "step %" PRIu64 " has %" PRIu64 " rows, the plan allows %" PRIu64, m->step, m->n_rows, s->plan.max_rows);
    if (m->n_hidden && (m->dim != sh->D || m->hop == 0))
        return err_set(e, ERR_PROTO, "step %" PRIu64 ": hidden state of width %" PRIu64 " at hop %" PRIu64 ", model has %u", m->step, m->dim, m->hop, sh->D);
    return ERR_OK;
}

static err_code check_rows(const shard_state *s, const msg_step *m, err *e)
{
    const model_shape *sh = &s->model->shape;
    uint64_t alive = 0;
    for (uint32_t i = 0; i < m->n_rows; i++) {
        const step_row *r = &s->rows[i];
        alive += r->status == 0;
        if (r->token >= sh->V || (r->target != MSG_NO_ROW && r->target >= sh->V))
            return err_set(e, ERR_PROTO, "step %" PRIu64 " row %u: token %u, target %u, vocabulary %u", m->step, i, r->token, r->target, sh->V);
        if (r->path >= PATH_COUNT) return err_set(e, ERR_PROTO, "step %" PRIu64 " row %u: path %u", m->step, i, r->path);
    }
    if (alive && !m->n_hidden && (m->hop || !s->plan.embed))
        return err_set(e, ERR_PROTO, "step %" PRIu64 " has no hidden state for stage %" PRIu64, m->step, s->plan.stage);
    if (m->n_hidden && m->n_hidden != alive)
        return err_set(e, ERR_PROTO, "step %" PRIu64 ": %" PRIu64 " hidden rows for %" PRIu64 " live ones", m->step, m->n_hidden, alive);
    return ERR_OK;
}

/* ---- session operations and room for rows ------------------------------------------------------------------------ */

static void fail_session(shard_state *s, uint64_t n_rows, step_out *out, uint64_t session, const err *why)
{
    for (uint64_t i = 0; i < n_rows; i++)
        if (s->rows[i].session == session && !s->rows[i].status) s->rows[i].status = (uint8_t)why->code;
    if (!out->failed_session) out->failed_session = session, out->failure = *why;
}

static void attention_of(const layer_mask *m, uint32_t from[static MASK_LAYERS])
{
    for (uint32_t l = 0; l < m->n; l++) from[l] = m->at[l].attn;
}

/* One half of one layer is left out from another row on. */
static err_code do_skip(shard_state *s, const step_op *op, err *e)
{
    mask_use *u = masks_find(&s->masks, op->session);
    kv_seq *q = s->store ? kv_seq_find(s->store, op->session) : NULL;
    layer_mask m = u ? *u->mask : mask_none(s->model->shape.L), was = m;
    uint32_t from[MASK_LAYERS];
    if (op->other / 2 >= m.n) return err_set(e, ERR_PROTO, "layer %" PRIu64 " is to be left out, the model has %u", op->other / 2, m.n);
    *(op->other % 2 ? &m.at[op->other / 2].ffn : &m.at[op->other / 2].attn) = op->row;
    attention_of(&m, from);
    err_code rc = masks_change(&s->masks, op->session, &m, e);
    if (!rc && q) rc = kv_skip(q, from, e);
    if (!rc || !(u = masks_find(&s->masks, op->session))) return rc;
    *u->mask = was; /* both follow it, or neither */
    u->idle = mask_idle(&was, s->masks.first, s->masks.last);
    return rc;
}

/* What is beside the KV: forks inherit, and a session that begins anew has computed nothing. */
static err_code do_op_beside(shard_state *s, const step_op *op, err *e)
{
    mask_use *u = op->kind == OP_TRUNCATE ? masks_find(&s->masks, op->session) : NULL;
    if (u && op->row < u->rows) u->rows = op->row;
    if (op->kind == OP_SKIP) return do_skip(s, op, e);
    if (op->kind != OP_FORK) return ERR_OK;
    err_code rc = adapters_fork(&s->adapters, op->session, op->other, e);
    return rc ? rc : masks_fork(&s->masks, op->session, op->other, e);
}

/* A row that ran nothing here has left nothing to commit. */
static bool is_idle(const shard_state *s, uint64_t session, uint32_t row)
{
    const mask_use *u = masks_find(&s->masks, session);
    return u && row >= u->idle;
}

static err_code do_op(shard_state *s, const step_op *op, err *e)
{
    err_code rc = do_op_beside(s, op, e);
    if (rc || !s->store || op->kind == OP_SKIP) return rc;
    if (op->kind == OP_COMMIT && is_idle(s, op->session, op->row)) return ERR_OK;
    kv_seq *q = kv_seq_find(s->store, op->session);
    if (!q) return err_set(e, ERR_ABSENT, "session %" PRIu64 " is not open here", op->session);
    switch (op->kind) {
    case OP_COMMIT: return kv_commit(q, op->row, e);
    case OP_FORK: return kv_fork(q, op->other, e);
    case OP_KEEP: return kv_prefix_keep(q, op->other, op->row), ERR_OK;
    case OP_TRUNCATE:
        rc = kv_truncate(q, op->row, e);
        return rc || op->row ? rc : kv_seq_prompt(q, (uint32_t)op->other, e);
    default: return err_set(e, ERR_PROTO, "operation %u is not known", op->kind);
    }
}

static void do_ops(shard_state *s, const msg_step *m, const view *ops, step_out *out)
{
    for (uint64_t i = 0; i < m->n_ops; i++) {
        step_op op;
        err e;
        memcpy(&op, (const uint8_t *)ops->ptr + i * sizeof op, sizeof op);
        if (do_op(s, &op, &e)) fail_session(s, m->n_rows, out, op.kind == OP_FORK ? op.other : op.session, &e);
    }
}

/* Rows of one session stand together (the pump puts them so), all given up or none: one reserve for each stretch. A peer that
 * mixes them gets more stretches. */
static uint32_t stretch(const shard_state *s, uint32_t i, uint32_t n)
{
    uint32_t j = i + 1;
    while (j < n && s->rows[j].session == s->rows[i].session && !s->rows[j].status == !s->rows[i].status) j++;
    return j;
}

/* What rows [i, j) of one session are for the engine; returns how many of them, the first ones, have anything to do here. */
static uint32_t describe_rows(shard_state *s, uint32_t i, uint32_t j)
{
    uint64_t session = s->rows[i].session;
    mask_use *u = masks_find(&s->masks, session);
    forward_row f = { .seq = s->store ? kv_seq_find(s->store, session) : NULL, .mask = u ? u->mask : NULL };
    f.adapter = adapters_of(&s->adapters, session, &f.adapter_scale);
    pool_use *sums = pools_find(&s->pools, session);
    uint32_t busy = 0;
    for (uint32_t t = i; t < j; t++) {
        const step_row *r = &s->rows[t];
        s->kv_rows[t] = (kv_row){ .row = r->row, .pos = r->pos, .parent = r->parent, .segment = r->segment,
                                  .provenance = r->provenance, .path = r->path };
        f.row = r->row;
        f.calm = r->calm;
        s->slots[t] = 0;
        s->fwd[t] = f;
        s->fwd[t].ends = s->model->part.head && !r->want && r->target == MSG_NO_ROW;
        bool sum = sums && r->row == sums->seen && r->row < sums->rows; /* a row that is sent again is added once */
        if (sum) s->fwd[t].pool = sums->sum, sums->seen++;
        if (u && r->row >= u->rows) u->rows = r->row + 1;
        busy += !u || (busy == t - i && r->row < u->idle);
    }
    return busy;
}

/* What the stages before chose for rows [i, j); picks of rows in front of them are passed by. */
static err_code take_picks(const shard_state *s, uint32_t i, uint32_t j, view picks, err *e)
{
    const uint8_t *at = picks.ptr, *end = at + picks.len;
    err_code rc = ERR_OK;
    for (; rc == ERR_OK && i < j; i++) {
        pick_rec p;
        uint32_t n = 0;
        for (; at < end && (memcpy(&p, at, sizeof p), p.at < i); at += sizeof p);
        for (const uint8_t *x = at; x < end && (memcpy(&p, x, sizeof p), p.at == i); x += sizeof p) n++;
        rc = kv_choice_set(s->fwd[i].seq, s->slots[i], n ? at + offsetof(pick_rec, place) : NULL, sizeof p, n, e);
    }
    return rc;
}

static void reserve_rows(shard_state *s, uint32_t n, const view *picks, step_out *out)
{
    for (uint32_t i = 0, j; i < n; i = j) {
        j = stretch(s, i, n);
        if (s->rows[i].status) continue;
        err e;
        uint32_t busy = describe_rows(s, i, j);
        kv_seq *q = s->fwd[i].seq;
        if (!s->store) continue;
        if (!q) {
            err_set(&e, ERR_ABSENT, "session %" PRIu64 " is not open here", s->rows[i].session);
            fail_session(s, n, out, s->rows[i].session, &e);
        } else if (!busy) {
            kv_release(q, s->rows[i].row);
        } else if (kv_reserve(q, s->kv_rows + i, busy, s->slots + i, &e) || take_picks(s, i, i + busy, *picks, &e)) {
            fail_session(s, n, out, s->rows[i].session, &e);
        }
    }
}

/* Live rows for the engine, in order; returns how many. */
static uint32_t gather(shard_state *s, const msg_step *m, const uint8_t *was_dead, const view *hidden, float *h)
{
    uint32_t T = 0, in = 0, D = s->model->shape.D;
    for (uint32_t i = 0; i < m->n_rows; i++) {
        const step_row *r = &s->rows[i];
        if (was_dead[i]) continue;                     /* has no row in the hidden tensor */
        uint32_t from = in++;
        if (r->status) continue;
        s->fwd[T] = s->fwd[i];
        s->fwd[T].slot = s->slots[i];
        s->fwd[T].path = (path_id)r->path;
        s->ids[T] = r->token;
        if (m->n_hidden) memcpy(h + (size_t)T * D, (const uint8_t *)hidden->ptr + (size_t)from * D * 4, (size_t)D * 4);
        T++;
    }
    return T;
}

/* What live rows carry on to the next stage's FFNs. */
static void carry(shard_state *s, uint64_t n_rows)
{
    const mask_row *calm = runner_calm(s->runner);
    for (uint32_t i = 0, t = 0; calm && i < n_rows; i++) {
        step_row *r = &s->rows[i];
        if (r->status) continue;
        r->calm = (uint16_t)calm[t].state;
        r->left_out += calm[t++].out;
    }
}

/* ---- out: to the next hop ---------------------------------------------------------------------------------------- */

static bool set_frame(text *t, const void *p, size_t n, view *v)
{
    text_clear(t);
    if (!text_add(t, p, n)) return false;
    *v = (view){ t->ptr, t->len };
    return true;
}

/* What was chosen for each row, here or before, goes with it. */
static bool set_picks(shard_state *s, const msg_step *m, step_out *out)
{
    uint32_t live = 0;
    text_clear(&out->picks);
    out->head.step.n_picks = 0;
    for (uint32_t i = 0; i < m->n_rows; i++) {
        uint32_t n = 0;
        const forward_row *f = s->rows[i].status ? NULL : &s->fwd[live++];
        const uint32_t *row = f && f->seq ? kv_choice(f->seq, f->slot, &n) : NULL;
        out->head.step.n_picks += n;
        for (uint32_t k = 0; k < n; k++)
            if (!text_add(&out->picks, &(pick_rec){ i, row[k] }, sizeof(pick_rec))) return false;
    }
    out->frame[STEP_PICKS] = (view){ out->picks.ptr, out->picks.len };
    return true;
}

static err_code pass_on(shard_state *s, const msg_step *m, const view *frame, uint32_t T, step_out *out, err *e)
{
    out->is_result = false;
    out->head = (message){ .type = MSG_STEP, .step = *m };
    out->head.step.hop = m->hop + 1;
    out->head.step.n_hidden = T;
    out->head.step.dim = s->model->shape.D;
    out->next = hop_at(&frame[STEP_HOPS], m->hop + 1).stage;
    out->frame[STEP_HIDDEN] = (view){ loan_data(out->h), (size_t)T * s->model->shape.D * 4 };
    out->lent[STEP_HIDDEN] = out->h;
    bool ok = set_picks(s, m, out) && set_frame(&out->rows, s->rows, m->n_rows * sizeof *s->rows, &out->frame[STEP_ROWS])
              && set_frame(&out->ops, frame[STEP_OPS].ptr, frame[STEP_OPS].len, &out->frame[STEP_OPS])
              && set_frame(&out->hops, frame[STEP_HOPS].ptr, frame[STEP_HOPS].len, &out->frame[STEP_HOPS]);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

/* ---- out: the head's answer -------------------------------------------------------------------------------------- */

typedef struct {                 /* rows that go through the head together */
    uint32_t n, pick[RUNNER_HEAD_ROWS], row[RUNNER_HEAD_ROWS];
    forward_row fwd[RUNNER_HEAD_ROWS];
} head_group;

static bool add_result(step_out *out, const step_row *r, result_row *rr)
{
    rr->session = r->session;
    rr->row = r->row;
    rr->status = r->status;
    out->head.result.n_rows++;
    return text_add(&out->rows, rr, sizeof *rr);
}

static bool add_row_answer(shard_state *s, step_out *out, const step_row *r, const float *logits, const row_stats *st, uint32_t top,
                           const float *h)
{
    uint32_t V = s->model->shape.V;
    msg_result *m = &out->head.result;
    result_row rr = { .left_out = r->left_out, .lse = st->lse, .max = st->max, .entropy = st->entropy, .full = MSG_NO_ROW, .hidden = MSG_NO_ROW };
    if (r->target != MSG_NO_ROW) rr.target_logit = logits[r->target];
    if (r->want & WANT_CANDIDATES) {
        _Static_assert(sizeof(candidate) == sizeof(cand_rec), "candidates go out as they are");
        if (!text_reserve(&out->cands, top * sizeof(candidate))) return false;
        rr.n_candidates = forward_top(logits, V, (candidate *)(out->cands.ptr + out->cands.len), top);
        out->cands.len += rr.n_candidates * sizeof(candidate);
        m->n_cands += rr.n_candidates;
    }
    if (r->want & WANT_ROW) {
        rr.full = (uint32_t)m->n_full++;
        if (!text_add(&out->full, logits, (size_t)V * 4)) return false;
    }
    if (r->want & WANT_HIDDEN) {
        rr.hidden = (uint32_t)m->n_hidden++;
        if (!text_add(&out->hidden, h, (size_t)s->model->shape.D * 4)) return false;
    }
    return add_result(out, r, &rr);
}

static bool flush_group(shard_state *s, step_out *out, head_group *g, uint32_t top)
{
    row_stats stats[RUNNER_HEAD_ROWS];
    const float *logits = g->n ? runner_head(s->runner, loan_data(out->h), g->pick, g->fwd, g->n, stats) : NULL;
    bool ok = true;
    for (uint32_t i = 0; ok && i < g->n; i++)
        ok = add_row_answer(s, out, &s->rows[g->row[i]], logits + (size_t)i * s->model->shape.V, &stats[i], top,
                            (const float *)loan_data(out->h) + (size_t)g->pick[i] * s->model->shape.D);
    g->n = 0;
    return ok;
}

static bool answer_rows(shard_state *s, const msg_step *m, step_out *out)
{
    head_group g = { 0 };
    uint32_t live = 0;
    bool ok = true;
    for (uint32_t i = 0; ok && i < m->n_rows; i++) {
        const step_row *r = &s->rows[i];
        uint32_t at = live;
        if (!r->status) live++;
        if (r->status) {
            ok = flush_group(s, out, &g, (uint32_t)m->top) && add_result(out, r, &(result_row){ .full = MSG_NO_ROW, .hidden = MSG_NO_ROW });
        } else if (r->want || r->target != MSG_NO_ROW) {
            g.pick[g.n] = at;
            g.row[g.n] = i;
            g.fwd[g.n++] = s->fwd[at];
            if (g.n == RUNNER_HEAD_ROWS) ok = flush_group(s, out, &g, (uint32_t)m->top);
        }
    }
    return ok && flush_group(s, out, &g, (uint32_t)m->top);
}

static err_code answer(shard_state *s, const msg_step *m, step_out *out, err *e)
{
    text *all[] = { &out->rows, &out->cands, &out->full, &out->hidden };
    for (int i = 0; i < 4; i++) text_clear(all[i]);
    out->is_result = true;
    out->lent[STEP_HIDDEN] = NULL;
    out->head = msg_init(MSG_RESULT);
    out->head.result.epoch = m->epoch;
    out->head.result.step = m->step;
    out->head.result.model = m->model;
    out->head.result.vocab = s->model->shape.V;
    out->head.result.dim = s->model->shape.D;
    out->head.result.hop = m->hop;
    out->head.result.step_rows = m->n_rows;
    if (!s->plan.head && m->n_rows) return err_set(e, ERR_PROTO, "step %" PRIu64 " ends at a stage without the head", m->step);
    if (!answer_rows(s, m, out)) return err_set(e, ERR_NOMEM, "out of memory for the answer of step %" PRIu64, m->step);
    for (int i = 0; i < 4; i++) out->frame[i] = (view){ all[i]->ptr, all[i]->len };
    out->frame[STEP_PICKS] = (view){ NULL, 0 };
    return ERR_OK;
}

/* ------------------------------------------------------------------------------------------------------------------ */

err_code step_run(shard_state *s, const message *msg, const view *frame, step_out *out, err *e)
{
    const msg_step *m = &msg->step;
    out->failed_session = 0;
    err_code rc = check_step(s, m, frame, e);
    if (rc) return rc;
    memcpy(s->rows, frame[STEP_ROWS].ptr, m->n_rows * sizeof *s->rows);
    if ((rc = check_rows(s, m, e))) return rc;
    uint8_t was_dead[4096];
    for (uint32_t i = 0; i < m->n_rows; i++) was_dead[i] = s->rows[i].status != 0;
    do_ops(s, m, &frame[STEP_OPS], out);
    reserve_rows(s, (uint32_t)m->n_rows, &frame[STEP_PICKS], out);
    float *h = loan_data(out->h);
    uint32_t T = gather(s, m, was_dead, &frame[STEP_HIDDEN], h);
    if (!m->n_hidden) runner_embed(s->runner, s->ids, T, h);
    runner_layers(s->runner, s->fwd, T, h);
    carry(s, m->n_rows);
    return m->hop + 1 == m->n_hops ? answer(s, m, out, e) : pass_on(s, m, frame, T, out, e);
}

void step_out_free(step_out *o)
{
    text *all[] = { &o->rows, &o->ops, &o->hops, &o->cands, &o->full, &o->hidden, &o->picks };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) text_free(all[i]);
}
