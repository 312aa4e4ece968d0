#include "engine/router.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static err_code read_numbers(router *r, const profile *p, err *e)
{
    const struct { const char *name; double **to; } list[] = {
        { "damage", &r->damage }, { "sim_attn", &r->sim_attn }, { "sim_ffn", &r->sim_ffn }, { "bias", &r->bias }, { "gate_bias", &r->gate_bias },
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        *list[i].to = malloc(r->L * sizeof(double));
        if (!*list[i].to) return err_set(e, ERR_NOMEM, "out of memory for the routers of %u layers", r->L);
        if (!profile_numbers(p, PROFILE_ROUTE, list[i].name, *list[i].to, r->L))
            return err_set(e, ERR_MODEL, "%s: route.%s has not %u numbers", profile_file(p), list[i].name, r->L);
    }
    if (!profile_number(p, PROFILE_ROUTE, "neighbours", &r->neighbours) || !profile_number(p, PROFILE_ROUTE, "eps", &r->eps) || !(r->eps > 0))
        return err_set(e, ERR_MODEL, "%s: route.neighbours or route.eps is missing", profile_file(p));
    return ERR_OK;
}

/* Not in profiles of before. */
static err_code read_calm(router *r, const profile *p, err *e)
{
    r->calm = malloc(2 * ROUTER_CALM * sizeof *r->calm);
    r->calm_all = r->calm + ROUTER_CALM;
    if (!r->calm) return err_set(e, ERR_NOMEM, "out of memory");
    bool ok = profile_numbers(p, PROFILE_ROUTE, "calm", r->calm, ROUTER_CALM) && profile_numbers(p, PROFILE_ROUTE, "calm_all", r->calm_all, ROUTER_CALM);
    if (ok) r->n_calm = ROUTER_CALM;
    return ERR_OK;
}

static err_code read_exits(router *r, const profile *p, err *e)
{
    r->exit_bias = malloc(2 * r->L * sizeof *r->exit_bias);
    if (!r->exit_bias) return err_set(e, ERR_NOMEM, "out of memory");
    r->exit_slope = r->exit_bias + r->L;
    r->exits = profile_numbers(p, PROFILE_ROUTE, "exit_bias", r->exit_bias, r->L) && profile_numbers(p, PROFILE_ROUTE, "exit_slope", r->exit_slope, r->L);
    return ERR_OK;
}

uint32_t router_exit(const router *r, double entropy, double q)
{
    double stays = 1;
    for (uint32_t l = 0; l + 2 < r->L; l++) {
        stays *= 1 - 1 / (1 + exp(-(r->exit_bias[l] + r->exit_slope[l] * entropy)));
        if (1 - stays >= q) return l;
    }
    return r->L - 1;
}

/* Between the measured points; `none` is what leaves out nothing. */
static double between(const double *x, double none, double share)
{
    double at = share / ROUTER_CALM_STEP;
    uint32_t i = at < ROUTER_CALM ? (uint32_t)at : ROUTER_CALM;
    double below = i ? x[i - 1] : none;
    return i == ROUTER_CALM ? below : below + (at - i) * (x[i] - below);
}

double router_calm(const router *r, bool all, double share) { return between(all ? r->calm_all : r->calm, 1, share); }

const char *const router_limit_names[ROUTER_LIMITS] = { [LIMIT_EXIT] = "exit", [LIMIT_DAMAGE] = "damage", [LIMIT_RHO] = "rho" };

double router_limit_at(const router *r, router_limit which, double share) { return between(r->limit[which], which == LIMIT_EXIT ? 1 : 0, share); }

/* Section limits, what it has of it. */
static err_code read_limits(router *r, const profile *p, err *e)
{
    for (int i = 0; i < ROUTER_LIMITS && profile_has(p, PROFILE_LIMITS); i++) {
        double x[ROUTER_CALM];
        if (!profile_numbers(p, PROFILE_LIMITS, router_limit_names[i], x, ROUTER_CALM)) continue;
        r->limit[i] = malloc(sizeof x);
        if (!r->limit[i]) return err_set(e, ERR_NOMEM, "out of memory for limits");
        memcpy(r->limit[i], x, sizeof x);
    }
    return ERR_OK;
}

/* Each layer once. */
static err_code read_order(router *r, const profile *p, err *e)
{
    double *x = calloc(2 * r->L, sizeof *x);
    bool ok = x && profile_numbers(p, PROFILE_ROUTE, "order", x, r->L);
    r->order = malloc(r->L * sizeof *r->order);
    for (uint32_t i = 0; ok && r->order && i < r->L; i++) {
        ok = x[i] >= 0 && x[i] < r->L && !x[r->L + (uint32_t)x[i]];
        if (!ok) break;
        r->order[i] = (uint32_t)x[i];
        x[r->L + r->order[i]] = 1;
    }
    free(x);
    if (!r->order) return err_set(e, ERR_NOMEM, "out of memory for the order of %u layers", r->L);
    return ok ? ERR_OK : err_set(e, ERR_MODEL, "%s: route.order does not name %u layers once each", profile_file(p), r->L);
}

