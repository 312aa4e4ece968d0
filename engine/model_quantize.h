#ifndef ENGINE_MODEL_QUANTIZE_H
#define ENGINE_MODEL_QUANTIZE_H
/* A model file with its matrices in smaller types. Types are those of llama.cpp's files: a name such as Q4_K_M is a mix,
 * in which some matrices are kept wider. Tensors are streamed, so a model of any size needs little memory. */
#include "engine/gguf_copy.h"

typedef struct {
    const char *type;              /* a name of model_quantize_type */
    bool pure;                     /* every matrix in the main type, the output too */
    bool requantize;               /* take quantised input: what the first rounding lost stays lost */
    uint32_t threads;              /* 1 to 256; the bytes are the same for any number */
    gguf_progress *progress;       /* may be NULL */
    void *arg;
} model_quantize_options;
typedef struct { uint64_t bytes_in, bytes_out, converted, kept, fallbacks; } model_quantize_report;   /* tensors but bytes */

/* The i-th type's name, NULL behind the last. */
const char *model_quantize_type(size_t i);
/* ERR_INPUT (no such type, quantised input), ERR_MODEL (a tensor that cannot be read, or with values that are not
 * finite), ERR_IO, ERR_NOMEM, ERR_CANCELLED. On failure an older file at `out` stays. */
err_code model_quantize(const gguf *g, const char *out, const model_quantize_options *o, model_quantize_report *report, err *e);
#endif
