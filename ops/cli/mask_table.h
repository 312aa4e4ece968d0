#ifndef CLI_MASK_TABLE_H
#define CLI_MASK_TABLE_H
/* What `sluice eval masks` has found, and its table: means, and differences between two ways of choosing on the same items with 95 %
 * intervals (paired bootstrap). Runs nothing. */
#include "core/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MASK_TRIALS = 64, MASK_SETS = 8 };

typedef struct {
    char name[96];
    uint32_t layers;              /* of its budget; 0: none */
    bool adapted;                 /* with the adapter */
    double skipped;               /* share of the layers' weights, mean over items */
    float *kl, *nats, *right;     /* [items] nats a token; nats over all the answer's tokens that it could change; 0 to 1. NAN: not tried */
} mask_trial;

typedef struct {
    mask_trial trial[MASK_TRIALS];
    uint32_t n_trials;
    const char *set[MASK_SETS];   /* names: files */
    size_t first[MASK_SETS + 1];  /* items of each */
    uint32_t n_sets;
    bool asked[MASK_SETS];        /* questions: right or wrong means something */
    size_t done;                  /* items */
} mask_results;

/* A table a set, and one of all questions; or one JSON object. ERR_NOMEM, ERR_IO. */
err_code mask_table_print(const mask_results *m, bool json, err *e);
#endif