/* Of no use when it is not there, as in profiles of before. */
static err_code read_pairs(router *r, const profile *p, err *e)
{
    uint64_t n = (uint64_t)r->L * r->L;
    r->pairs = malloc(n * sizeof *r->pairs);
    if (!r->pairs) return err_set(e, ERR_NOMEM, "out of memory for pairs of %u layers", r->L);
    if (profile_numbers(p, PROFILE_ROUTE, "pairs", r->pairs, n)) return ERR_OK;
    free(r->pairs);
    r->pairs = NULL;
    return ERR_OK;
}

/* Section first: w [D] by layer, bias [L]. */
static err_code read_trained(router *r, const profile *p, err *e)
{
    err_code rc = ERR_OK;
    if (!profile_has(p, PROFILE_FIRST)) return ERR_OK;
    r->rho_w = malloc((size_t)r->L * r->D * sizeof *r->rho_w);
    r->rho_b = malloc(r->L * sizeof *r->rho_b);
    if (!r->rho_w || !r->rho_b) return err_set(e, ERR_NOMEM, "out of memory for the trained routers of %u layers", r->L);
    if (!profile_numbers(p, PROFILE_FIRST, "bias", r->rho_b, r->L)) rc = err_set(e, ERR_MODEL, "%s: first.bias has not %u numbers", profile_file(p), r->L);
    for (uint32_t l = 0; !rc && l < r->L; l++) rc = profile_floats(p, PROFILE_FIRST, l, "w", r->D, 1, r->rho_w + (size_t)l * r->D, e);
    return rc;
}

err_code router_open(router **out, const profile *p, uint32_t L, uint32_t D, err *e)
{
    *out = NULL;
    err_code rc = profile_need(p, PROFILE_ROUTE, e);
    router *r = rc ? NULL : calloc(1, sizeof *r);
    if (!r) return rc ? rc : err_set(e, ERR_NOMEM, "out of memory");
    r->L = L;
    r->D = D;
    r->w = malloc((size_t)L * D * sizeof *r->w);
    r->gate = malloc((size_t)L * D * sizeof *r->gate);
    if (!r->w || !r->gate) rc = err_set(e, ERR_NOMEM, "out of memory for the routers of %u layers", L);
    if (!rc) rc = read_numbers(r, p, e);
    if (!rc) rc = read_order(r, p, e);
    if (!rc) rc = read_calm(r, p, e);
    if (!rc) rc = read_exits(r, p, e);
    if (!rc) rc = read_pairs(r, p, e);
    if (!rc) rc = read_trained(r, p, e);
    if (!rc) rc = read_limits(r, p, e);
    for (uint32_t l = 0; !rc && l < L; l++) {
        rc = profile_floats(p, PROFILE_ROUTE, l, "w", D, 1, r->w + (size_t)l * D, e);
        if (!rc) rc = profile_floats(p, PROFILE_ROUTE, l, "gate", D, 1, r->gate + (size_t)l * D, e);
    }
    if (rc) router_close(&r);
    *out = r;
    return rc;
}

void router_close(router **rp)
{
    router *r = *rp;
    if (!r) return;
    void *mem[] = { r->exit_bias, r->calm, r->damage, r->sim_attn, r->sim_ffn, r->order, r->bias, r->gate_bias, r->w, r->gate, r->rho_w, r->rho_b, r->pairs, r->limit[LIMIT_EXIT], r->limit[LIMIT_DAMAGE], r->limit[LIMIT_RHO] };
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++) free(mem[i]);
    free(r);
    *rp = NULL;
}

static double score(const router *r, const float *w, double b, uint32_t l, const float *pooled)
{
    for (uint32_t i = 0; i < r->D; i++) b += (double)w[(size_t)l * r->D + i] * (double)pooled[(size_t)l * r->D + i];
    return b;
}

void router_look(const router *r, const float *pooled, double *damage)
{
    for (uint32_t l = 0; l < r->L; l++) {
        double s = score(r, r->w, r->bias[l], l, pooled), x = exp(s < 20 ? s : 20) - r->eps;
        damage[l] = x > 0 ? x : 0;
    }
}

void router_rho(const router *r, const float *pooled, double *rho)
{
    for (uint32_t l = 0; l < r->L; l++) rho[l] = 1 / (1 + exp(-score(r, r->rho_w, r->rho_b[l], l, pooled)));
}
