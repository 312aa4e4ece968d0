#include "ops/cli/calibrate_route.h"
#include "ops/cli/calibrate_calm.h"
#include "ops/cli/calibrate_docs.h"
#include "ops/cli/calibrate_exit.h"
#include "engine/route_probe.h"
#include "engine/route_fit.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Section route: what leaving out each layer costs, layer by layer and half by half; which can go together; and routers that see it in a
 * prompt. A document is a prompt and what follows (documents.h). */

enum { FOLDS = 5, JOINT_DOCS = 24, PAIR_DOCS = 48, JOINT_WIDTH = 6, CALM_DOCS = 16 };
#define DELTA 0.02               /* nats a token: what a layer may cost and still be called expendable */

typedef struct {
    calibration *c;
    lab *l;
    route_probe *p;
    documents docs;
    const document *doc;         /* [n] of docs */
    uint32_t n, L, D;
    /* blocks: survive an interruption */
    uint32_t *done;              /* documents read; then steps of the joint order; then documents read for pairs */
    double *damage[PROBE_PARTS]; /* [n][L] */
    double *sim[PROBE_PARTS], *ratio[PROBE_PARTS];
    float *feature;              /* [n][L][D] */
    double *entropy, *exits;     /* [n] at the prompt's end; [n][L] damage without the layers between l and the last */
    double *joint;               /* [L] of the first 1, 2, ... layers of the order */
    uint32_t *order;             /* [L] */
    double *pairs;               /* [L][L] what two layers cost more than their parts, mean over documents; the sum so far */
} route;

static err_code split(route *r, err *e)
{
    err_code rc = calibrate_documents(r->c, &r->docs, e);
    r->n = r->docs.n;
    r->doc = r->docs.doc;
    return rc;
}

/* ---- measuring ----------------------------------------------------------------------------------------------------- */

static bool open_blocks(route *r)
{
    static const char *const names[3][PROBE_PARTS] = { { "damage", "damage.attn", "damage.ffn" }, { "sim", "sim.attn", "sim.ffn" }, { "ratio", "ratio.attn", "ratio.ffn" } };
    double **const at[3] = { r->damage, r->sim, r->ratio };
    bool found, ok = true;
    size_t n = (size_t)r->n * r->L;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < PROBE_PARTS; k++) ok = (at[i][k] = calibrate_block(r->c, names[i][k], n * sizeof(double), &found)) && ok;
    r->feature = calibrate_block(r->c, "feature", n * r->D * sizeof *r->feature, &found);
    r->entropy = calibrate_block(r->c, "entropy", r->n * sizeof *r->entropy, &found);
    r->exits = calibrate_block(r->c, "exits", n * sizeof *r->exits, &found);
    r->joint = calibrate_block(r->c, "joint", r->L * sizeof *r->joint, &found);
    r->order = calibrate_block(r->c, "order", r->L * sizeof *r->order, &found);
    r->pairs = calibrate_block(r->c, "pairs", (size_t)r->L * r->L * sizeof *r->pairs, &found);
    r->done = calibrate_block(r->c, "done.docs", 3 * sizeof *r->done, &found);
    return ok && r->feature && r->entropy && r->exits && r->joint && r->order && r->pairs && r->done;
}

static uint32_t joint_steps(const route *r) { return r->L > 2 ? (r->L - 2) * 2 / 3 : 0; }

static err_code exits_of(route *r, double *damage, err *e)
{
    err_code rc = ERR_OK;
    layer_mask m = mask_none(r->L);
    damage[r->L - 1] = damage[r->L - 2] = 0;
    for (uint32_t l = r->L - 2; !rc && l > 0; l--) {
        m.at[l] = (mask_layer){ 0, 0 };
        rc = route_probe_without(r->p, &m, &damage[l - 1], NULL, e);
    }
    return rc;
}

static uint32_t pair_docs(const route *r) { return r->n < PAIR_DOCS ? r->n : PAIR_DOCS; }
static uint32_t total_steps(const route *r) { return r->n + joint_steps(r) + pair_docs(r); }

static err_code read_all(route *r, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t i = *r->done; !rc && i < r->n; i = ++*r->done) {
        probe_report out = { .feature = r->feature + (size_t)i * r->L * r->D };
        for (int k = 0; k < PROBE_PARTS; k++) {
            out.damage[k] = r->damage[k] + (size_t)i * r->L;
            out.sim[k] = r->sim[k] + (size_t)i * r->L;
            out.ratio[k] = r->ratio[k] + (size_t)i * r->L;
        }
        rc = calibrate_tick(r->c, i, total_steps(r), e);
        if (!rc) rc = route_probe_read(r->p, r->docs.tokens.id + r->doc[i].at, r->doc[i].n, r->doc[i].prompt, &out, e);
        if (!rc) rc = exits_of(r, r->exits + (size_t)i * r->L, e);
        r->entropy[i] = out.entropy;
    }
    return rc;
}

