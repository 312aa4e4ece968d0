#include "ops/cli/calibrate_stand.h"
#include "engine/route_probe.h"
#include "engine/stand_fit.h"
#include "ops/cli/calibrate_docs.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Every document is read once for as many layers as their sums fit into memory; then a part of the documents is read again with stand-ins. */

enum { HELD_EVERY = 5, JUDGED_DOCS = 48, SIXTEENTH = 16, SUMS_MOST = 1 << 30 };

typedef struct {
    calibration *c;
    lab *l;
    route_probe *p;
    documents docs;
    const model_shape *s;
    uint32_t rank, group;      /* layers whose sums are there at a time */
    stand_ins *stand;
    float *x, *y;              /* [CALIBRATE_DOC_MOST][D] */
    /* blocks: survive an interruption */
    uint32_t *done;            /* documents read for the group under way; layers fitted; steps of the order */
    double *sums;              /* [group][stand_fit_doubles] */
    float *a, *b, *bias;       /* [L][rank][D], [L][D][rank], [L][D] */
    double *error, *lambda;    /* [L] */
    double *joint, *bare;      /* [L] of the first 1, 2, ... of the order, with stand-ins and with nothing */
    double *alone[2];          /* [L] of one FFN, likewise */
    uint32_t *order;           /* [L] */
} study;

static uint32_t rank_of(const model_shape *s)
{
    uint32_t r = 3 * s->F / (2 * SIXTEENTH) / 32 * 32, most = s->D < s->F ? s->D : s->F;
    return r < 32 ? (most < 32 ? most : 32) : r < most ? r : most;
}

static void *block(study *y, const char *name, size_t bytes)
{
    bool found;
    return calibrate_block(y->c, name, bytes, &found);
}

static bool open_blocks(study *y)
{
    const model_shape *s = y->s;
    size_t L = s->L, n = L * y->rank * s->D, sums = stand_fit_doubles(s->D) * sizeof(double);
    y->group = sums < SUMS_MOST / L ? s->L : sums < SUMS_MOST ? (uint32_t)(SUMS_MOST / sums) : 1;
    y->sums = block(y, "sums", y->group * sums);
    y->a = block(y, "a", n * sizeof *y->a);
    y->b = block(y, "b", n * sizeof *y->b);
    y->bias = block(y, "bias", L * s->D * sizeof *y->bias);
    y->error = block(y, "error", L * sizeof *y->error);
    y->lambda = block(y, "lambda", L * sizeof *y->lambda);
    y->joint = block(y, "joint", L * sizeof *y->joint);
    y->bare = block(y, "joint.bare", L * sizeof *y->bare);
    y->alone[0] = block(y, "alone", L * sizeof *y->alone[0]);
    y->alone[1] = block(y, "alone.bare", L * sizeof *y->alone[1]);
    y->order = block(y, "order", L * sizeof *y->order);
    y->done = block(y, "done.docs", 3 * sizeof *y->done);
    y->x = malloc((size_t)2 * CALIBRATE_DOC_MOST * s->D * sizeof *y->x);
    y->y = y->x ? y->x + (size_t)CALIBRATE_DOC_MOST * s->D : NULL;
    return y->sums && y->a && y->b && y->bias && y->error && y->lambda && y->joint && y->bare && y->alone[0] && y->alone[1] && y->order && y->done && y->x;
}

static uint32_t inner(const study *y) { return y->s->L - 2; }
static uint32_t order_steps(const study *y) { return inner(y) * 2 / 3; }
static uint64_t total_steps(const study *y) { return (uint64_t)y->docs.n * ((y->s->L + y->group - 1) / y->group) + order_steps(y); }

static err_code read_document(study *y, uint32_t i, err *e)
{
    const document *d = &y->docs.doc[i];
    return route_probe_read(y->p, y->docs.tokens.id + d->at, d->n, d->prompt, NULL, e);
}

/* ---- fitting ------------------------------------------------------------------------------------------------------- */

static err_code add_layer(study *y, uint32_t l, bool held, err *e)
{
    const float *in, *out, *w = lab_model(y->l)->layer[l].ffn_norm;
    const vec_ops *v = vec_for(lab_isa(y->l));
    uint32_t D = y->s->D, n;
    route_probe_ffn(y->p, l, &in, &out, &n);
    for (uint32_t t = 0; t < n; t++) v->rms_norm(y->x + (size_t)t * D, in + (size_t)t * D, w, D, y->s->rms_eps);
    for (size_t i = 0; i < (size_t)n * D; i++) y->y[i] = out[i] - in[i];
    return stand_fit_add(y->sums + (l % y->group) * stand_fit_doubles(D), D, y->x, y->y, n, held, e);
}

