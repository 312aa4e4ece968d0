#include "engine/packed.h"
#include "ops/cli/calibrate_kv.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Which query heads look at meaning, and what a layer loses when it keeps few rows: CompressKV, arXiv:2508.02401.
 * Variants: the paper's needles are sentences with a question in an instruct model's words; ours are pieces of the text in the
 * text, asked for by their first words, so that any model can be asked. The paper's errors are of LongBench's answers; ours are of
 * the text that follows. */

/* ---- needles ------------------------------------------------------------------------------------------------------- */

enum { NEEDLE = 16, ASKED = 6, ANSWER = NEEDLE - ASKED, NEEDLES_MOST = 24, DEPTHS = 10 };

typedef struct { uint32_t first, span; double *mass; } needle;   /* first answer row, where the needle is; [L][H][ANSWER] */

static uint64_t needle_units(const kv_study *y)
{
    size_t n = calibrate_windows(y->c);
    return y->c->window < 4 * NEEDLE ? 0 : n < NEEDLES_MOST ? n : NEEDLES_MOST;
}

static err_code needle_begin(kv_study *y, err *e)
{
    needle *n = calloc(1, sizeof *n + (size_t)y->sum.L * y->sum.H * ANSWER * sizeof *n->mass);
    if (!n) return err_set(e, ERR_NOMEM, "out of memory");
    n->mass = (double *)(n + 1);
    y->scratch = n;
    return ERR_OK;
}

/* Window i with a piece of another window in it, and the beginning of that piece again at the end, with what follows it. */
static void hide(kv_study *y, uint64_t i, needle *n)
{
    uint32_t window = y->c->window, other[NEEDLE], *ids = y->ids;
    size_t windows = calibrate_windows(y->c);
    bool bos = y->c->bos != TOKEN_NONE;
    calibrate_fill(y->c, (i + windows / 2) % windows, ids);
    memcpy(other, ids + window / 2, sizeof other);
    calibrate_fill(y->c, i, ids);
    n->first = window - NEEDLE + ASKED - 1;
    n->span = bos + (uint32_t)((uint64_t)(window - 2 * NEEDLE - bos) * (i % DEPTHS) / DEPTHS);
    memcpy(ids + n->span, other, sizeof other);
    memcpy(ids + window - NEEDLE, other, sizeof other);
}

static void see_needle(void *arg, forward_place at, const forward_view *v)
{
    kv_study *y = arg;
    needle *n = y->scratch;
    if (at != FORWARD_QKV) return;
    float *a = malloc(v->T * sizeof *a);
    if (!a) {
        y->rc = err_set(y->e, ERR_NOMEM, "out of memory");
        return;
    }
    heads_load(y->heads, v->layer, v->T, v->q, v->k, v->v);
    for (uint32_t h = 0; h < y->sum.H; h++)
        for (uint32_t i = 0; i < ANSWER; i++) {
            double *to = &n->mass[((size_t)v->layer * y->sum.H + h) * ANSWER + i];
            heads_row(y->heads, h, n->first + i, a);
            *to = 0;
            for (uint32_t j = 0; j < NEEDLE; j++) *to += (double)a[n->span + j];
        }
    free(a);
}

/* Did the model say the needle's tokens? A needle counts when it said more than half of them. */
static err_code hear(void *arg, uint32_t first, uint32_t rows, const float *h, err *e)
{
    kv_study *y = arg;
    const needle *n = y->scratch;
    const model_shape *s = &y->c->shape;
    row_stats stats[RUNNER_HEAD_ROWS];
    bool said[ANSWER];
    uint32_t right = 0;
    if (first || rows <= n->first + ANSWER - 1) return err_set(e, ERR_STATE, "a window of %u rows came in parts", y->c->window);
    const float *x = lab_logits(y->lab, h + (size_t)n->first * s->D, ANSWER, stats);
    for (uint32_t i = 0; i < ANSWER; i++) {
        candidate best;
        forward_top(x + (size_t)i * s->V, s->V, &best, 1);
        right += said[i] = best.id == y->ids[n->first + 1 + i];
    }
    y->sum.runs[0] += 2 * right > ANSWER;
    y->sum.runs[1] += 1;
    for (size_t k = 0; k < (size_t)s->L * s->H; k++)
        for (uint32_t i = 0; i < ANSWER; i++) {
            y->sum.mass_all[k] += n->mass[k * ANSWER + i];
            if (2 * right > ANSWER && said[i]) y->sum.mass[k] += n->mass[k * ANSWER + i];
        }
    return ERR_OK;
}

static err_code needle_unit(kv_study *y, uint64_t i, err *e)
{
    hide(y, i, y->scratch);
    return kv_study_window(y, y->c->window, see_needle, hear, e);
}

const kv_phase kv_phase_needles = { "needles", needle_units, needle_begin, needle_unit };

/* Where the model found no needle at all, by the attention that it paid anyway. */
void kv_semantic_choose(const kv_sums *s, uint8_t *out)
{
    const double *mass = s->runs[0] > 0 ? s->mass : s->mass_all;
    for (uint32_t l = 0; l < s->L; l++)
        for (uint32_t r = 0; r < KV_SEMANTIC; r++) {
            uint32_t best = 255;
            for (uint32_t h = 0; h < s->H && h < 255; h++) {
                bool taken = false;
                for (uint32_t k = 0; k < r; k++) taken |= out[l * KV_SEMANTIC + k] == h;
                if (!taken && (best == 255 || mass[(size_t)l * s->H + h] > mass[(size_t)l * s->H + best])) best = h;
            }
            out[l * KV_SEMANTIC + r] = (uint8_t)best;
        }
}