static void mean_of(const route *r, const double *x, double *out)
{
    memset(out, 0, r->L * sizeof *out);
    for (uint32_t i = 0; i < r->n; i++)
        for (uint32_t l = 0; l < r->L; l++) out[l] += x[(size_t)i * r->L + l] / r->n;
}

/* ---- which can go together ----------------------------------------------------------------------------------------- */

static err_code cost_of(route *r, const layer_mask *m, double *sum, err *e)
{
    err_code rc = ERR_OK;
    uint32_t docs = r->n < JOINT_DOCS ? r->n : JOINT_DOCS;
    *sum = 0;
    for (uint32_t k = 0; !rc && k < docs; k++) {
        const document *d = &r->doc[(size_t)k * r->n / docs];
        double x = 0;
        rc = route_probe_read(r->p, r->docs.tokens.id + d->at, d->n, d->prompt, NULL, e);
        if (!rc) rc = route_probe_without(r->p, m, &x, NULL, e);
        *sum += x / docs;
    }
    return rc;
}

static bool is_taken(const route *r, uint32_t n, uint32_t l)
{
    for (uint32_t i = 0; i < n; i++)
        if (r->order[i] == l) return true;
    return false;
}

/* The untaken inner layer with the least damage of its own above `least`, by rank. */
static uint32_t candidate_at(const route *r, const double *mean, uint32_t taken, uint32_t rank)
{
    uint32_t found = 0;
    for (uint32_t l = 1; l + 1 < r->L; l++) {
        uint32_t below = 0;
        if (is_taken(r, taken, l)) continue;
        for (uint32_t k = 1; k + 1 < r->L; k++) below += !is_taken(r, taken, k) && (mean[k] < mean[l] || (mean[k] == mean[l] && k < l));
        if (below == rank) found = l;
    }
    return found;
}

/* A layer at a time, the one that costs least beside those that have gone already: damage is not a sum. Of the candidates, those with the
 * least damage of their own are tried. */
static err_code order_layers(route *r, const double *mean, err *e)
{
    err_code rc = ERR_OK;
    layer_mask m = mask_none(r->L);
    uint32_t steps = joint_steps(r);
    for (uint32_t i = 0; i < r->done[1]; i++) m.at[r->order[i]] = (mask_layer){ 0, 0 };
    for (uint32_t i = r->done[1]; !rc && i < steps; i = ++r->done[1]) {
        double best = INFINITY, x;
        uint32_t take = 0;
        rc = calibrate_tick(r->c, r->n + i, total_steps(r), e);
        for (uint32_t k = 0; !rc && k < JOINT_WIDTH; k++) {
            uint32_t l = candidate_at(r, mean, i, k);
            if (!l) break;
            layer_mask with = m;
            with.at[l] = (mask_layer){ 0, 0 };
            rc = cost_of(r, &with, &x, e);
            if (x < best) best = x, take = l;
        }
        r->order[i] = take;
        r->joint[i] = best;
        if (take) m.at[take] = (mask_layer){ 0, 0 };
    }
    for (uint32_t i = steps; !rc && i + 2 < r->L; i++) r->order[i] = candidate_at(r, mean, i, 0);
    r->order[r->L - 2] = r->L - 1; /* the ends go last of all */
    r->order[r->L - 1] = 0;
    return rc;
}

/* Inner layers two at a time, on documents from all over the text. */
static err_code pairs_of(route *r, uint32_t doc, err *e)
{
    const document *d = &r->doc[doc];
    const double *alone = r->damage[PROBE_BOTH] + (size_t)doc * r->L;
    err_code rc = route_probe_read(r->p, r->docs.tokens.id + d->at, d->n, d->prompt, NULL, e);
    for (uint32_t a = 1; a + 2 < r->L; a++)
        for (uint32_t b = a + 1; !rc && b + 1 < r->L; b++) {
            layer_mask m = mask_none(r->L);
            double x = 0;
            m.at[a] = m.at[b] = (mask_layer){ 0, 0 };
            rc = route_probe_without(r->p, &m, &x, NULL, e);
            r->pairs[(size_t)a * r->L + b] += (x - alone[a] - alone[b]) / pair_docs(r);
            r->pairs[(size_t)b * r->L + a] = r->pairs[(size_t)a * r->L + b];
        }
    return rc;
}