static err_code fit_group(study *y, err *e)
{
    uint32_t first = y->done[1], last = first + y->group < y->s->L ? first + y->group : y->s->L, D = y->s->D;
    size_t n = (size_t)y->rank * D;
    err_code rc = ERR_OK;
    for (uint32_t i = y->done[0]; !rc && i < y->docs.n; i++) {
        rc = calibrate_tick(y->c, (uint64_t)y->docs.n * (first / y->group) + i, total_steps(y), e);
        if (!rc) rc = read_document(y, i, e);
        for (uint32_t l = first; !rc && l < last; l++) rc = add_layer(y, l, i % HELD_EVERY == 0, e);
        if (!rc) y->done[0] = i + 1;
    }
    for (uint32_t l = first; !rc && l < last; l++) {
        stand_note note;
        rc = stand_fit_solve(y->sums + (l % y->group) * stand_fit_doubles(D), D, y->rank, y->a + l * n, y->b + l * n, y->bias + (size_t)l * D, &note, e);
        if (rc) return err_wrap(e, "layer %u", l);
        y->error[l] = note.error;
        y->lambda[l] = note.lambda;
    }
    if (rc) return rc;
    memset(y->sums, 0, y->group * stand_fit_doubles(D) * sizeof *y->sums);
    y->done[0] = 0;
    y->done[1] = last;
    return ERR_OK;
}

/* ---- which can go -------------------------------------------------------------------------------------------------- */

static layer_mask taken(const study *y, uint32_t n)
{
    layer_mask m = mask_none(y->s->L);
    for (uint32_t i = 0; i < n; i++) m.at[y->order[i]].ffn = 0;
    m.stand = MASK_LOW_RANK;
    m.stand_id = 1;
    return m;
}

/* Mean damage over documents from all over the text of the mask with each further FFN out: with[0] [L] with stand-ins, with[1] bare. */
static err_code cost_of_next(study *y, const layer_mask *m, double *const with[2], err *e)
{
    uint32_t docs = y->docs.n < JUDGED_DOCS ? y->docs.n : JUDGED_DOCS;
    err_code rc = ERR_OK;
    memset(with[0], 0, y->s->L * sizeof **with);
    memset(with[1], 0, y->s->L * sizeof **with);
    for (uint32_t k = 0; !rc && k < docs; k++) {
        rc = read_document(y, (uint32_t)((uint64_t)k * y->docs.n / docs), e);
        for (uint32_t i = 0; !rc && i < 2 * inner(y); i++) {
            layer_mask next = *m;
            uint32_t l = 1 + i / 2;
            double x = 0;
            if (next.at[l].ffn != MASK_NEVER) continue;
            next.at[l].ffn = 0;
            if (i % 2) next.stand = MASK_BARE;
            rc = route_probe_without(y->p, &next, &x, NULL, e);
            with[i % 2][l] += x / docs;
        }
    }
    return rc;
}

/* An FFN at a time, the one whose stand-in costs least beside those before it. */
static err_code next_step(study *y, uint32_t i, err *e)
{
    double low[MASK_LAYERS], bare[MASK_LAYERS], *const with[2] = { low, bare };
    layer_mask m = taken(y, i);
    uint32_t best = 0;
    err_code rc = cost_of_next(y, &m, with, e);
    for (uint32_t l = 1; l + 1 < y->s->L; l++)
        if (m.at[l].ffn == MASK_NEVER && (!best || low[l] < low[best])) best = l;
    if (!i) memcpy(y->alone[0], low, y->s->L * sizeof *low), memcpy(y->alone[1], bare, y->s->L * sizeof *bare);
    y->order[i] = best;
    y->joint[i] = low[best];
    y->bare[i] = bare[best];
    return rc;
}

static bool is_taken(const study *y, uint32_t n, uint32_t l)
{
    for (uint32_t i = 0; i < n; i++)
        if (y->order[i] == l) return true;
    return false;
}

