#include "engine/route_probe.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCE = 2 };

struct route_probe {
    lab *l;
    path_id path;
    uint32_t rows, n, prompt;
    uint32_t *ids;
    float *in;                   /* [L + 1][rows][D] input of each layer; of the head at last */
    float *mid;                  /* [L][rows][D] input of the FFN's norm */
    float *h;                    /* [rows][D] of a run under way */
    float *full;                 /* [rows][V] logits with all layers, and */
    row_stats *stats;            /* [rows] */
    forward_row *fwd;
    kv_row *kv;
    uint32_t *slots;
    double nll;
    uint32_t said;               /* tokens that the last run would have said itself */
    const lora *adapter;         /* NULL: none */
    float scale;
};

static const model_shape *shape(const route_probe *p) { return lab_shape(p->l); }
static float *in_of(const route_probe *p, uint32_t l) { return p->in + (size_t)l * p->rows * shape(p)->D; }
static float *mid_of(const route_probe *p, uint32_t l) { return p->mid + (size_t)l * p->rows * shape(p)->D; }

err_code route_probe_open(route_probe **out, lab *l, uint32_t rows, path_id path, err *e)
{
    const model_shape *s = lab_shape(l);
    size_t layer = (size_t)rows * s->D;
    route_probe *p = *out = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NOMEM, "out of memory");
    p->l = l;
    p->rows = rows;
    p->path = path;
    p->ids = malloc(rows * sizeof *p->ids);
    p->in = malloc((s->L + 1) * layer * sizeof *p->in);
    p->mid = malloc(s->L * layer * sizeof *p->mid);
    p->h = malloc(layer * sizeof *p->h);
    p->full = malloc((size_t)rows * s->V * sizeof *p->full);
    p->stats = malloc(rows * sizeof *p->stats);
    p->fwd = malloc(rows * sizeof *p->fwd);
    p->kv = malloc(rows * sizeof *p->kv);
    p->slots = malloc(rows * sizeof *p->slots);
    if (p->ids && p->in && p->mid && p->h && p->full && p->stats && p->fwd && p->kv && p->slots) return ERR_OK;
    route_probe_close(out);
    return err_set(e, ERR_NOMEM, "out of memory for the layer inputs of %u rows", rows);
}

void route_probe_close(route_probe **pp)
{
    route_probe *p = *pp;
    if (!p) return;
    kv_seq_close(lab_store(p->l), SEQUENCE);
    void *mem[] = { p->ids, p->in, p->mid, p->h, p->full, p->stats, p->fwd, p->kv, p->slots };
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++) free(mem[i]);
    free(p);
    *pp = NULL;
}

/* ---- runs ---------------------------------------------------------------------------------------------------------- */

static void watch(void *arg, forward_place at, const forward_view *v)
{
    route_probe *p = arg;
    size_t bytes = (size_t)v->T * shape(p)->D * sizeof(float);
    if (at == FORWARD_IN) memcpy(in_of(p, v->layer), v->h, bytes);
    else if (at == FORWARD_MIDDLE) memcpy(mid_of(p, v->layer), v->h, bytes);
}

/* Rows [from, n) behind those that the sequence has, h [n - from][D], through the layers that the mask leaves; nothing is committed. */
static err_code run(route_probe *p, const layer_mask *m, uint32_t from, float *h, err *e)
{
    kv_seq *q = kv_seq_find(lab_store(p->l), SEQUENCE);
    uint32_t n = p->n - from;
    for (uint32_t i = 0; i < n; i++) p->kv[i] = (kv_row){ .row = from + i, .pos = from + i, .parent = from + i ? from + i - 1 : KV_ROW_NONE, .path = (uint8_t)p->path };
    err_code rc = kv_reserve(q, p->kv, n, p->slots, e);
    for (uint32_t i = 0; i < n; i++) {
        bool calm = m && m->calm.last && from + i >= m->calm.from;
        p->fwd[i] = (forward_row){ .seq = q, .slot = p->slots[i], .path = p->path, .mask = m, .row = from + i, .calm = calm,
                                    .adapter = p->adapter, .adapter_scale = p->scale };
    }
    if (!rc) runner_layers(lab_runner(p->l), p->fwd, n, h);
    return rc;
}

/* A text from its first row on. */
static err_code run_whole(route_probe *p, const layer_mask *m, err *e)
{
    kv_seq *q;
    kv_seq_close(lab_store(p->l), SEQUENCE);
    err_code rc = kv_seq_open(lab_store(p->l), SEQUENCE, &q, e);
    return rc ? rc : run(p, m, 0, p->h, e);
}