static err_code measure_pairs(route *r, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t i = r->done[2]; !rc && i < pair_docs(r); i++) {
        rc = calibrate_tick(r->c, r->n + joint_steps(r) + i, total_steps(r), e);
        if (!rc) rc = pairs_of(r, (uint32_t)((uint64_t)i * r->n / pair_docs(r)), e);
        if (!rc) r->done[2] = i + 1;
    }
    return rc;
}

/* How much more a pair of neighbours costs than its parts, by least squares over the steps of the order. */
static double neighbours_cost(const route *r, const double *mean)
{
    double xy = 0, xx = 0, sum = 0;
    for (uint32_t n = 1; n <= joint_steps(r); n++) {
        uint32_t pairs = 0;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k = 0; k < n; k++) pairs += r->order[i] + 1 == r->order[k];
        sum += mean[r->order[n - 1]];
        xy += pairs * (r->joint[n - 1] - sum);
        xx += (double)pairs * pairs;
    }
    return xx > 0 ? xy / xx : 0;
}

/* ---- FFNs by what they do ----------------------------------------------------------------------------------------------- */

static err_code calm_thetas(route *r, double theta[2 * ROUTER_CALM], err *e)
{
    uint32_t n = r->n < CALM_DOCS ? r->n : CALM_DOCS;
    err_code rc = calibrate_calm(r->p, r->L, 1, &r->docs, n, theta, e);
    return rc ? rc : calibrate_calm(r->p, r->L, MASK_CALM_ALL, &r->docs, n, theta + ROUTER_CALM, e);
}

/* ---- how deep ------------------------------------------------------------------------------------------------------------ */

static json_t *list_of(const double *x, uint32_t n)
{
    json_t *a = json_array();
    for (uint32_t i = 0; i < n; i++) json_array_append_new(a, json_real(isfinite(x[i]) ? x[i] : 0));
    return a;
}

static err_code put_exits(route *r, json_t *summary, err *e)
{
    double bias[MASK_LAYERS], slope[MASK_LAYERS], share[MASK_LAYERS], mean[MASK_LAYERS];
    err_code rc = calibrate_exit(r->exits, r->entropy, r->n, r->L, bias, slope, share, e);
    if (rc) return rc;
    mean_of(r, r->exits, mean);
    profile_put_numbers(r->c->out, PROFILE_ROUTE, "exit_bias", bias, r->L);
    profile_put_numbers(r->c->out, PROFILE_ROUTE, "exit_slope", slope, r->L);
    profile_put_numbers(r->c->out, PROFILE_ROUTE, "exit_damage", mean, r->L);
    json_object_set_new(summary, "exit_damage", list_of(mean, r->L));
    json_object_set_new(summary, "exit_share", list_of(share, r->L));
    json_object_set_new(summary, "exit_slope", list_of(slope, r->L));
    return ERR_OK;
}

/* ---- what goes into the profile -------------------------------------------------------------------------------------- */

static void put_means(route *r)
{
    static const char *const names[3][PROBE_PARTS] = { { "damage", "damage_attn", "damage_ffn" }, { "sim", "sim_attn", "sim_ffn" }, { "ratio", "ratio_attn", "ratio_ffn" } };
    double **const at[3] = { r->damage, r->sim, r->ratio };
    double mean[MASK_LAYERS];
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < PROBE_PARTS; k++) {
            mean_of(r, at[i][k], mean);
            profile_put_numbers(r->c->out, PROFILE_ROUTE, names[i][k], mean, r->L);
        }
}

static void put_order(route *r, const double *mean)
{
    double order[MASK_LAYERS];
    for (uint32_t i = 0; i < r->L; i++) order[i] = r->order[i];
    profile_put_numbers(r->c->out, PROFILE_ROUTE, "order", order, r->L);
    profile_put_numbers(r->c->out, PROFILE_ROUTE, "joint", r->joint, joint_steps(r));
    profile_put_number(r->c->out, PROFILE_ROUTE, "neighbours", neighbours_cost(r, mean));
    profile_put_numbers(r->c->out, PROFILE_ROUTE, "pairs", r->pairs, (uint64_t)r->L * r->L);
}

