#include "engine/row_sets.h"
#include <math.h>
#include <stdlib.h>

bool row_sets_open(row_sets *s, uint32_t first, uint32_t last, uint32_t n)
{
    size_t sets = (last - first) * (size_t)HALVES, more = 1 + END_SETS;
    s->first = first;
    s->last = last;
    s->half = calloc(sets + 1, sizeof *s->half);
    s->at_mem = malloc((sets + more) * n * sizeof *s->at_mem);
    s->run_mem = malloc((sets + more) * n * sizeof *s->run_mem);
    s->carried = malloc(n * sizeof *s->carried);
    if (!s->half || !s->at_mem || !s->run_mem || !s->carried) return false;
    s->all = (row_set){ .at = s->at_mem, .run = s->run_mem };
    for (uint32_t t = 0; t < n; t++) s->all.at[t] = t;
    for (size_t i = 0; i < sets; i++) s->half[i] = (row_set){ .at = s->at_mem + (i + 1) * n, .run = s->run_mem + (i + 1) * n };
    for (size_t i = 0; i < END_SETS; i++) s->end[i] = (row_set){ .at = s->at_mem + (sets + 1 + i) * n, .run = s->run_mem + (sets + 1 + i) * n };
    return true;
}

void row_sets_close(row_sets *s)
{
    void *mem[] = { s->half, s->at_mem, s->run_mem, s->carried };
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++) free(mem[i]);
    *s = (row_sets){ 0 };
}

static void find_runs(const row_sets *s, row_set *set)
{
    set->n_runs = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        row_run *last = set->n_runs ? &set->run[set->n_runs - 1] : NULL;
        path_id path = s->rows[set->at[i]].path;
        if (last && last->path == path) last->hi = i + 1;
        else set->run[set->n_runs++] = (row_run){ i, i + 1, path };
    }
}

void row_sets_all(row_sets *s, const forward_row *rows, uint32_t T)
{
    s->rows = rows;
    s->T = s->all.n = T;
    find_runs(s, &s->all);
}

static bool runs_half(const forward_row *row, uint32_t layer, int half)
{
    if (!row->mask || layer >= row->mask->n) return half != HALF_LOW_RANK;
    const mask_layer *l = &row->mask->at[layer];
    if (half == HALF_LOW_RANK) return row->mask->stand == MASK_LOW_RANK && row->row >= l->ffn;
    return row->row < (half == HALF_ATTN ? l->attn : l->ffn);
}

/* A policy that scores by attention needs every row's. */
static bool ends(const forward_row *row) { return row->ends && !(row->seq && kv_scores_attention(row->seq)); }

static void add_rows(const row_sets *s, row_set *to, const row_set *from, bool ending)
{
    for (uint32_t i = 0; i < from->n; i++)
        if (ends(&s->rows[from->at[i]]) == ending) to->at[to->n++] = from->at[i];
}

static void find_ends(row_sets *s)
{
    const row_set *attn = row_sets_of(s, s->last - 1, HALF_ATTN), *ffn = row_sets_of(s, s->last - 1, HALF_FFN);
    for (int i = 0; i < END_SETS; i++) s->end[i].n = 0;
    add_rows(s, &s->end[END_QKV], attn, false);
    add_rows(s, &s->end[END_ATTEND], attn, false);
    add_rows(s, &s->end[END_QKV], attn, true);
    add_rows(s, &s->end[END_FFN], ffn, false);
    for (int i = 0; i < END_SETS; i++) find_runs(s, &s->end[i]);
}

bool row_sets_scales(const row_sets *s, uint32_t layer, int half, uint32_t t)
{
    const forward_row *row = &s->rows[t];
    return row->mask && row->mask->stand == MASK_SCALED && !runs_half(row, layer, half);
}

void row_sets_find(row_sets *s, const forward_row *rows, uint32_t T)
{
    row_sets_all(s, rows, T);
    s->masked = s->calm = s->scaled = s->ends = false;
    bool some = false;
    for (uint32_t t = 0; t < T; t++) {
        s->carried[t] = (mask_row){ rows[t].calm, 0 };
        s->masked = s->masked || rows[t].mask;
        some = some || ends(&rows[t]);
        s->calm = s->calm || (rows[t].mask && rows[t].calm);
        s->scaled = s->scaled || (rows[t].mask && rows[t].mask->stand == MASK_SCALED);
    }
    for (uint32_t i = 0; s->masked && i < (s->last - s->first) * HALVES; i++) {
        row_set *set = &s->half[i];
        set->n = 0;
        for (uint32_t t = 0; t < T; t++)
            if (runs_half(&rows[t], s->first + i / HALVES, i % HALVES)) set->at[set->n++] = t;
        find_runs(s, set);
    }
    if (some && !s->calm) find_ends(s);
    s->ends = some && !s->calm;
}

const row_set *row_sets_on(const row_sets *s, uint32_t layer)
{
    return s->ends && layer == s->last - 1 ? &s->end[END_ATTEND] : row_sets_of(s, layer, HALF_ATTN);
}

const row_set *row_sets_of(const row_sets *s, uint32_t layer, int half)
{
    if (s->ends && layer == s->last - 1 && half != HALF_LOW_RANK) return &s->end[half == HALF_ATTN ? END_QKV : END_FFN];
    return s->masked ? &s->half[(layer - s->first) * HALVES + (uint32_t)half] : &s->all;
}

void row_sets_settle(row_sets *s, uint32_t layer)
{
    row_set *set = &s->half[(layer - s->first) * HALVES + HALF_FFN], *low = set + (HALF_LOW_RANK - HALF_FFN);
    uint32_t n = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        uint32_t t = set->at[i];
        const layer_mask *m = s->rows[t].mask;
        if (!m || !mask_calm_rests(&m->calm, layer, &s->carried[t])) set->at[n++] = t;
        else if (m->stand == MASK_LOW_RANK) low->at[low->n++] = t;
    }
    if (n == set->n) return;
    set->n = n;
    find_runs(s, set);
    find_runs(s, low);
}

/* The cosine of what went in and what came out, h - out and h, from three sums in the fixed order. */
void row_sets_saw(row_sets *s, const vec_ops *v, uint32_t layer, uint32_t t, const float *h, const float *out, uint32_t D)
{
    float oh;
    if (!s->rows[t].mask || !s->carried[t].state) return;
    v->dot_rows_f32(out, h, D * sizeof *h, 1, D, &oh);
    double hh = (double)v->sum_sq(h, D), oo = (double)v->sum_sq(out, D), in = hh - 2 * (double)oh + oo;
    double like = in > 0 && hh > 0 ? (hh - (double)oh) / sqrt(in * hh) : 0;
    mask_calm_saw(&s->rows[t].mask->calm, layer, (float)like, &s->carried[t]);
}
