/* Stand-ins as a profile has them: loads a shard's part, and says which they are. Fits nothing and multiplies nothing. */
#include "engine/stand_in.h"
#include "engine/quantize.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct stand_ins {
    uint32_t first, last, rank;
    low_rank *ffn;            /* [last - first], of matrices in `held`; NULL: no low ranks */
    uint8_t *held;
    float *bias;              /* [last - first][D] */
    uint32_t *order;          /* [layers of the model]; NULL: nobody knows */
    float *scale;             /* [last - first][2]: attention, FFN; NULL: no ratios */
    uint32_t id[MASK_STANDS];
};

wtype stand_in_type(const model_shape *s, uint32_t rank) { return s->D % 32 || rank % 32 ? WTYPE_F16 : WTYPE_Q8_0; }

/* Neither 0 nor what a mask cannot say. */
static uint32_t id_of(uint64_t hash) { return (uint32_t)(hash % (UINT32_MAX - 1)) + 1; }

/* ---- low ranks ----------------------------------------------------------------------------------------------------- */

typedef struct { size_t a, b; } sizes;       /* bytes of the two matrices of a layer */

static sizes sizes_of(const model_shape *s, uint32_t rank)
{
    wtype t = stand_in_type(s, rank);
    return (sizes){ wtype_row_bytes(t, s->D) * rank, wtype_row_bytes(t, rank) * s->D };
}

static err_code make_room(stand_ins *x, const model_shape *s, uint32_t rank, err *e)
{
    uint32_t n = x->last - x->first;
    sizes z = sizes_of(s, rank);
    wtype t = stand_in_type(s, rank);
    x->rank = rank;
    x->ffn = calloc(n + 1, sizeof *x->ffn);
    x->held = malloc(n * (z.a + z.b) + 1);
    x->bias = malloc(((size_t)n * s->D + 1) * sizeof *x->bias);
    if (!x->ffn || !x->held || !x->bias) return err_set(e, ERR_NOMEM, "out of memory for the stand-ins of %u layers", n);
    for (uint32_t i = 0; i < n; i++) {
        x->ffn[i].a = (mat){ .type = t, .n_out = rank, .n_in = s->D, .row_bytes = wtype_row_bytes(t, s->D), .data = x->held + i * (z.a + z.b) };
        x->ffn[i].b = (mat){ .type = t, .n_out = s->D, .n_in = rank, .row_bytes = wtype_row_bytes(t, rank), .data = x->held + i * (z.a + z.b) + z.a };
        x->ffn[i].bias = x->bias + (size_t)i * s->D;
    }
    return ERR_OK;
}

static err_code load_matrix(const stand_ins *x, const profile *p, uint32_t layer, const char *name, const mat *w, err *e)
{
    profile_data m;
    size_t bytes = w->row_bytes * w->n_out;
    err_code rc = profile_map(p, PROFILE_STAND, layer, name, &m, e);
    if (rc) return rc;
    if (m.n0 != w->n_in || m.n1 != w->n_out || m.type != w->type)
        rc = err_set(e, ERR_MODEL, "%s: stand.%u.%s is %" PRIu64 " x %" PRIu64 " of %s, want %u x %u of %s", profile_file(p), layer, name, m.n0, m.n1,
                     wtypes[m.type].name, w->n_in, w->n_out, wtypes[w->type].name);
    else memcpy(x->held + (w->data - x->held), m.data, bytes);
    profile_unmap(&m);
    return rc;
}

static err_code load_layer(const stand_ins *x, const profile *p, const model_shape *s, uint32_t layer, err *e)
{
    low_rank *f = &x->ffn[layer - x->first];
    if (!profile_find(p, PROFILE_STAND, layer, "a")) return f->a.data = f->b.data = NULL, ERR_OK; /* one of the ends */
    err_code rc = load_matrix(x, p, layer, "a", &f->a, e);
    if (!rc) rc = load_matrix(x, p, layer, "b", &f->b, e);
    return rc ? rc : profile_floats(p, PROFILE_STAND, layer, "bias", s->D, 1, x->bias + (size_t)(layer - x->first) * s->D, e);
}

/* Each layer once. */
static err_code load_order(stand_ins *x, const profile *p, uint32_t L, err *e)
{
    double *order = calloc(2 * L, sizeof *order);
    x->order = malloc(L * sizeof *x->order);
    bool there = order && x->order, ok = there && profile_numbers(p, PROFILE_STAND, "order", order, L);
    for (uint32_t i = 0; ok && i < L; i++) {
        ok = order[i] >= 0 && order[i] < L && !order[L + (uint32_t)order[i]];
        if (!ok) break;
        x->order[i] = (uint32_t)order[i];
        order[L + x->order[i]] = 1;
    }
    free(order);
    if (!there) return err_set(e, ERR_NOMEM, "out of memory for the order of %u layers", L);
    return ok ? ERR_OK : err_set(e, ERR_MODEL, "%s: stand.order does not name %u layers once each", profile_file(p), L);
}

