#ifndef ENGINE_KVLEARN_H
#define ENGINE_KVLEARN_H
/* Calibration of KV prediction: base and auxiliary read the same tokens, and what they made of them is fitted
 * (engine/kvfit.h). Tokens come in windows, each read alone from position 0 as a prompt is; every KVLEARN_HELD-th is held out
 * to choose lambda, the last one at least. The first rows of a window are attention sinks, which prediction leaves to the
 * base: they are not fitted. Where not all layers fit into memory the text is read again for the next ones, and so it is for every
 * reweighting (engine/kvfit.h).
 *
 * by_attention: a row counts in a layer by the attention that the base's later rows of the window pay to it there, all heads added up,
 * the mean of a window's rows being 1: an error in a row that nobody looks at does no harm. A window is then read in one step.
 * Owns this order; refuses to tokenize or to choose a text. */
#include "engine/predictor.h"

enum { KVLEARN_HELD = 8, KVLEARN_SINKS = 4 };

typedef struct {
    const gguf *base;
    auxiliary *aux;              /* open; its weights are loaded by kvlearn */
    const uint32_t *const *window; /* [n_windows][len]: tokens, BOS included where the model wants one */
    const uint32_t *len;
    uint32_t n_windows;
    kvmap_inputs inputs;
    bool by_attention;
    uint32_t reweight;           /* times; 0: least squares */
    uint32_t rank;               /* of a map at most, 0: full */
    wtype type;                  /* how maps are stored: F16 or Q8_0 (inputs a multiple of 32, else F16) */
    path_id path;
    kv_format format;
    isa isa;
    pool *pool;
    pack_options pack;
    uint64_t bytes;              /* memory for sums, about; one layer always fits */
    err_code (*tick)(void *arg, uint64_t done, uint64_t total, err *e); /* tokens, all passes; an error ends it. NULL: nobody looks */
    void *arg;
} kvlearn_task;

/* Fill the section of a profile that is being written. ERR_INPUT: too few windows. */
err_code kvlearn(const kvlearn_task *t, profile_writer *out, predictor_notes *notes, err *e);
#endif
