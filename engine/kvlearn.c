#include "engine/kvlearn.h"
#include "engine/heads.h"
#include <stdlib.h>
#include <string.h>

enum { ROWS = 256 };           /* of a step, unless a window has to be one; the sums take so many as one batch */

typedef struct {               /* one of the two models */
    const model *m;
    kv *store;
    kv_seq *seq;
    runner *runner;
    runner_tap tap;            /* [layers][max_rows][..] */
    float *h;                  /* [max_rows][D] */
} reader;

typedef struct {
    const kvlearn_task *t;
    kvmap_shape s;
    model *base;
    reader of[2];              /* base, auxiliary */
    kvfit_how how;
    uint32_t max_rows, l0, l1; /* of a step; layers that are being fitted */
    kv_row *rows;              /* [max_rows] */
    forward_row *fwd;
    uint32_t *slots;
    float *w, *b;              /* a map */
    heads *heads;              /* by_attention, else NULL: */
    double *received;          /* [max_rows] */
    float *weight;             /* [l1 - l0][max_rows] */
    uint64_t done, total;
} learner;

static bool floats(float **p, size_t n) { return (*p = malloc(n * sizeof **p)) != NULL; }

static err_code reader_open(reader *r, const model *m, const learner *l, uint32_t n_ctx, bool inputs, err *e)
{
    const kvlearn_task *t = l->t;
    const model_shape *s = &m->shape;
    kv_geometry g = forward_kv(s, 0, s->L);
    size_t n = (size_t)s->L * l->max_rows, row = (size_t)s->K * s->d;
    g.format = t->format;
    g.n_ctx = n_ctx;
    g.isa = t->isa;
    r->m = m;
    err_code rc = kv_open(&r->store, &g, e);
    if (!rc) rc = runner_open(&r->runner, m, r->store, t->pool, t->isa, l->max_rows, e);
    if (rc) return rc;
    bool ok = floats(&r->tap.k, n * row) && floats(&r->tap.v, n * row) && floats(&r->h, (size_t)l->max_rows * s->D)
              && (!inputs || floats(&r->tap.h, n * s->D));
    runner_listen(r->runner, &r->tap);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for calibration");
}

