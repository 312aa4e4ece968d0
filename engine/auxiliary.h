#ifndef ENGINE_AUXILIARY_H
#define ENGINE_AUXILIARY_H
/* The small model that KV prediction runs in place of the base, arXiv:2410.08391: another GGUF file with the base's
 * vocabulary (KVP-C), or some of the base's own layers (KVP-LP), which need no second file and no second copy in memory.
 * Owns what may be an auxiliary and what it is called; refuses to run it. */
#include "engine/model.h"

#define AUX_LAYERS "layers:"   /* "layers:0,2,4": these layers of the base */

typedef struct {
    char name[256];            /* as asked for, layers in their shortest form */
    char digest[33];           /* of the file; of the base's layers: of the base's digest and their list */
    model_shape shape;         /* of a layers one: the base's with fewer layers */
    uint32_t n_kept, kept[MODEL_MAX_LAYERS]; /* n_kept 0: another file */
    gguf *file;                /* NULL: the base's */
    model *m;                  /* NULL unless loaded */
    model thin;                /* of a layers one, which m then points to */
} auxiliary;

/* Read and check: the file, its vocabulary against the base's, or the list. Maps no weights. ERR_IO, ERR_MODEL, ERR_CONFIG name
 * the thing and quote the bad value. */
err_code auxiliary_open(auxiliary **out, const char *what, const gguf *base, err *e);
/* Weights: of its file, packed where there is a cache; or those of `base`, which must hold all layers and the embedding and
 * outlive the auxiliary. */
err_code auxiliary_load(auxiliary *a, const model *base, const pack_options *o, uint32_t threads, err *e);
void auxiliary_close(auxiliary **a);
#endif