static err_code load_low_ranks(stand_ins *x, const profile *p, const model_shape *s, err *e)
{
    double rank;
    if (!profile_has(p, PROFILE_STAND)) return ERR_OK;
    if (!profile_number(p, PROFILE_STAND, "rank", &rank) || !(rank >= 1 && rank <= s->F && rank <= s->D) || rank != floor(rank))
        return err_set(e, ERR_MODEL, "%s: stand.rank is missing, or not 1 to %u", profile_file(p), s->F < s->D ? s->F : s->D);
    err_code rc = make_room(x, s, (uint32_t)rank, e);
    if (!rc) rc = load_order(x, p, s->L, e);
    for (uint32_t l = x->first; !rc && l < x->last; l++) rc = load_layer(x, p, s, l, e);
    x->id[MASK_LOW_RANK] = id_of(profile_section_hash(p, PROFILE_STAND));
    return rc;
}

/* ---- ratios -------------------------------------------------------------------------------------------------------- */

static err_code load_ratios(stand_ins *x, const profile *p, uint32_t L, err *e)
{
    double *ratio = malloc(2 * L * sizeof *ratio);
    if (!ratio) return err_set(e, ERR_NOMEM, "out of memory for the ratios of %u layers", L);
    bool ok = profile_has(p, PROFILE_ROUTE) && profile_numbers(p, PROFILE_ROUTE, "ratio_attn", ratio, L) && profile_numbers(p, PROFILE_ROUTE, "ratio_ffn", ratio + L, L);
    for (uint32_t i = 0; ok && i < 2 * L; i++) ok = ratio[i] > 0 && ratio[i] < 1e6;
    if (ok) {
        x->id[MASK_SCALED] = id_of(XXH3_64bits(ratio, 2 * L * sizeof *ratio));
        x->scale = malloc((2 * (size_t)(x->last - x->first) + 1) * sizeof *x->scale);
    }
    for (uint32_t l = x->first; x->scale && l < x->last; l++)
        for (uint32_t half = 0; half < 2; half++) x->scale[2 * (l - x->first) + half] = (float)ratio[half * L + l];
    free(ratio);
    return ok && !x->scale ? err_set(e, ERR_NOMEM, "out of memory for the ratios of %u layers", L) : ERR_OK;
}

/* ---- the door ------------------------------------------------------------------------------------------------------ */

static err_code stand_ins_new(stand_ins **out, uint32_t first, uint32_t last, err *e)
{
    *out = calloc(1, sizeof **out);
    if (!*out) return err_set(e, ERR_NOMEM, "out of memory");
    (*out)->first = first;
    (*out)->last = last;
    return ERR_OK;
}

err_code stand_ins_open(stand_ins **out, const profile *p, const model_shape *s, uint32_t first, uint32_t last, err *e)
{
    err_code rc = stand_ins_new(out, first, last, e);
    if (rc) return rc;
    stand_ins *x = *out;
    rc = load_low_ranks(x, p, s, e);
    if (!rc) rc = load_ratios(x, p, s->L, e);
    if (rc || (!x->ffn && !x->scale)) stand_ins_close(out);
    return rc;
}

static bool round_matrix(const mat *w, const float *x, uint8_t *to)
{
    bool ok = true;
    for (uint32_t o = 0; ok && o < w->n_out; o++) ok = quantize_row(w->type, x + (size_t)o * w->n_in, w->n_in, to + o * w->row_bytes);
    return ok;
}

err_code stand_ins_make(stand_ins **out, const model_shape *s, uint32_t rank, const float *a, const float *b, const float *bias, err *e)
{
    err_code rc = stand_ins_new(out, 0, s->L, e);
    if (!rc) rc = make_room(*out, s, rank, e);
    for (uint32_t l = 0; !rc && l < s->L; l++) {
        const low_rank *f = &(*out)->ffn[l];
        uint8_t *to = (*out)->held + (f->a.data - (*out)->held);
        size_t n = (size_t)rank * s->D;
        if (!round_matrix(&f->a, a + l * n, to) || !round_matrix(&f->b, b + l * n, to + f->a.row_bytes * rank))
            rc = err_set(e, ERR_STATE, "the stand-in of layer %u has values that cannot be stored", l);
    }
    if (!rc) memcpy((*out)->bias, bias, (size_t)s->L * s->D * sizeof *bias), (*out)->id[MASK_LOW_RANK] = 1;
    if (rc) stand_ins_close(out);
    return rc;
}

void stand_ins_close(stand_ins **xp)
{
    stand_ins *x = *xp;
    if (!x) return;
    void *mem[] = { x->ffn, x->held, x->bias, x->order, x->scale };
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++) free(mem[i]);
    free(x);
    *xp = NULL;
}

const low_rank *stand_in_ffn(const stand_ins *s, uint32_t layer)
{
    bool here = s && s->ffn && layer >= s->first && layer < s->last;
    return here && s->ffn[layer - s->first].a.data ? &s->ffn[layer - s->first] : NULL;
}

float stand_in_scale(const stand_ins *s, uint32_t layer, bool ffn)
{
    bool here = s && s->scale && layer >= s->first && layer < s->last;
    return here ? s->scale[2 * (layer - s->first) + ffn] : 1;
}

uint32_t stand_ins_id(const stand_ins *s, mask_stand kind) { return s && kind < MASK_STANDS ? s->id[kind] : 0; }
const uint32_t *stand_ins_order(const stand_ins *s) { return s ? s->order : NULL; }
uint32_t stand_ins_rank(const stand_ins *s) { return s ? s->rank : 0; }
