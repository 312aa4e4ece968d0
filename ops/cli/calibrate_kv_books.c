#include "kvstore/pane.h"
#include "ops/cli/calibrate_kv.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Thresholds and codebooks of KVQuant, arXiv:2401.18079: over the text once for the thresholds of each K channel before RoPE, once
 * more for the codebooks of what lies between them. A value's weight is what an error in it does to the layer's attention
 * (heads_sensitivity), where the paper has the Fisher information; a channel's is the square of its range and of the queries
 * that meet it. One window in nine is of random ids: prompts hold names and numbers that no text foretells, and a codebook
 * must not fail there. */

/* Section 3.4: 1 % outliers, half of them at each end. */
#define OUTSIDE 0.0005

enum { TEXT_A_RANDOM = 8 };             /* windows of text for each of random ids */

static uint64_t random_windows(const kv_study *y) { return (calibrate_windows(y->c) + TEXT_A_RANDOM - 1) / TEXT_A_RANDOM; }
static uint64_t all_windows(const kv_study *y) { return calibrate_windows(y->c) + random_windows(y); }

static err_code fill_window(kv_study *y, uint64_t i, err *e)
{
    size_t texts = calibrate_windows(y->c);
    if (i >= texts) return kv_random_ids(y, y->c->window - 1, y->c->window, KV_SEED + 1 + i, e);
    calibrate_fill(y->c, i, y->ids);
    return ERR_OK;
}

tails kv_tails(const kv_study *y)
{
    return (tails){ y->sum.K * y->sum.d, tails_most(all_windows(y) * y->c->window, OUTSIDE) };
}

static float *tail_of(const kv_study *y, uint32_t layer)
{
    return y->sum.tail + layer * (tails_bytes(kv_tails(y)) / sizeof *y->sum.tail);
}

static void see_tails(void *arg, forward_place at, const forward_view *v)
{
    kv_study *y = arg;
    if (at != FORWARD_QKV) return;
    for (uint32_t i = KV_SINKS; i < v->T; i++)
        tails_add(kv_tails(y), tail_of(y, v->layer), v->k + (size_t)i * y->sum.K * y->sum.d, *y->sum.rows + i - KV_SINKS);
}

static err_code tails_unit(kv_study *y, uint64_t i, err *e)
{
    err_code rc = fill_window(y, i, e);
    if (rc == ERR_OK) rc = kv_study_window(y, y->c->window, see_tails, NULL, e);
    if (rc == ERR_OK) *y->sum.rows += y->c->window - KV_SINKS;
    return rc;
}

const kv_phase kv_phase_tails = { "tails", all_windows, NULL, tails_unit };

void kv_thresholds(kv_study *y)
{
    for (uint32_t l = 0; l < y->sum.L; l++) {
        size_t at = (size_t)l * y->sum.K * y->sum.d;
        tails_quantiles(kv_tails(y), tail_of(y, l), *y->sum.rows, OUTSIDE, y->k_lo + at, y->k_hi + at);
    }
}

/* ---- codebooks ----------------------------------------------------------------------------------------------------- */

typedef struct {
    pane_work pane;
    float x[PANE_ROWS * KV_MAX_D], normal[PANE_ROWS * KV_MAX_D], scale[PANE_ROWS * KV_MAX_D];
    double channel[KV_MAX_D];          /* mean square of the queries in it */
    double *of[2];                     /* [T] sensitivity of a row's key, of its value */
} room;

static err_code books_begin(kv_study *y, err *e)
{
    kv_thresholds(y);
    room *r = calloc(1, sizeof *r + 2 * (size_t)y->c->window * sizeof(double));
    if (!r) return err_set(e, ERR_NOMEM, "out of memory for the rows of a window");
    r->of[0] = (double *)(r + 1);
    r->of[1] = r->of[0] + y->c->window;
    y->scratch = r;
    return ERR_OK;
}

/* Mean squares of the group's queries by channel. RoPE turns a pair of channels into each other as rows move apart, so both have the
 * pair's mean. */
static void channels_of(const kv_study *y, const forward_view *v, uint32_t head, double *out)
{
    const rope_config *rope = &y->c->shape.rope;
    uint32_t d = y->sum.d, g = y->sum.H / y->sum.K, half = rope->n_rot / 2;
    memset(out, 0, d * sizeof *out);
    for (uint32_t i = KV_SINKS; i < v->T; i++)
        for (uint32_t j = 0; j < g * d; j++) {
            double x = (double)v->q[((size_t)i * y->sum.H + (size_t)head * g) * d + j];
            out[j % d] += x * x;
        }
    for (uint32_t i = 0; i < half; i++) {
        uint32_t a = rope->neox ? i : 2 * i, b = rope->neox ? i + half : 2 * i + 1;
        out[a] = out[b] = (out[a] + out[b]) / 2;
    }
}

/* Rows [first, first + n) of one side of one head, as a pane packs them. */
static void add_pane(kv_study *y, const forward_view *v, int side, uint32_t head, uint32_t first, uint32_t n)
{
    room *r = y->scratch;
    uint32_t d = y->sum.d;
    size_t at = ((size_t)v->layer * y->sum.K + head) * d;
    pane_kind k = { .pack = { KV_PACK_NUQ, 4, false }, .key = side == 0, .exact = KV_F16, .d = d, .lo = y->k_lo + at, .hi = y->k_hi + at };
    codebook_sums *to = &y->sum.book[v->layer * 2 + (uint32_t)side];
    for (uint32_t i = 0; i < n; i++)
        memcpy(r->x + (size_t)i * d, (side ? v->v : v->k) + ((size_t)(first + i) * y->sum.K + head) * d, d * sizeof(float));
    pane_normal(&k, r->x, n, r->normal, r->scale, &r->pane);
    for (uint32_t i = 0; i < n * d; i++) {
        double s = (double)r->scale[i], w = r->of[side][first + i / d] * s * s;
        codebook_add(to, r->normal[i], side ? w : w * r->channel[i % d]);
    }
}

static void see_books(void *arg, forward_place at, const forward_view *v)
{
    kv_study *y = arg;
    room *r = y->scratch;
    if (at != FORWARD_QKV) return;
    heads_load(y->heads, v->layer, v->T, v->q, v->k, v->v);
    for (uint32_t h = 0; h < y->sum.K; h++) {
        memset(r->of[0], 0, 2 * (size_t)y->c->window * sizeof(double));
        heads_sensitivity(y->heads, h, r->of[0], r->of[1]);
        channels_of(y, v, h, r->channel);
        for (int side = 0; side < 2; side++)
            for (uint32_t i = KV_SINKS; i + PANE_ROWS <= v->T; i += PANE_ROWS) add_pane(y, v, side, h, i, PANE_ROWS);
    }
}

static err_code books_unit(kv_study *y, uint64_t i, err *e)
{
    err_code rc = fill_window(y, i, e);
    return rc == ERR_OK ? kv_study_window(y, y->c->window, see_books, NULL, e) : rc;
}

const kv_phase kv_phase_books = { "books", all_windows, books_begin, books_unit };
