#ifndef CLI_CALIBRATE_KV_H
#define CLI_CALIBRATE_KV_H
/* Section kv of a profile: what the files of it share. Each phase goes over some windows (units); what it adds up lies in blocks of
 * the calibration, so that a stopped run goes on at the next unit. Private to ops/cli/calibrate_kv*.c. */
#include "engine/codebook.h"
#include "engine/heads.h"
#include "ops/cli/calibrate.h"

enum { KV_SEMANTIC = 4 };              /* query heads a layer, arXiv:2508.02401 */
/* Rows at the head of a window that thresholds and books leave out: they stay exact (policies of nuq have sinks = 4). */
enum { KV_SINKS = 4 };
enum { KV_PERIODS = 6 };

typedef struct {
    uint32_t L, H, K, d;
    float *echo, *induction;           /* [KV_PERIODS][L][K], by period of the repeated random ids */
    double *mass, *mass_all;           /* [L][H] attention to needles: where the model said them, and everywhere */
    double *runs;                      /* [2] needles that counted, needles */
    double *error;                     /* [L] */
    double *kl;                        /* [L][K], sums over windows */
    float *tail;                       /* [L] of tails */
    codebook_sums *book;               /* [L][2] */
    uint64_t *rows;                    /* rows in the tails */
} kv_sums;

typedef struct {
    calibration *c;
    lab *lab;
    heads *heads;
    kv_sums sum;
    uint32_t *ids;                     /* [window] */
    float *alpha;                      /* [L][K] in force in the store's tables */
    float *given;                      /* [L][K] role scores of --roles; NULL: they are measured */
    kv_tables tables;
    err_code rc;                       /* of a watch */
    err *e;
    uint8_t *semantic;                 /* [L][4] when known */
    float *k_lo, *k_hi;                /* [L][K*d] when known */
    void *scratch;                     /* of the phase that runs; freed after it */
    uint32_t unit;                     /* of the phase roles */
    uint32_t alpha_window;             /* whose prompt is in the store, UINT32_MAX: none */
    float *truth;                      /* its logits */
} kv_study;

/* A phase: units of work, before the first of this run, one unit. Blocks are opened by calibrate_kv.c. */
typedef struct {
    const char *name;
    uint64_t (*units)(const kv_study *y);
    err_code (*begin)(kv_study *y, err *e);
    err_code (*unit)(kv_study *y, uint64_t i, err *e);
} kv_phase;
extern const kv_phase kv_phase_roles, kv_phase_needles, kv_phase_errors, kv_phase_alpha, kv_phase_tails, kv_phase_books;

/* y->ids: BOS (or any token), then n_ids plain tokens that repeat after `period`, all different while the vocabulary lasts. */
#define KV_SEED 0x5eed0f1d5u           /* the same model, the same ids */
err_code kv_random_ids(kv_study *y, uint32_t n_ids, uint32_t period, uint64_t seed, err *e);
/* Feed ids [n] to a fresh sequence in one step, watched. */
err_code kv_study_window(kv_study *y, uint32_t n, forward_watch *fn, lab_rows *rows, err *e);
/* The four query heads of each layer, best first (255: there is none). */
void kv_semantic_choose(const kv_sums *s, uint8_t *out);
/* The period with the clearest head, and its scores [L][K]. */
uint32_t kv_period_choose(const kv_study *y, float **echo, float **induction);
/* RazorAttention: local [heads] 0 for retrieval heads: the best 1 % by echo and the best 14 % by induction, one of each at least.
 * Returns how many are kept. */
uint32_t kv_roles_choose(const float *echo, const float *induction, size_t heads, float *local);
/* --roles: L lines of K numbers. ERR_INPUT quotes a line. */
err_code kv_roles_read(const char *file, uint32_t L, uint32_t K, float *out, err *e);
tails kv_tails(const kv_study *y);
void kv_thresholds(kv_study *y);
#endif
