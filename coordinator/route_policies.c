/* Masks by rules: fixed ones, by what calibration found, by what a prompt looks like. Runs no model. */
#include "coordinator/route_policies.h"
#include "core/rng.h"
#include <math.h>

/* First and last layer stay: without them nothing is left of any model (arXiv:2404.06954 keeps them too). */
static uint32_t inner(const route_world *w) { return w->L > 2 ? w->L - 2 : 0; }

static void leave_out(layer_mask *m, uint32_t layer, uint32_t what, uint32_t from)
{
    if (what & SKIP_ATTN) m->at[layer].attn = from;
    if (what & SKIP_FFN) m->at[layer].ffn = from;
}

static err_code how_many(const skip_rule *r, const route_world *w, uint32_t *n, err *e)
{
    *n = r->layers ? r->layers : (uint32_t)lround(r->share * w->L);
    if (*n <= inner(w)) return ERR_OK;
    return err_set(e, ERR_INPUT, "%u layers are to be left out; of this model's %u, all but the first and the last can be", *n, w->L);
}

static err_code by_list(layer_mask *m, const skip_rule *r, const route_world *w, uint32_t from, err *e)
{
    for (uint32_t l = 0; l < MASK_LAYERS; l++) {
        if (r->list[l] && l >= w->L) return err_set(e, ERR_INPUT, "layer %u is to be left out, the model has %u", l, w->L);
        if (r->list[l]) leave_out(m, l, r->list[l], from);
    }
    return ERR_OK;
}

/* K of the inner layers: a shuffle that stops after K. */
static void by_chance(layer_mask *m, const skip_rule *r, uint32_t n, uint32_t count, uint32_t from)
{
    uint32_t deck[MASK_LAYERS];
    for (uint32_t i = 0; i < count; i++) deck[i] = i + 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = i + (uint32_t)(rng_u64(r->seed, i) % (count - i)), l = deck[k];
        deck[k] = deck[i];
        leave_out(m, l, r->what, from);
    }
}

/* Evenly spread over the inner layers, each in the middle of its stretch: arXiv:2404.06954. */
static void by_distance(layer_mask *m, const skip_rule *r, uint32_t n, uint32_t count, uint32_t from)
{
    for (uint32_t i = 0; i < n; i++) leave_out(m, 1 + (2 * i + 1) * count / (2 * n), r->what, from);
}

static err_code needs_profile(const char *what, err *e)
{
    return err_set(e, ERR_CONFIG, "%s needs a profile of the model with section route (sluice calibrate --only route)", what);
}

/* What the profile says leaves out this share of the layers, mean over prompts. */
static err_code limit_for(const route_world *w, router_limit which, double share, double *out, err *e)
{
    if (!w->known || !w->known->limit[which])
        return err_set(e, ERR_CONFIG, "%s needs a profile of the model with its limits (sluice calibrate --only limits)", which == LIMIT_EXIT ? "exit:share=" : "first:mean=");
    *out = router_limit_at(w->known, which, share);
    return ERR_OK;
}

/* ---- by what calibration found ---------------------------------------------------------------------------------------- */

typedef struct { const route_world *w; const double *damage; layer_mask *m; uint32_t what, from, n; double spent; } choice_under_way;

static bool is_out(const layer_mask *m, uint32_t l) { return m->at[l].attn != MASK_NEVER || m->at[l].ffn != MASK_NEVER; }

/* What leaving out one more costs: damage is more than a sum where layers go that stand in for each other, neighbours above all. (Trained
 * routers have learned it beside each other.) */
static double price(const choice_under_way *k, uint32_t l)
{
    const router *known = k->w->known;
    double more = 0;
    if (k->damage == k->w->rho) return k->damage[l];
    for (uint32_t i = 0; i < k->w->L; i++) {
        double pair = known->pairs ? known->pairs[(size_t)l * known->L + i] : i + 1 == l || i == l + 1 ? known->neighbours : 0;
        if (pair > 0 && is_out(k->m, i)) more += pair;
    }
    return k->damage[l] + more;
}

