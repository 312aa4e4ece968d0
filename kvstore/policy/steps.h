#ifndef KVSTORE_POLICY_STEPS_H
#define KVSTORE_POLICY_STEPS_H
/* What the steps of a policy hand to each other inside kv_decide: scores, then quotas, then keep lists. Private to this folder.
 * All arithmetic is core/vec.h's, or plain C with no contraction and our own exp and ln: a decision is the same on every host. */
#include "kvstore/policy/view.h"

/* One settlement of one layer on its way through the steps. Arrays are cut from kv_decide's scratch. */
typedef struct {
    const kv_layer_view *view;
    float *score;              /* head h at start[h]: [n_h], higher is better */
    uint32_t *start;           /* [heads+1] */
    uint32_t *quota;           /* [heads] rows a head may keep, held ones included */
    uint8_t *held;             /* like score: 1 = kept whatever the score (fixed rows, the newest ones) */
    float *tmp, *tmp2, *tmp3;  /* [max n] */
    float *vec;                /* [4 d] */
} kv_work;

static inline float *work_score(const kv_work *w, uint32_t h) { return w->score + w->start[h]; }
static inline uint8_t *work_held(const kv_work *w, uint32_t h) { return w->held + w->start[h]; }

/* Scores of all heads by the policy's rule (score.c); budget in rows before roles (budget.c); keep lists (select.c). */
void kv_score_layer(kv_work *w);
void kv_budget_layer(kv_work *w);
void kv_select_head(const kv_work *w, uint32_t h, kv_keep *out);
void kv_merge_head(const kv_work *w, uint32_t h, kv_keep *out);
void kv_prune_head(const kv_work *w, uint32_t h, kv_keep *out);

/* Scores that look at queries, one file each: s [n]. */
void score_snapkv(const kv_work *w, uint32_t h, float *s);
void score_expected(const kv_work *w, uint32_t h, float *s);
void score_critic(const kv_work *w, uint32_t h, float *s);
void score_semantic(kv_work *w);

/* The newest `n` unmerged rows of a head become held. */
void hold_newest(const kv_head_view *v, uint32_t n, uint8_t *held);
uint32_t held_count(const uint8_t *held, uint32_t n);
/* Rows of the policy for one head when nothing but rows and share decides. */
uint32_t policy_rows(const kv_layer_view *v);

static inline const vec_ops *view_vec(const kv_layer_view *l) { return l->vec ? l->vec : vec_for(ISA_PLAIN); }
/* out[j] = a.row j of rows [n][d]. */
static inline void view_dots(const kv_layer_view *l, const float *a, const float *rows, uint32_t n, uint32_t d, float *out)
{
    view_vec(l)->dot_rows_f32(a, rows, d * sizeof *rows, n, d, out);
}
static inline float view_dot(const kv_layer_view *l, const float *a, const float *b, uint32_t d)
{
    float x;
    view_dots(l, a, b, 1, d, &x);
    return x;
}

/* attention [n] of window query i of query head `gi` of the group over the rows it sees (others 0), weights ln-counted. */
void window_attention(const kv_layer_view *l, const kv_head_view *v, uint32_t i, uint32_t gi, float *attention);

/* The threshold of the k best of x[i] (taken where use is NULL or !use[i]): x > *t are all among them, and *ties of those that
 * equal *t, counted from the low end. k may exceed what there is. NaN counts as the lowest. */
typedef struct { uint32_t key, ties; } top_cut;
top_cut top_find(const float *x, const uint8_t *skip, uint32_t n, uint32_t k);
/* In order of index: is x among the best? Uses up ties. */
bool top_takes(top_cut *c, float x);
#endif
