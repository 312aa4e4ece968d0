#ifndef CLI_EVAL_KV_H
#define CLI_EVAL_KV_H
/* What the parts of `sluice eval kv` share: the policies on trial and what was measured of each. Trial 0 is the exact cache in f16,
 * against which the others are held. One thread. */
#include "core/settings.h"
#include "ops/cli/kv_lab.h"
#include "ops/cli/progress.h"
#include <jansson.h>

enum { KV_INSIDE = 0, KV_AFTER = 1, KV_ASKED = 2 };   /* the question is in the compressed prompt; it comes after it */
enum { KV_NEAR = 0, KV_FAR = 1 };
enum { KV_TEXT = 1, KV_COPIES = 2, KV_SPEED = 4, KV_NEEDLES = 8 };   /* --parts */

typedef struct {
    char name[64];
    kv_policy policy;
    bool oracle;               /* rows are drawn, but those that an answer needs are kept: what a score could reach */
    double *kl;                /* [scored] */
    double *kl_window;         /* [windows] mean of each */
    double *nll_window;        /* [windows] mean of each */
    uint64_t top_same;         /* of scored */
    uint8_t *right[KV_ASKED];  /* [needles] */
    uint32_t copied[2];        /* by distance, of eval.copies */
    double bytes[3];           /* data, meta, seen: summed over prompts, of `rows` rows */
    uint64_t read, there;      /* rows x heads that layers with a choice read while the text was scored; those there were */
    uint64_t rows;
    double prefill, decode;    /* tokens in a second of processor time */
} kv_trial;

typedef struct {
    const settings *s;
    kv_lab lab;
    kv_trial *trial;           /* [n] */
    kv_policy *policy;         /* [n] of the trials, for kvlab_watch */
    size_t n;
    const kv_trial *against;   /* --against, NULL: none */
    uint32_t prompt, windows, scored;  /* rows of a window's prompt; windows; rows scored in all */
    uint32_t needles, copies[2];       /* items; tokens to be copied at each distance */
    uint32_t parts;            /* KV_TEXT and on */
    uint64_t seed;
    uint64_t steps, done;      /* for the bar */
    progress bar;
} kv_eval;

/* The parts, in this order. Each does nothing when it was not asked for; after a Ctrl-C the figures are those of what was done. */
err_code eval_kv_text(kv_eval *v, err *e);
err_code eval_kv_induction(kv_eval *v, err *e);
err_code eval_kv_speed(kv_eval *v, err *e);
err_code eval_kv_needles(kv_eval *v, err *e);

/* What was measured: { about, rows: [...] }, a row a policy, with the outcome of each needle by seed ("items"). NULL with e set. */
json_t *eval_kv_figures(const kv_eval *v, err *e);
/* A row's needle figures from its items, anew. */
err_code eval_kv_needle_figures(json_t *row, uint64_t seed, err *e);
/* Figures of several runs as those of one: needles of all seeds, and of each policy what the first run that measured it says of the
 * rest. ERR_INPUT: the runs are of different models, prompts or policies, or differ about the same needles. */
err_code eval_kv_merge(const settings *s, json_t **out, err *e);
err_code eval_kv_print(const settings *s, json_t *all, err *e);

void eval_kv_step(kv_eval *v);
/* A fork's bytes, settled and alone. */
void eval_kv_count(kv_trial *t, const kv_seq *q);
#endif