/* What is behind the prompt once more, from what goes into layer `first` on; its rows go again. */
static err_code run_behind(route_probe *p, const layer_mask *m, uint32_t first, err *e)
{
    size_t D = shape(p)->D, at = p->prompt * D;
    memcpy(p->h + at, in_of(p, first) + at, (p->n - p->prompt) * D * sizeof *p->h);
    err_code rc = run(p, m, p->prompt, p->h + at, e);
    return rc ? rc : kv_commit(kv_seq_find(lab_store(p->l), SEQUENCE), p->prompt - 1, e);
}

/* Rows that leave something out and predict a token of the text: [prompt, n - 1). */
static uint32_t judged(const route_probe *p) { return p->n - 1 - p->prompt; }

static double divergence(const route_probe *p, uint32_t i, const float *got, const row_stats *st)
{
    const float *want = p->full + (size_t)i * shape(p)->V;
    double sum = 0;
    for (uint32_t t = 0; t < shape(p)->V; t++) {
        double a = (double)want[t] - p->stats[i].lse;
        sum += exp(a) * (a - ((double)got[t] - st->lse));
    }
    return sum;
}

/* Nats a token of what is in p->h; keep: these logits are what others are compared with. */
static double judge(route_probe *p, bool keep, double *kl)
{
    uint32_t V = shape(p)->V, D = shape(p)->D;
    double nll = 0, apart = 0;
    row_stats st[RUNNER_HEAD_ROWS];
    p->said = 0;
    for (uint32_t at = p->prompt, n; at < p->n - 1; at += n) {
        n = p->n - 1 - at < RUNNER_HEAD_ROWS ? p->n - 1 - at : RUNNER_HEAD_ROWS;
        const float *logits = lab_logits(p->l, p->h + (size_t)at * D, n, st);
        for (uint32_t i = 0; i < n; i++) {
            const float *row = logits + (size_t)i * V;
            nll += (double)st[i].lse - (double)row[p->ids[at + i + 1]];
            p->said += p->said == at + i - p->prompt && row[p->ids[at + i + 1]] >= st[i].max;
            if (keep) memcpy(p->full + (size_t)(at - p->prompt + i) * V, row, V * sizeof *row), p->stats[at - p->prompt + i] = st[i];
            else if (kl) apart += divergence(p, at - p->prompt + i, row, &st[i]);
        }
    }
    if (kl) *kl = apart / judged(p);
    return nll / judged(p);
}

/* Layers below are left out in the run that goes on from here, so nothing may stand in. */
static uint32_t first_off(const layer_mask *m)
{
    uint32_t l = 0;
    while (!m->stand && l + 1 < m->n && m->at[l].attn == MASK_NEVER && m->at[l].ffn == MASK_NEVER && !(m->calm.last && l >= m->calm.first)) l++;
    return l;
}

err_code route_probe_without(route_probe *p, const layer_mask *m, double *damage, double *kl, err *e)
{
    uint32_t first = first_off(m);
    layer_mask at = *m;
    at.calm.from = p->prompt + (m->calm.from & ~MASK_AFTER);
    for (uint32_t l = 0; l < first; l++) at.at[l] = (mask_layer){ 0, 0 };
    for (uint32_t l = first; l < at.n; l++) { /* from the prompt's end on */
        if (at.at[l].attn != MASK_NEVER) at.at[l].attn = p->prompt;
        if (at.at[l].ffn != MASK_NEVER) at.at[l].ffn = p->prompt;
    }
    err_code rc = run_behind(p, &at, first, e);
    if (!rc) *damage = judge(p, false, kl) - p->nll;
    return rc;
}

err_code route_probe_cost(route_probe *p, const layer_mask *m, probe_cost *out, err *e)
{
    err_code rc = route_probe_without(p, m, &out->damage, &out->kl, e);
    out->said = p->said;
    return rc;
}

static const float *at_prompt_end(route_probe *p, row_stats *st)
{
    return lab_logits(p->l, in_of(p, shape(p)->L) + (size_t)(p->prompt - 1) * shape(p)->D, 1, st);
}

bool route_probe_begins(route_probe *p)
{
    row_stats st;
    const float *logits = at_prompt_end(p, &st);
    return logits[p->ids[p->prompt]] >= st.max;
}

double route_probe_entropy(route_probe *p)
{
    row_stats st;
    at_prompt_end(p, &st);
    return (double)st.entropy;
}

/* ---- a text with all layers ---------------------------------------------------------------------------------------- */

static void compare(const route_probe *p, const float *a, const float *b, double *sim, double *ratio)
{
    uint32_t D = shape(p)->D;
    *sim = *ratio = 0;
    for (uint32_t i = p->prompt; i < p->n; i++) {
        double ab = 0, aa = 0, bb = 0;
        for (uint32_t k = 0; k < D; k++) {
            double x = a[(size_t)i * D + k], y = b[(size_t)i * D + k];
            ab += x * y, aa += x * x, bb += y * y;
        }
        *sim += ab / sqrt(aa * bb + 1e-30) / (p->n - p->prompt);
        *ratio += sqrt(bb / (aa + 1e-30)) / (p->n - p->prompt);
    }
}

