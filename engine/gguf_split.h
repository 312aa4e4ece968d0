#ifndef ENGINE_GGUF_SPLIT_H
#define ENGINE_GGUF_SPLIT_H
/* A model in several files and back in one. The names and keys (split.no, split.count, split.tensors.count) are those of
 * other GGUF programs; split.source_digest says which model a part belongs to. */
#include "engine/gguf_copy.h"

/* "PREFIX-00002-of-00003.gguf": the length of PREFIX, the number (from 1) and the count. */
bool gguf_part_name(const char *path, size_t *prefix, uint32_t *no, uint32_t *count);
/* PREFIX-00001-of-0000N.gguf ... with at most max_bytes of data each, but at least one tensor. The first part, without
 * which the others are nothing, gets its name last. *parts: how many. ERR_INPUT (too many), ERR_IO, ERR_NOMEM,
 * ERR_CANCELLED. */
err_code gguf_split(const gguf *g, const char *prefix, uint64_t max_bytes, gguf_meter *m, uint32_t *parts, err *e);
/* All tensors in one file at `out`. */
err_code gguf_merge(const gguf *g, const char *out, gguf_meter *m, err *e);
#endif
