/* Masks by fixed rules. Looks at no prompt. */
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
    if (r->ordered && !w->order) return err_set(e, ERR_CONFIG, "skipdecode by a learned order needs a profile of the model (sluice calibrate)");
    for (uint32_t i = 0; i < w->L - least; i++) {
        uint32_t t = first_row_below(w->L - i, most, least, over);
        if (t != MASK_NEVER) leave_out(m, r->ordered ? w->order[i] : r->warm + i, r->what, MASK_AFTER | t);
    }
    return ERR_OK;
}

err_code route_choose(layer_mask *out, const skip_rule *r, const route_world *w, err *e)
{
    uint32_t from = r->decode ? MASK_AFTER : 0, n = 0;
    err_code rc = ERR_OK;
    *out = mask_none(w->L);
    if (r->kind == SKIP_RANDOM || r->kind == SKIP_UNIFIED) rc = how_many(r, w, &n, e);
    if (rc) return rc;
    switch (r->kind) {
    case SKIP_LIST: return by_list(out, r, w, from, e);
    case SKIP_RANDOM: by_chance(out, r, n, inner(w), from); break;
    case SKIP_UNIFIED: by_distance(out, r, n, inner(w), from); break;
    case SKIP_SKIPDECODE: return by_schedule(out, r, w, e);
    default: break;
    }
    return ERR_OK;
}