/* The cheapest inner layer of [first, last) that is still in; 0: none. */
static uint32_t cheapest(const choice_under_way *k, uint32_t first, uint32_t last)
{
    uint32_t best = 0;
    for (uint32_t l = first ? first : 1; l < last && l + 1 < k->w->L; l++)
        if (!is_out(k->m, l) && (!best || price(k, l) < price(k, best))) best = l;
    return best;
}

static void take_out(choice_under_way *k, uint32_t l)
{
    k->spent += price(k, l);
    leave_out(k->m, l, k->what, k->from);
    k->n++;
}

static double stage_time(const route_world *w, const layer_mask *m, uint32_t i)
{
    double t = w->stage_more[i];
    for (uint32_t l = w->stage[i]; l < w->stage[i + 1]; l++) t += m && is_out(m, l) ? 0 : w->cost[l];
    return t;
}

static double slowest(const route_world *w, const layer_mask *m, uint32_t *at)
{
    double worst = -1;
    for (uint32_t i = 0; i < w->n_stages; i++) {
        double t = stage_time(w, m, i);
        if (t > worst) worst = t, *at = i;
    }
    return worst;
}

/* A pipeline is as fast as its slowest stage, so it is from there that layers go. */
static err_code until_fast(choice_under_way *k, double speed, err *e)
{
    uint32_t at = 0;
    double want = slowest(k->w, NULL, &at) / speed;
    while (slowest(k->w, k->m, &at) > want) {
        uint32_t l = cheapest(k, k->w->stage[at], k->w->stage[at + 1]);
        if (!l) return err_set(e, ERR_INPUT, "%.2f times as fast: stage %u has no more layers to leave out", speed, at);
        take_out(k, l);
    }
    return ERR_OK;
}

static err_code by_damage(layer_mask *m, const skip_rule *r, const route_world *w, uint32_t from, err *e)
{
    choice_under_way k = { w, w->damage ? w->damage : w->known->damage, m, r->what, from, 0, 0 };
    uint32_t n = 0, l;
    double most = r->damage;
    err_code rc = ERR_OK;
    if (r->speed > 0) return until_fast(&k, r->speed, e);
    if (r->mean > 0) rc = limit_for(w, LIMIT_DAMAGE, r->mean, &most, e);
    if (!rc && (r->damage > 0 || r->mean > 0)) {
        while ((l = cheapest(&k, 0, w->L)) && k.spent + price(&k, l) <= most) take_out(&k, l);
        return ERR_OK;
    }
    if (!rc) rc = how_many(r, w, &n, e);
    while (!rc && k.n < n) take_out(&k, cheapest(&k, 0, w->L));
    return rc;
}

/* What trained routers want to keep least goes first: by number, by speed, or all that is below the paper's threshold. */
static err_code by_rho(layer_mask *m, const skip_rule *r, const route_world *w, uint32_t from, err *e)
{
    uint32_t n = 0;
    double least = r->rho;
    if (!w->known->rho_w) return err_set(e, ERR_CONFIG, "routers=trained needs a profile of the model with section first (sluice profile take)");
    if (r->mean > 0 && limit_for(w, LIMIT_RHO, r->mean, &least, e)) return e->code;
    if (!w->rho) return ERR_OK; /* no prompt has been seen: that it can be followed is all */
    choice_under_way k = { w, w->rho, m, r->what, from, 0, 0 };
    if (r->speed > 0) return until_fast(&k, r->speed, e);
    err_code rc = least > 0 ? ERR_OK : how_many(r, w, &n, e);
    for (uint32_t l; !rc && (l = cheapest(&k, 0, w->L)) && (least > 0 ? w->rho[l] < least : k.n < n);) take_out(&k, l);
    return rc;
}

