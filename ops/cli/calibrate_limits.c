#include "ops/cli/calibrate_limits.h"
#include "coordinator/route_policies.h"
#include "engine/route_probe.h"
#include "ops/cli/calibrate_docs.h"
#include <stdlib.h>

/* Every document's prompt is looked at once; the rules themselves then say how much each limit leaves out. */

enum { HALVINGS = 30 };

typedef struct {
    calibration *c;
    lab *l;
    route_probe *p;
    router *known;
    documents docs;
    float *pooled;             /* [L][D] */
    /* blocks: survive an interruption */
    uint32_t *done;            /* documents */
    double *damage, *rho;      /* [n][L] of each */
    double *entropy;           /* [n] */
} study;

static void *block(study *y, const char *name, size_t bytes)
{
    bool found;
    return calibrate_block(y->c, name, bytes, &found);
}

static bool open_blocks(study *y)
{
    size_t n = (size_t)y->docs.n * y->c->shape.L * sizeof(double);
    y->damage = block(y, "damage", n);
    y->rho = block(y, "rho", n);
    y->entropy = block(y, "entropy", y->docs.n * sizeof *y->entropy);
    y->done = block(y, "done.docs", sizeof *y->done);
    y->pooled = calloc((size_t)y->c->shape.L * y->c->shape.D, sizeof *y->pooled);
    return y->damage && y->rho && y->entropy && y->done && y->pooled;
}

/* The profile that this section is going into: its routers are what the limits are of. */
static err_code open_routers(study *y, err *e)
{
    const settings *s = y->c->s;
    text at = { 0 };
    profile *p = NULL;
    profile_binding want = { .model = gguf_digest(y->c->g), .path = path_name(y->c->path) };
    bool named = s->out ? text_adds(&at, s->out) : profile_beside(s->model, &at);
    err_code rc = named ? profile_open(&p, at.ptr, &want, e) : err_set(e, ERR_NOMEM, "out of memory");
    if (!rc) rc = router_open(&y->known, p, y->c->shape.L, y->c->shape.D, e);
    profile_close(&p);
    text_free(&at);
    return rc ? err_wrap(e, "limits are of routers") : ERR_OK;
}

static err_code look(study *y, uint32_t i, err *e)
{
    const document *d = &y->docs.doc[i];
    size_t at = (size_t)i * y->c->shape.L;
    err_code rc = route_probe_read(y->p, y->docs.tokens.id + d->at, d->n, d->prompt, NULL, e);
    if (rc) return rc;
    route_probe_features(y->p, y->pooled);
    router_look(y->known, y->pooled, y->damage + at);
    if (y->known->rho_w) router_rho(y->known, y->pooled, y->rho + at);
    y->entropy[i] = route_probe_entropy(y->p);
    return ERR_OK;
}

/* ---- bisection --------------------------------------------------------------------------------------------------------- */

/* The rule with this limit, and the share of all layers that it leaves out, mean over documents. */
static err_code share_at(const study *y, router_limit which, double limit, double *share, err *e)
{
    uint32_t L = y->c->shape.L;
    skip_rule r;
    err_code rc = skip_rule_parse(&r, which == LIMIT_EXIT ? "exit" : which == LIMIT_RHO ? "first:rho=1,routers=trained" : "first:damage=1", e);
    *(which == LIMIT_EXIT ? &r.q : which == LIMIT_RHO ? &r.rho : &r.damage) = limit;
    *share = 0;
    for (uint32_t i = 0; !rc && i < y->docs.n; i++) {
        layer_mask m;
        route_world w = { .L = L, .known = y->known, .damage = y->damage + (size_t)i * L, .rho = y->rho + (size_t)i * L, .entropy = &y->entropy[i] };
        rc = route_choose(&m, &r, &w, e);
        for (uint32_t l = 0; !rc && l < L; l++) *share += (m.at[l].attn != MASK_NEVER) / ((double)L * y->docs.n);
    }
    return rc;
}

/* Of damage and rho a greater limit leaves out more, of q less. */
static err_code find(const study *y, router_limit which, double want, double *out, err *e)
{
    double lo = 0, hi = which == LIMIT_DAMAGE ? 64 : 1, share;
    err_code rc = ERR_OK;
    for (int i = 0; !rc && i < HALVINGS; i++) {
        double mid = (lo + hi) / 2;
        rc = share_at(y, which, mid > 0 ? mid : 1e-300, &share, e);
        *((share < want) == (which == LIMIT_EXIT) ? &hi : &lo) = mid;
    }
    *out = (lo + hi) / 2;
    return rc;
}

static err_code put_limit(study *y, router_limit which, json_t *summary, err *e)
{
    double limit[ROUTER_CALM], share;
    json_t *list = json_array(), *got = json_array();
    err_code rc = ERR_OK;
    for (uint32_t i = 0; !rc && i < ROUTER_CALM; i++) {
        rc = find(y, which, (i + 1) * ROUTER_CALM_STEP, &limit[i], e);
        if (!rc) rc = share_at(y, which, limit[i], &share, e);
        if (rc) break;
        json_array_append_new(list, json_real(limit[i]));
        json_array_append_new(got, json_real(share));
    }
    if (!rc) profile_put_numbers(y->c->out, PROFILE_LIMITS, router_limit_names[which], limit, ROUTER_CALM);
    json_object_set_new(summary, router_limit_names[which], json_pack("{s:o,s:o}", "limit", list, "share", got));
    return rc;
}

static err_code make(study *y, json_t *summary, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t i = *y->done; !rc && i < y->docs.n; i = ++*y->done) {
        rc = calibrate_tick(y->c, i, y->docs.n, e);
        if (!rc) rc = look(y, i, e);
    }
    const bool has[ROUTER_LIMITS] = { [LIMIT_EXIT] = y->known->exits, [LIMIT_DAMAGE] = true, [LIMIT_RHO] = y->known->rho_w };
    for (int i = 0; !rc && i < ROUTER_LIMITS; i++)
        if (has[i]) rc = put_limit(y, (router_limit)i, summary, e);
    profile_put_number(y->c->out, PROFILE_LIMITS, "documents", y->docs.n);
    return rc;
}

err_code calibrate_limits(calibration *c, json_t *summary, err *e)
{
    study *y = calloc(1, sizeof *y);
    if (!y) return err_set(e, ERR_NOMEM, "out of memory");
    y->c = c;
    err_code rc = open_routers(y, e);
    if (!rc) rc = calibrate_documents(c, &y->docs, e);
    if (!rc && !open_blocks(y)) rc = err_set(e, ERR_NOMEM, "out of memory for what %u documents say", y->docs.n);
    if (!rc) rc = calibrate_lab(c, (lab_options){ .max_rows = CALIBRATE_DOC_MOST, .n_ctx = CALIBRATE_DOC_MOST }, &y->l, e);
    if (!rc) rc = route_probe_open(&y->p, y->l, CALIBRATE_DOC_MOST, c->path, e);
    if (!rc) rc = make(y, summary, e);
    route_probe_close(&y->p);
    lab_close(&y->l);
    router_close(&y->known);
    documents_free(&y->docs);
    free(y->pooled);
    free(y);
    return rc;
}