static void put_routers(route *r, const route_fit *f)
{
    profile_writer *w = r->c->out;
    for (uint32_t l = 0; l < r->L; l++) {
        profile_put_floats(w, PROFILE_ROUTE, l, "w", WTYPE_F32, r->D, 1, f->w + (size_t)l * r->D);
        profile_put_floats(w, PROFILE_ROUTE, l, "gate", WTYPE_F32, r->D, 1, f->gate_w + (size_t)l * r->D);
    }
    const struct { const char *name; const double *x; } list[] = {
        { "bias", f->b }, { "gate_bias", f->gate_b }, { "auc", f->auc }, { "gate_auc", f->gate_auc }, { "r2", f->r2 },
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) profile_put_numbers(w, PROFILE_ROUTE, list[i].name, list[i].x, r->L);
    profile_put_number(w, PROFILE_ROUTE, "eps", ROUTE_EPS);
    profile_put_number(w, PROFILE_ROUTE, "delta", DELTA);
    profile_put_number(w, PROFILE_ROUTE, "documents", r->n);
}

static void summarize(const route *r, const route_fit *f, const double *mean, json_t *out)
{
    json_t *regrets = json_array(), *order = json_array();
    for (int i = 0; i < 3; i++) {
        const route_regret *g = &f->regret[i];
        json_array_append_new(regrets, json_pack("{s:i,s:f,s:f,s:f,s:f}", "layers", (int)g->layers, "router", g->router, "fixed", g->fixed, "oracle",
                                                 g->oracle, "random", g->random));
    }
    for (uint32_t i = 0; i < r->L; i++) json_array_append_new(order, json_integer(r->order[i]));
    json_object_set_new(out, "documents", json_integer(r->n));
    json_object_set_new(out, "damage", list_of(mean, r->L));
    json_object_set_new(out, "order", order);
    json_object_set_new(out, "joint", list_of(r->joint, joint_steps(r)));
    json_object_set_new(out, "neighbours", json_real(neighbours_cost(r, mean)));
    json_object_set_new(out, "auc", list_of(f->auc, r->L));
    json_object_set_new(out, "gate_auc", list_of(f->gate_auc, r->L));
    json_object_set_new(out, "r2", list_of(f->r2, r->L));
    json_object_set_new(out, "lambda", json_real(f->lambda));
    json_object_set_new(out, "held_out", regrets);
}

static err_code fit(route *r, json_t *summary, err *e)
{
    double mean[MASK_LAYERS], calm[2 * ROUTER_CALM];
    route_fit f;
    mean_of(r, r->damage[PROBE_BOTH], mean);
    err_code rc = order_layers(r, mean, e);
    if (!rc) rc = measure_pairs(r, e);
    if (!rc) rc = calm_thetas(r, calm, e);
    route_data d = { r->n, r->L, r->D, r->feature, r->damage[PROBE_BOTH], FOLDS, DELTA };
    if (!rc) rc = put_exits(r, summary, e);
    if (!rc) rc = route_fit_make(&f, &d, e);
    if (rc) return rc;
    put_means(r);
    put_order(r, mean);
    put_routers(r, &f);
    profile_put_numbers(r->c->out, PROFILE_ROUTE, "calm", calm, ROUTER_CALM);
    profile_put_numbers(r->c->out, PROFILE_ROUTE, "calm_all", calm + ROUTER_CALM, ROUTER_CALM);
    json_object_set_new(summary, "calm", list_of(calm, 2 * ROUTER_CALM));
    summarize(r, &f, mean, summary);
    route_fit_free(&f);
    return ERR_OK;
}

err_code calibrate_route(calibration *c, json_t *summary, err *e)
{
    route *r = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_NOMEM, "out of memory");
    r->c = c;
    r->L = c->shape.L;
    r->D = c->shape.D;
    err_code rc = r->L > 3 ? ERR_OK : err_set(e, ERR_MODEL, "a model of %u layers has none to leave out", r->L);
    if (!rc) rc = split(r, e);
    if (!rc && !open_blocks(r)) rc = err_set(e, ERR_NOMEM, "out of memory for what %u documents say", r->n);
    if (!rc) rc = calibrate_lab(c, (lab_options){ .max_rows = CALIBRATE_DOC_MOST, .n_ctx = CALIBRATE_DOC_MOST }, &r->l, e);
    if (!rc) rc = route_probe_open(&r->p, r->l, CALIBRATE_DOC_MOST, c->path, e);
    if (!rc) rc = read_all(r, e);
    if (!rc) rc = fit(r, summary, e);
    route_probe_close(&r->p);
    lab_close(&r->l);
    documents_free(&r->docs);
    free(r);
    return rc;
}