/* The order in which calibration left layers out together, for a number of them; budgets go by mean damage. */
static err_code by_order(layer_mask *m, const skip_rule *r, const route_world *w, uint32_t from, err *e)
{
    uint32_t n = 0;
    if (r->speed > 0 || r->damage > 0) return by_damage(m, r, w, from, e);
    err_code rc = how_many(r, w, &n, e);
    for (uint32_t i = 0; !rc && i < n; i++) leave_out(m, w->known->order[i], r->what, from);
    return rc;
}

/* The profile's stand-ins of a kind are what this mask wants. */
static void stands(layer_mask *m, const route_world *w, mask_stand kind)
{
    m->stand = kind;
    m->stand_id = w->stand_id[kind];
}

/* Halves of layers whose output is most like their input go, two for each layer of the budget, and the ratio of norms takes their place:
 * arXiv:2501.02336 section 3.2. */
static err_code by_similarity(layer_mask *m, const skip_rule *r, const route_world *w, uint32_t from, err *e)
{
    uint32_t n = 0;
    err_code rc = how_many(r, w, &n, e);
    if (!rc && !r->bare && !w->stand_id[MASK_SCALED])
        rc = err_set(e, ERR_CONFIG, "adaskip scales by ratios of norms, and the profile has none (sluice calibrate --only route; or scale=off)");
    if (!rc && !r->bare) stands(m, w, MASK_SCALED);
    for (uint32_t i = 0; !rc && i < 2 * n; i++) {
        uint32_t best = 0, what = SKIP_ATTN;
        double top = -2;
        for (uint32_t l = 1; l + 1 < w->L; l++) {
            if (m->at[l].attn == MASK_NEVER && w->known->sim_attn[l] > top) top = w->known->sim_attn[l], best = l, what = SKIP_ATTN;
            if (m->at[l].ffn == MASK_NEVER && w->known->sim_ffn[l] > top) top = w->known->sim_ffn[l], best = l, what = SKIP_FFN;
        }
        leave_out(m, best, what, from);
    }
    return rc;
}

/* FFNs go whose low ranks cost least beside each other. */
static err_code by_low_rank(layer_mask *m, const skip_rule *r, const route_world *w, err *e)
{
    uint32_t n = 0;
    if (!w->low_order) return err_set(e, ERR_CONFIG, "duo needs a profile of the model with section stand (sluice calibrate --only stand)");
    err_code rc = how_many(r, w, &n, e);
    for (uint32_t i = 0; !rc && i < n; i++) leave_out(m, w->low_order[i], SKIP_FFN, MASK_AFTER);
    stands(m, w, MASK_LOW_RANK);
    return rc;
}

/* ---- schedules ---------------------------------------------------------------------------------------------------------- */

/* Rows behind the prompt's end at which fewer than `layers` layers run: arXiv:2307.02628, n(t) = round(max - (max - min) min(t, N) / N). */
static uint32_t first_row_below(uint32_t layers, uint32_t most, uint32_t least, uint32_t over)
{
    for (uint32_t t = 0; t <= over; t++)
        if (lround((double)most - (double)(most - least) * t / over) < (long)layers) return t;
    return MASK_NEVER;
}

/* The paper runs `warm` layers at the bottom and the rest at the top, so the layers above the warm ones go first. Any other order
 * is as nested: what has gone once does not come back. */
static err_code by_schedule(layer_mask *m, const skip_rule *r, const route_world *w, err *e)
{
    uint32_t most = r->most ? r->most : (3 * w->L + 2) / 4, least = r->least ? r->least : (w->L + 2) / 3;
    uint32_t over = r->over ? r->over : w->answer ? w->answer : 1;
    if (most > w->L || least > most || r->warm >= least)
        return err_set(e, ERR_INPUT, "skipdecode of %u to %u layers, %u of them warm: the model has %u", most, least, r->warm, w->L);
    if (r->ordered && !w->known) return needs_profile("skipdecode by a learned order", e);
    for (uint32_t i = 0; i < w->L - least; i++) {
        uint32_t t = first_row_below(w->L - i, most, least, over);
        if (t != MASK_NEVER) leave_out(m, r->ordered ? w->known->order[i] : r->warm + i, r->what, MASK_AFTER | t);
    }
    return ERR_OK;
}