static void reader_close(reader *r)
{
    runner_close(&r->runner);
    if (r->store) kv_close(&r->store);
    float *f[] = { r->tap.k, r->tap.v, r->tap.h, r->h };
    for (size_t i = 0; i < sizeof f / sizeof *f; i++) free(f[i]);
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */

static err_code read_rows(learner *l, reader *r, const uint32_t *token, uint32_t first, uint32_t n, err *e)
{
    for (uint32_t i = 0; i < n; i++)
        l->rows[i] = (kv_row){ .row = first + i, .pos = first + i, .parent = i ? first + i - 1 : KV_ROW_NONE, .path = (uint8_t)l->t->path };
    err_code rc = kv_reserve(r->seq, l->rows, n, l->slots, e);
    if (rc) return rc;
    for (uint32_t i = 0; i < n; i++) l->fwd[i] = (forward_row){ .seq = r->seq, .slot = l->slots[i], .path = l->t->path };
    runner_embed(r->runner, token, n, r->h);
    runner_layers(r->runner, l->fwd, n, r->h);
    return kv_commit(r->seq, first + n - 1, e);
}

static bool is_held(const kvlearn_task *t, uint32_t i)
{
    return i % KVLEARN_HELD == KVLEARN_HELD - 1 || (t->n_windows < KVLEARN_HELD && i + 1 == t->n_windows);
}

/* ---- who looks at what ---------------------------------------------------------------------------------------------- */

/* A layer of the base and its whole window. */
static void watch(void *arg, forward_place at, const forward_view *v)
{
    learner *l = arg;
    if (at != FORWARD_QKV || v->layer < l->l0 || v->layer >= l->l1) return;
    float *to = l->weight + (size_t)(v->layer - l->l0) * l->max_rows;
    double sum = 0;
    heads_load(l->heads, v->layer, v->T, v->q, v->k, v->v);
    heads_received(l->heads, l->received);
    for (uint32_t j = KVLEARN_SINKS; j < v->T; j++) sum += l->received[j];
    for (uint32_t j = 0; j < v->T; j++) to[j] = sum > 0 ? (float)(l->received[j] / sum * (v->T - KVLEARN_SINKS)) : 1;
}

/* ---- windows ---------------------------------------------------------------------------------------------------------- */

static err_code read_window(learner *l, kvfit *f, uint32_t i, err *e)
{
    const kvlearn_task *t = l->t;
    err_code rc = ERR_OK;
    for (int k = 0; !rc && k < 2; k++) {
        kv_seq_close(l->of[k].store, 1);
        rc = kv_seq_open(l->of[k].store, 1, &l->of[k].seq, e);
    }
    for (uint32_t at = 0, n; !rc && at < t->len[i]; at += n) {
        n = t->len[i] - at < l->max_rows ? t->len[i] - at : l->max_rows;
        for (int k = 0; !rc && k < 2; k++) rc = read_rows(l, &l->of[k], t->window[i] + at, at, n, e);
        uint32_t from = at ? 0 : KVLEARN_SINKS;
        if (!rc && from < n) kvfit_add(f, &l->of[1].tap, &l->of[0].tap, l->max_rows, from, n, is_held(t, i), l->weight);
        l->done += n;
        if (!rc && t->tick) rc = t->tick(t->arg, l->done, l->total, e);
    }
    return rc;
}

/* ---- layers [l0, l1) -------------------------------------------------------------------------------------------------- */

static err_code learn_layers(learner *l, uint32_t l0, uint32_t l1, profile_writer *out, predictor_notes *notes, err *e)
{
    kvfit *f;
    l->l0 = l0;
    l->l1 = l1;
    err_code rc = kvfit_open(&f, &l->s, l->how, l0, l1, e);
    for (uint32_t k = 0; !rc && k <= l->t->reweight; k++) {
        if (k) rc = kvfit_again(f, e);
        for (uint32_t i = 0; !rc && i < l->t->n_windows; i++) rc = read_window(l, f, i, e);
    }
    for (uint32_t layer = l0; layer < l1; layer++)
        for (int side = 0; !rc && side < KVMAP_SIDES; side++) {
            bool blocks = kvmap_width(&l->s, layer) % wtypes[l->t->type].block == 0;
            rc = kvfit_solve(f, layer, side, l->w, l->b, &notes->note[side][layer], e);
            if (!rc) predictor_put_map(out, &l->s, layer, side, blocks ? l->t->type : WTYPE_F16, l->w, l->b);
        }
    kvfit_close(&f);
    return rc;
}

static uint32_t passes(const learner *l)
{
    uint32_t n = 0;
    for (uint32_t at = 0; at < l->s.L; n++) at = kvfit_fits(&l->s, l->how, at, l->t->bytes);
    return n;
}

static err_code check(learner *l, err *e)
{
    uint32_t held = 0, fit = 0;
    for (uint32_t i = 0; i < l->t->n_windows; i++) {
        uint32_t rows = l->t->len[i] > KVLEARN_SINKS ? l->t->len[i] - KVLEARN_SINKS : 0;
        *(is_held(l->t, i) ? &held : &fit) += rows;
        l->total += l->t->len[i];
    }
    l->total *= passes(l) * (1 + l->t->reweight);
    if (fit && held) return ERR_OK;
    return err_set(e, ERR_INPUT, "%u windows of text with %u rows to fit and %u to hold out: a longer text is needed", l->t->n_windows, fit, held);
}

static err_code scratch(learner *l, uint32_t longest, err *e)
{
    l->rows = malloc(l->max_rows * sizeof *l->rows);
    l->fwd = malloc(l->max_rows * sizeof *l->fwd);
    l->slots = malloc(l->max_rows * sizeof *l->slots);
    if (!l->rows || !l->fwd || !l->slots) return err_set(e, ERR_NOMEM, "out of memory for calibration");
    if (!l->t->by_attention) return ERR_OK;
    l->received = malloc(l->max_rows * sizeof *l->received);
    bool ok = l->received && floats(&l->weight, (size_t)l->s.L * l->max_rows);
    runner_watch(l->of[0].runner, watch, l);
    return ok ? heads_open(&l->heads, &l->base->shape, l->t->isa, longest, e) : err_set(e, ERR_NOMEM, "out of memory for weights of rows");
}

static err_code open_both(learner *l, err *e)
{
    const kvlearn_task *t = l->t;
    model_shape s;
    uint32_t longest = 1, threads = pool_threads(t->pool), most = 0;
    err_code rc = model_shape_read(&s, t->base, e);
    pack_file *packed = rc ? NULL : pack_open(t->base, &t->pack, threads, NULL);
    if (!rc) rc = model_open_packed(&l->base, t->base, packed, (shard){ 0, s.L, true, false }, e);
    pack_close(&packed);
    if (!rc && !t->aux->m) rc = auxiliary_load(t->aux, l->base, &t->pack, threads, e);
    if (rc) return rc;
    const model_shape *a = &t->aux->shape;
    l->s = (kvmap_shape){ .L = s.L, .out = s.K * s.d, .A = a->L, .kv = a->K * a->d, .D = a->D, .inputs = t->inputs };
    kvmap_sources(&l->s, t->aux->n_kept ? t->aux->kept : NULL);
    l->how = (kvfit_how){ .weighted = t->by_attention || t->reweight, .rank = t->rank };
    for (uint32_t i = 0; i < t->n_windows; i++) longest = t->len[i] > longest ? t->len[i] : longest;
    l->max_rows = t->by_attention && longest > ROWS ? longest : ROWS;
    for (uint32_t i = 0; i < s.L; i++) most = kvmap_width(&l->s, i) > most ? kvmap_width(&l->s, i) : most;
    rc = reader_open(&l->of[0], l->base, l, longest, false, e);
    if (!rc) rc = reader_open(&l->of[1], t->aux->m, l, longest, t->inputs == KVMAP_WIDE, e);
    if (!rc && (!floats(&l->w, (size_t)l->s.out * most) || !floats(&l->b, l->s.out))) rc = err_set(e, ERR_NOMEM, "out of memory for a map");
    return rc ? rc : scratch(l, longest, e);
}

err_code kvlearn(const kvlearn_task *t, profile_writer *out, predictor_notes *notes, err *e)
{
    learner *l = calloc(1, sizeof *l);
    if (!l) return err_set(e, ERR_NOMEM, "out of memory for calibration");
    l->t = t;
    err_code rc = open_both(l, e);
    if (!rc) rc = check(l, e);
    for (uint32_t at = 0, end; !rc && at < l->s.L; at = end) {
        end = kvfit_fits(&l->s, l->how, at, t->bytes);
        rc = learn_layers(l, at, end, out, notes, e);
    }
    if (!rc) predictor_put_head(out, &l->s, notes);
    reader_close(&l->of[0]);
    reader_close(&l->of[1]);
    model_close(&l->base);
    heads_close(&l->heads);
    void *mine[] = { l->rows, l->fwd, l->slots, l->w, l->b, l->received, l->weight };
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) free(mine[i]);
    free(l);
    return rc;
}
