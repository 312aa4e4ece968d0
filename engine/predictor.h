#ifndef ENGINE_PREDICTOR_H
#define ENGINE_PREDICTOR_H
/* Predicts the KV rows of a prompt: runs an auxiliary model over it and maps what that made to K and V of every layer of the base
 * (engine/kvmap.h has the paper and the equation). The maps are the section "predict" of a profile:
 *   texts inputs; numbers aux_layers, aux_kv, aux_width; arrays source, lambda_k, lambda_v, error_k, error_v [base layers]
 *   tensors LAYER.k, LAYER.v [K*d][inputs], LAYER.kb, LAYER.vb [K*d]
 * Owns the auxiliary's KV rows and the order of things; refuses to decide which rows are predicted. One thread calls, the
 * pool's work inside. */
#include "engine/auxiliary.h"
#include "engine/kvfit.h"
#include "engine/profile.h"

typedef struct {
    const char *aux;            /* a file, or AUX_LAYERS... */
    const char *profile;        /* NULL: beside the base's file */
    const gguf *base;
    path_id path;               /* of the auxiliary's rows */
} predictor_source;

/* explained: mean share of variance of K and V that the maps find on held-out rows. */
typedef struct { char aux[256], aux_digest[33], profile[33]; double explained; } predictor_facts;
/* All that can be checked without weights. ERR_CONFIG: the profile is of another base, auxiliary or path, or has no maps; ERR_MODEL,
 * ERR_IO: a file that is missing or damaged, another tokenizer. */
err_code predictor_look(const predictor_source *s, predictor_facts *out, err *e);

typedef struct {
    const model *base;          /* all layers and the embedding; outlives the predictor */
    pool *pool;
    pack_options pack;
    isa isa;
    uint32_t n_ctx, max_rows;
    kv_format format;           /* of the auxiliary's rows */
} predictor_place;

typedef struct predictor predictor;
err_code predictor_open(predictor **out, const predictor_source *s, const predictor_place *at, err *e);
void predictor_close(predictor **p);

/* Another prompt. */
err_code predictor_begin(predictor *p, err *e);
/* The auxiliary runs rows [first, first + n) of the prompt, n <= max_rows, `first` the rows it has run since begin. A sequence `base` of
 * the base that has committed at least the rows before `first` gets those of these that it lacks, as committed ones of provenance
 * KV_PREDICTED. off [base layers]: as the sequence was opened (kv_seq_open_skipping), NULL: no layer leaves out rows. */
err_code predictor_rows(predictor *p, kv_seq *base, const uint32_t *off, const uint32_t *tokens, uint32_t first, uint32_t n, err *e);

/* For calibration: the section's values, and one layer's maps (w [out][width], b [out]) stored as `type`. */
typedef struct { kvfit_note note[KVMAP_SIDES][MODEL_MAX_LAYERS]; } predictor_notes;
void predictor_put_head(profile_writer *w, const kvmap_shape *s, const predictor_notes *n);
void predictor_put_map(profile_writer *w, const kvmap_shape *s, uint32_t layer, int side, wtype type, const float *map, const float *b);
#endif