static err_code order_ffns(study *y, err *e)
{
    err_code rc = ERR_OK;
    uint32_t n = order_steps(y);
    for (uint32_t i = y->done[2]; !rc && i < n; i = ++y->done[2]) {
        rc = calibrate_tick(y->c, total_steps(y) - n + i, total_steps(y), e);
        if (!rc) rc = next_step(y, i, e);
    }
    for (; !rc && n < inner(y); n++) { /* those that are left, by their own damage */
        uint32_t best = 0;
        for (uint32_t l = 1; l + 1 < y->s->L; l++)
            if (!is_taken(y, n, l) && (!best || y->alone[0][l] < y->alone[0][best])) best = l;
        y->order[n] = best;
    }
    y->order[n] = y->s->L - 1;      /* the ends go last of all */
    y->order[n + 1] = 0;
    return rc;
}

/* ---- what goes into the profile -------------------------------------------------------------------------------------- */

static json_t *list_of(const double *x, uint32_t n)
{
    json_t *a = json_array();
    for (uint32_t i = 0; i < n; i++) json_array_append_new(a, json_real(x[i]));
    return a;
}

static void put_all(study *y, json_t *summary)
{
    profile_writer *w = y->c->out;
    uint32_t L = y->s->L, D = y->s->D, r = y->rank;
    wtype t = stand_in_type(y->s, r);
    double order[MASK_LAYERS];
    for (uint32_t l = 1; l + 1 < L; l++) {
        profile_put_floats(w, PROFILE_STAND, l, "a", t, D, r, y->a + (size_t)l * r * D);
        profile_put_floats(w, PROFILE_STAND, l, "b", t, r, D, y->b + (size_t)l * r * D);
        profile_put_floats(w, PROFILE_STAND, l, "bias", WTYPE_F32, D, 1, y->bias + (size_t)l * D);
    }
    for (uint32_t i = 0; i < L; i++) order[i] = y->order[i];
    profile_put_number(w, PROFILE_STAND, "rank", r);
    profile_put_number(w, PROFILE_STAND, "documents", y->docs.n);
    const struct { const char *name; const double *x; uint32_t n; } list[] = {
        { "order", order, L }, { "joint", y->joint, order_steps(y) }, { "joint_bare", y->bare, order_steps(y) }, { "error", y->error, L },
        { "damage", y->alone[0], L }, { "bare", y->alone[1], L },
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        profile_put_numbers(w, PROFILE_STAND, list[i].name, list[i].x, list[i].n);
        json_object_set_new(summary, list[i].name, list_of(list[i].x, list[i].n));
    }
    json_object_set_new(summary, "lambda", list_of(y->lambda, L));
    json_object_set_new(summary, "rank", json_integer(r));
}

static err_code make(study *y, json_t *summary, err *e)
{
    err_code rc = ERR_OK;
    while (!rc && y->done[1] < y->s->L) rc = fit_group(y, e);
    if (!rc) rc = stand_ins_make(&y->stand, y->s, y->rank, y->a, y->b, y->bias, e);
    if (rc) return rc;
    runner_stand_ins(lab_runner(y->l), y->stand);
    rc = order_ffns(y, e);
    if (!rc) put_all(y, summary);
    return rc;
}

err_code calibrate_stand(calibration *c, json_t *summary, err *e)
{
    study *y = calloc(1, sizeof *y);
    if (!y) return err_set(e, ERR_NOMEM, "out of memory");
    y->c = c;
    y->s = &c->shape;
    y->rank = rank_of(y->s);
    err_code rc = y->s->L > 3 && y->s->L <= MASK_LAYERS ? ERR_OK : err_set(e, ERR_MODEL, "a model of %u layers has none to leave out", y->s->L);
    if (!rc) rc = calibrate_documents(c, &y->docs, e);
    if (!rc && !open_blocks(y)) rc = err_set(e, ERR_NOMEM, "out of memory for the stand-ins of %u layers", y->s->L);
    if (!rc) rc = calibrate_lab(c, (lab_options){ .max_rows = CALIBRATE_DOC_MOST, .n_ctx = CALIBRATE_DOC_MOST }, &y->l, e);
    if (!rc) rc = route_probe_open(&y->p, y->l, CALIBRATE_DOC_MOST, c->path, e);
    if (!rc) rc = make(y, summary, e);
    route_probe_close(&y->p);
    lab_close(&y->l);
    stand_ins_close(&y->stand);
    documents_free(&y->docs);
    free(y->x);
    free(y);
    return rc;
}