/* ---- layer errors -------------------------------------------------------------------------------------------------- */

/* Rows that the layer keeps, window among them; query rows of the window; width of the average; rows of text behind; as the paper
 * for the first three. */
enum { BUDGET = 32, QUERIES = 8, POOL = 5, BEHIND = 16, ERRORS_MOST = 8 };

static uint64_t error_units(const kv_study *y)
{
    size_t n = calibrate_windows(y->c);
    return y->c->window < 2 * BUDGET + BEHIND ? 0 : n < ERRORS_MOST ? n : ERRORS_MOST;
}

static err_code error_begin(kv_study *y, err *e)
{
    (void)e;
    kv_semantic_choose(&y->sum, y->semantic);
    return ERR_OK;
}

typedef struct { float *a, *score, *pooled, *apart, *whole, *weight; uint8_t *keep; } room;   /* of one layer */

static bool room_open(room *r, const kv_study *y, uint32_t T)
{
    size_t wide = (size_t)y->sum.H * y->sum.d;
    float *f = calloc(3 * (size_t)T + (2 * BEHIND + 1) * wide + (T + 3) / 4, sizeof *f);
    *r = (room){ f, f + T, f + 2 * (size_t)T, f + 3 * (size_t)T, NULL, NULL, NULL };
    if (!f) return false;
    r->whole = r->apart + BEHIND * wide;
    r->weight = r->whole + BEHIND * wide;
    r->keep = (uint8_t *)(r->weight + wide);
    return true;
}

/* The rows of a prompt [0, n) that the layer's semantic heads choose. */
static void choose_rows(kv_study *y, uint32_t layer, uint32_t n, room *r)
{
    for (uint32_t i = n - QUERIES; i < n; i++)
        for (int h = 0; h < KV_SEMANTIC; h++) {
            uint8_t head = y->semantic[layer * KV_SEMANTIC + (uint32_t)h];
            if (head >= y->sum.H) continue;
            heads_row(y->heads, head, i, r->a);
            for (uint32_t j = 0; j <= i; j++) r->score[j] += r->a[j];
        }
    for (uint32_t j = 0; j < n; j++)
        for (int32_t k = (int32_t)j - POOL / 2; k <= (int32_t)j + POOL / 2; k++)
            if (k >= 0 && k < (int32_t)n) r->pooled[j] += r->score[k];
    memset(r->keep, 0, n);
    memset(r->keep + n - QUERIES, 1, QUERIES);
    for (uint32_t t = 0; t < BUDGET - QUERIES; t++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t j = 0; j < n; j++)
            if (!r->keep[j] && (best == UINT32_MAX || r->pooled[j] > r->pooled[best])) best = j;
        if (best != UINT32_MAX) r->keep[best] = 1;
    }
}

/* Squares of W x over BEHIND rows x [wide]. */
static double projected(const mat *w, const vec_ops *v, const float *x, float *weight)
{
    double sum = 0;
    for (uint32_t o = 0; o < w->n_out; o++) {
        float y[BEHIND];
        mat_row_f32(w, o, 0, w->n_in, weight);
        v->dot_rows_f32(weight, x, w->n_in * sizeof *x, BEHIND, w->n_in, y);
        for (int i = 0; i < BEHIND; i++) sum += (double)y[i] * (double)y[i];
    }
    return sum;
}

static void see_error(void *arg, forward_place at, const forward_view *v)
{
    kv_study *y = arg;
    uint32_t n = v->T - BEHIND, d = y->sum.d, wide = y->sum.H * d;
    room r;
    if (at != FORWARD_ATTENDED) return;
    if (!room_open(&r, y, v->T)) {
        y->rc = err_set(y->e, ERR_NOMEM, "out of memory");
        return;
    }
    heads_load(y->heads, v->layer, v->T, v->q, v->k, v->v);
    choose_rows(y, v->layer, n, &r);
    for (uint32_t i = 0; i < BEHIND; i++)
        for (uint32_t h = 0; h < y->sum.H; h++) {
            float *apart = r.apart + (size_t)i * wide + (size_t)h * d, *whole = r.whole + (size_t)i * wide + (size_t)h * d;
            heads_row_kept(y->heads, h, n + i, r.keep, n, r.a);
            heads_mix(y->heads, h, n + i + 1, r.a, apart);
            heads_row(y->heads, h, n + i, r.a);
            heads_mix(y->heads, h, n + i + 1, r.a, whole);
            for (uint32_t c = 0; c < d; c++) apart[c] -= whole[c];
        }
    const mat *wo = &lab_model(y->lab)->layer[v->layer].wo;
    const vec_ops *vec = vec_for(lab_isa(y->lab));
    y->sum.error[v->layer] += sqrt(projected(wo, vec, r.apart, r.weight)) / (sqrt(projected(wo, vec, r.whole, r.weight)) + 1e-5);
    free(r.a);
}

static err_code error_unit(kv_study *y, uint64_t i, err *e)
{
    calibrate_fill(y->c, i, y->ids);
    return kv_study_window(y, y->c->window, see_error, NULL, e);
}

const kv_phase kv_phase_errors = { "errors", error_units, error_begin, error_unit };
