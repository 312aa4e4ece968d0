#ifndef ENGINE_ROW_SETS_H
#define ENGINE_ROW_SETS_H
/* Which rows of a step run which half of which layer: by their masks, by whether they end with the last layer's K and V
 * (forward_row.ends), and, while the step goes on, by what FFNs do to them (core/mask.h: mask_calm). Owns the lists and what a row carries from layer to layer; computes nothing with rows. Sets are written by
 * one thread between two barriers and read by all. */
#include "engine/forward.h"

typedef struct { uint32_t lo, hi; path_id path; } row_run;   /* neighbouring rows of a set with the same path */
typedef struct {               /* the rows of a step that run a half of a layer; scratch has them one after the other */
    uint32_t n, n_runs;
    uint32_t *at;              /* [n] places in the step, ascending but for low ranks in place of calm FFNs, and where rows end: those behind the others */
    row_run *run;              /* [n_runs] */
} row_set;
enum { HALF_ATTN, HALF_FFN, HALF_LOW_RANK, HALVES };          /* the last: in place of an FFN that they leave out */
enum { END_QKV, END_ATTEND, END_FFN, END_SETS };   /* of the last layer: rows with K and V, those of them that go on, and the FFN's */

typedef struct {
    uint32_t first, last;      /* layers */
    const forward_row *rows;   /* of the step under way */
    uint32_t T;
    row_set all;               /* every row of the step */
    row_set *half;             /* [layers][HALVES], of a step with masks */
    row_set end[END_SETS];     /* in place of the last layer's, of a step in which rows end there */
    uint32_t *at_mem;          /* [1 + layers x HALVES + END_SETS][rows], and */
    row_run *run_mem;          /* as many runs: of the sets */
    mask_row *carried;         /* [rows] */
    bool masked;               /* some row leaves out something here */
    bool ends;                 /* some row ends with the last layer's K and V */
    bool calm;                 /* for some row it depends on what FFNs do */
    bool scaled;               /* for some row a number stands in */
} row_sets;

/* For steps of at most n rows on layers [first, last); pages of sets that no step needs are never touched. false: out of memory. */
bool row_sets_open(row_sets *s, uint32_t first, uint32_t last, uint32_t n);
void row_sets_close(row_sets *s);
/* Every row, for what has no masks. */
void row_sets_all(row_sets *s, const forward_row *rows, uint32_t T);
/* A step begins: who runs what. */
void row_sets_find(row_sets *s, const forward_row *rows, uint32_t T);
const row_set *row_sets_of(const row_sets *s, uint32_t layer, int half);
/* Of the rows that run the layer's attention those that want more of it than K and V: the first ones of the set. */
const row_set *row_sets_on(const row_sets *s, uint32_t layer);
/* Does row t of the step have, in place of this half, its input times a number? */
bool row_sets_scales(const row_sets *s, uint32_t layer, int half, uint32_t t);
/* In a step with calm rows: now it is known who runs the layer's FFN. */
void row_sets_settle(row_sets *s, uint32_t layer);
/* The FFN of a layer did this to row t of the step: out [D] was added, h [D] is what came of it. Any thread, of its own rows. */
void row_sets_saw(row_sets *s, const vec_ops *v, uint32_t layer, uint32_t t, const float *h, const float *out, uint32_t D);
#endif
