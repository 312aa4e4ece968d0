#ifndef ENGINE_GGUF_COPY_H
#define ENGINE_GGUF_COPY_H
/* From one GGUF to another: what quantising, splitting and merging share. One thread. */
#include "engine/gguf_write.h"

/* How far a conversion is, in bytes of input; false: stop (ERR_CANCELLED). Called every few MiB. */
typedef bool gguf_progress(void *arg, uint64_t done, uint64_t total);
typedef struct { gguf_progress *fn; void *arg; uint64_t done, total; } gguf_meter;    /* fn may be NULL */

/* n more bytes are done. ERR_CANCELLED. */
err_code gguf_meter_add(gguf_meter *m, uint64_t n, err *e);
/* All keys but those that speak of the file itself: split.*, another general.alignment than the writer's, and `skip`
 * (NULL-terminated, may be NULL). */
void gguf_copy_keys(gguf_writer *w, const gguf *g, const char *const *skip);
/* A row of the table for t, as type. */
void gguf_copy_entry(gguf_writer *w, const gguf_tensor *t, uint32_t type);
/* The data of t, unchanged, to the writer's tensor `to`. */
err_code gguf_copy_data(gguf_writer *w, uint64_t to, const gguf *g, const gguf_tensor *t, gguf_meter *m, err *e);
/* Bytes of all tensors. */
uint64_t gguf_data_bytes(const gguf *g);
/* ERR_INPUT when both paths are the same file: converting in place would lose the only copy. */
err_code gguf_copy_check(const gguf *g, const char *out, err *e);
#endif
