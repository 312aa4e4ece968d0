#ifndef CLI_EVAL_KV_H
#define CLI_EVAL_KV_H
/* What the parts of `sluice eval kv` share: the policies on trial and what was measured of each. Trial 0 is the exact cache in f16,
 * against which the others are held. One thread. */
#include "core/settings.h"
#include "ops/cli/kv_lab.h"
#include "ops/cli/progress.h"

enum { KV_INSIDE = 0, KV_AFTER = 1, KV_ASKED = 2 };   /* the question is in the compressed prompt; it comes after it */
enum { KV_NEAR = 0, KV_FAR = 1 };

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
    uint64_t rows;
    double prefill, decode;    /* tokens in a second of processor time */
} kv_trial;

typedef struct {
    const settings *s;
    kv_lab lab;
    kv_trial *trial;           /* [n] */
    kv_policy *policy;         /* [n] of the trials, for kvlab_watch */
    size_t n;
    uint32_t prompt, windows, scored;  /* rows of a window's prompt; windows; rows scored in all */
    uint32_t needles, copies[2];       /* items; tokens to be copied at each distance */
    uint8_t *depth;            /* [needles] */
    uint64_t seed;
    uint64_t steps, done;      /* for the bar */
    progress bar;
} kv_eval;

/* The parts, in this order. Each does nothing when it was not asked for; after a Ctrl-C the figures are those of what was done. */
err_code eval_kv_text(kv_eval *v, err *e);
err_code eval_kv_induction(kv_eval *v, err *e);
err_code eval_kv_speed(kv_eval *v, err *e);
err_code eval_kv_needles(kv_eval *v, err *e);
err_code eval_kv_print(const kv_eval *v, err *e);

void eval_kv_step(kv_eval *v);
/* A fork's bytes, settled and alone. */
void eval_kv_count(kv_trial *t, const kv_seq *q);
#endif