static void features(const route_probe *p, uint32_t l, float *out)
{
    uint32_t D = shape(p)->D, n = p->prompt - 1;
    memset(out, 0, D * sizeof *out);
    for (uint32_t i = 0; i < n; i++) {
        const float *x = in_of(p, l) + (size_t)i * D;
        double ss = 0;
        for (uint32_t k = 0; k < D; k++) ss += (double)x[k] * x[k];
        double scale = 1 / sqrt(ss / D + (double)shape(p)->rms_eps) / n;
        for (uint32_t k = 0; k < D; k++) out[k] += (float)(x[k] * scale);
    }
}

static err_code damages(route_probe *p, probe_report *out, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t l = 0; l < shape(p)->L; l++)
        for (int part = 0; !rc && part < PROBE_PARTS; part++) {
            layer_mask m = mask_none(shape(p)->L);
            if (part != PROBE_FFN) m.at[l].attn = 0;
            if (part != PROBE_ATTN) m.at[l].ffn = 0;
            rc = route_probe_without(p, &m, &out->damage[part][l], NULL, e);
        }
    return rc;
}

err_code route_probe_adapt(route_probe *p, const lora *adapter, float scale, err *e)
{
    const model_shape *s = shape(p);
    p->adapter = adapter;
    p->scale = scale;
    runner_watch(lab_runner(p->l), watch, p);
    runner_embed(lab_runner(p->l), p->ids, p->n, p->h);
    err_code rc = run_whole(p, NULL, e);
    if (!rc) rc = kv_commit(kv_seq_find(lab_store(p->l), SEQUENCE), p->prompt - 1, e);     /* the prompt's rows stay */
    runner_watch(lab_runner(p->l), NULL, NULL);
    if (!rc) memcpy(in_of(p, s->L), p->h, (size_t)p->n * s->D * sizeof *p->h);
    return rc;
}

void route_probe_ffn(const route_probe *p, uint32_t layer, const float **in, const float **out, uint32_t *n)
{
    *in = mid_of(p, layer);
    *out = in_of(p, layer + 1);
    *n = p->n;
}

void route_probe_features(const route_probe *p, float *out)
{
    for (uint32_t l = 0; l < shape(p)->L; l++) features(p, l, out + (size_t)l * shape(p)->D);
}

err_code route_probe_read(route_probe *p, const uint32_t *ids, uint32_t n, uint32_t prompt, probe_report *out, err *e)
{
    const model_shape *s = shape(p);
    if (n > p->rows || prompt < 2 || prompt + 2 > n) return err_set(e, ERR_INPUT, "a text of %u tokens with a prompt of %u: at most %u, and two behind it", n, prompt, p->rows);
    memcpy(p->ids, ids, n * sizeof *ids);
    p->n = n;
    p->prompt = prompt;
    err_code rc = route_probe_adapt(p, NULL, 0, e);
    if (rc) return rc;
    p->nll = judge(p, true, NULL);
    if (!out) return ERR_OK;
    out->nll = p->nll;
    out->entropy = route_probe_entropy(p);
    for (uint32_t l = 0; l < s->L; l++) {
        compare(p, in_of(p, l), in_of(p, l + 1), &out->sim[PROBE_BOTH][l], &out->ratio[PROBE_BOTH][l]);
        compare(p, in_of(p, l), mid_of(p, l), &out->sim[PROBE_ATTN][l], &out->ratio[PROBE_ATTN][l]);
        compare(p, mid_of(p, l), in_of(p, l + 1), &out->sim[PROBE_FFN][l], &out->ratio[PROBE_FFN][l]);
    }
    route_probe_features(p, out->feature);
    return damages(p, out, e);
}

err_code route_probe_calm(route_probe *p, const uint32_t *ids, uint32_t n, uint32_t prompt, const layer_mask *m, uint64_t *out, uint64_t *of, err *e)
{
    layer_mask at = *m;
    at.calm.from = prompt + (m->calm.from & ~MASK_AFTER);
    if (n > p->rows) return err_set(e, ERR_INPUT, "a text of %u tokens: at most %u", n, p->rows);
    p->n = n;
    p->prompt = prompt;
    runner_embed(lab_runner(p->l), ids, n, p->h);
    err_code rc = run_whole(p, &at, e);
    const mask_row *calm = rc ? NULL : runner_calm(lab_runner(p->l));
    for (uint32_t i = at.calm.from; calm && i < n; i++) *out += calm[i].out, *of += shape(p)->L;
    return rc;
}