/* ---- by depth -------------------------------------------------------------------------------------------------------------- */

/* Layers above the one at which the session is deep enough, but for the last: the head was trained behind that one. */
static err_code by_exit(layer_mask *m, const skip_rule *r, const route_world *w, err *e)
{
    if (!w->known || !w->known->exits) return needs_profile("exit", e);
    double q = r->q;
    if (r->share > 0 && limit_for(w, LIMIT_EXIT, r->share, &q, e)) return e->code;
    if (!w->entropy) return ERR_OK;
    for (uint32_t l = router_exit(w->known, *w->entropy, q) + 1; l + 1 < w->L; l++) leave_out(m, l, SKIP_BOTH, MASK_AFTER);
    return ERR_OK;
}

/* ---- by what FFNs do ---------------------------------------------------------------------------------------------------- */

static err_code by_calm(layer_mask *m, const skip_rule *r, const route_world *w, err *e)
{
    mask_calm c = mask_calm_inner(w->L);
    c.from = MASK_AFTER | r->warm;
    c.theta = (float)r->theta;
    c.count = r->next ? r->next : MASK_CALM_ALL;
    if (r->cold != SKIP_BY_MODEL) c.first = r->cold;
    if (r->last != SKIP_BY_MODEL) c.last = r->last < w->L ? w->L - r->last : 0;
    if (c.first >= c.last) return err_set(e, ERR_INPUT, "ffn-skip: %u layers, %u of them cold and %u at the end on: none is left", w->L, c.first, w->L - c.last);
    if (r->share > 0 && (!w->known || !w->known->n_calm)) return needs_profile("ffn-skip by share", e);
    if (r->share > 0) c.theta = (float)router_calm(w->known, !r->next, r->share);
    if (r->patch && !w->low_order) return err_set(e, ERR_CONFIG, "patch=on needs a profile of the model with section stand (sluice calibrate --only stand)");
    if (r->patch) stands(m, w, MASK_LOW_RANK);
    m->calm = c;
    return ERR_OK;
}

err_code route_choose(layer_mask *out, const skip_rule *r, const route_world *w, err *e)
{
    uint32_t from = r->decode ? MASK_AFTER : 0, n = 0;
    err_code rc = ERR_OK;
    *out = mask_none(w->L);
    bool learned = r->kind == SKIP_FIXED || r->kind == SKIP_ADASKIP || r->kind == SKIP_FIRST;
    if (learned && !w->known) return needs_profile("this policy", e);
    if (r->kind == SKIP_RANDOM || r->kind == SKIP_UNIFIED) rc = how_many(r, w, &n, e);
    if (rc) return rc;
    switch (r->kind) {
    case SKIP_LIST: return by_list(out, r, w, from, e);
    case SKIP_RANDOM: by_chance(out, r, n, inner(w), from); break;
    case SKIP_UNIFIED: by_distance(out, r, n, inner(w), from); break;
    case SKIP_FIXED: return by_order(out, r, w, from, e);
    case SKIP_ADASKIP: return by_similarity(out, r, w, from, e);
    case SKIP_FIRST: return r->trained ? by_rho(out, r, w, from, e) : by_damage(out, r, w, from, e);
    case SKIP_DUO: return by_low_rank(out, r, w, e);
    case SKIP_EXIT: return by_exit(out, r, w, e);
    case SKIP_FFN_SKIP: return by_calm(out, r, w, e);
    case SKIP_SKIPDECODE: return by_schedule(out, r, w, e);
    default: break;
    }
    return ERR_OK;
}
