#include "ops/cli/calibrate.h"
#include "engine/kvlearn.h"
#include <stdlib.h>
#include <string.h>

/* sluice calibrate --only predict: the maps of KV prediction. The learning is engine/kvlearn.c's; this file finds it a text and an
 * auxiliary model, and says how well the maps do. */

enum { SUMS_BYTES = 1u << 30 }; /* of normal equations at a time: the text is read again for the layers that are left */

typedef struct {
    uint32_t *ids, *len;       /* [n][window], [n] */
    const uint32_t **window;
    size_t n;
} windows;

static bool fill(const calibration *c, windows *w)
{
    w->n = calibrate_windows(c);
    w->ids = malloc(w->n * c->window * sizeof *w->ids);
    w->len = malloc(w->n * sizeof *w->len);
    w->window = malloc(w->n * sizeof *w->window);
    for (size_t i = 0; w->ids && w->len && w->window && i < w->n; i++) {
        calibrate_fill(c, i, w->ids + i * c->window);
        w->window[i] = w->ids + i * c->window;
        w->len[i] = c->window;
    }
    return w->ids && w->len && w->window;
}

static void windows_free(windows *w)
{
    free(w->ids);
    free(w->len);
    free(w->window);
}

static err_code tick(void *arg, uint64_t done, uint64_t total, err *e) { return calibrate_tick(arg, done, total, e); }

/* Errors of layers on held-out rows, as they go into the profile too. */
static void summarize(const calibration *c, const predictor_notes *n, json_t *summary)
{
    for (int side = 0; side < KVMAP_SIDES; side++) {
        json_t *list = json_array();
        for (uint32_t l = 0; l < c->shape.L; l++) json_array_append_new(list, json_real(n->note[side][l].error));
        json_object_set_new(summary, side ? "error_v" : "error_k", list);
    }
    json_object_set_new(summary, "rows", json_integer((json_int_t)n->note[0][0].rows));
}

/* How the maps were fitted, for whoever finds the profile: using them needs none of it. */
static void say_how(const calibration *c, const kvlearn_task *t)
{
    profile_put_text(c->out, PROFILE_PREDICT, "weights", t->by_attention ? "attention" : "none");
    profile_put_number(c->out, PROFILE_PREDICT, "reweighted", t->reweight);
    profile_put_number(c->out, PROFILE_PREDICT, "rank", t->rank);
}

static err_code learn(calibration *c, auxiliary *a, const windows *w, json_t *summary, err *e)
{
    lab *l = NULL;
    predictor_notes *notes = calloc(1, sizeof *notes);
    kvlearn_task t = { .base = c->g, .aux = a, .window = w->window, .len = w->len, .n_windows = (uint32_t)w->n, .inputs = KVMAP_NEAR,
                       .type = c->s->map_type && !strcmp(c->s->map_type, "q8_0") ? WTYPE_Q8_0 : WTYPE_F16, .path = c->path, .format = KV_F16,
                       .by_attention = c->s->map_weights && !strcmp(c->s->map_weights, "attention"), .reweight = (uint32_t)c->s->map_reweight,
                       .rank = (uint32_t)c->s->map_rank, .bytes = SUMS_BYTES, .tick = tick, .arg = c,
                       .pack = { .on = !c->s->no_pack, .dir = c->s->pack_dir, .max_bytes = c->s->pack_cap << 20 } };
    err_code rc = notes ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
    if (!rc && c->s->inputs) rc = kvmap_inputs_parse(c->s->inputs, &t.inputs, e);
    if (!rc) rc = calibrate_lab(c, (lab_options){ .max_rows = 1 }, &l, e);
    if (!rc) {
        t.pool = lab_pool(l);
        t.isa = lab_isa(l);
        rc = kvlearn(&t, c->out, notes, e);
        if (!rc) say_how(c, &t);
    }
    if (!rc) summarize(c, notes, summary);
    lab_close(&l);
    free(notes);
    return rc;
}

err_code calibrate_predict(calibration *c, json_t *summary, err *e)
{
    static char digest[33]; /* calibrate.c reads it when this has returned */
    auxiliary *a = NULL;
    windows w = { 0 };
    err_code rc = c->s->aux ? auxiliary_open(&a, c->s->aux, c->g, e)
                            : err_set(e, ERR_USAGE, "--aux MODEL is missing: a small model, or " AUX_LAYERS "0,2,4,... of this one");
    if (!rc && !fill(c, &w)) rc = err_set(e, ERR_NOMEM, "out of memory for %zu windows", w.n);
    if (!rc) rc = learn(c, a, &w, summary, e);
    if (!rc) {
        memcpy(digest, a->digest, sizeof digest);
        c->auxiliary = digest;
        profile_put_text(c->out, PROFILE_PREDICT, "auxiliary", a->name);
        json_object_set_new(summary, "auxiliary", json_string(a->name));
        json_object_set_new(summary, "inputs", json_string(c->s->inputs ? c->s->inputs : kvmap_inputs_name(KVMAP_NEAR)));
    }
    windows_free(&w);
    auxiliary_close(&a);
    return rc;
}
