#ifndef ENGINE_GGUF_WRITE_H
#define ENGINE_GGUF_WRITE_H
/* Writes a GGUF v3 file in three steps: keys, tensor table, data. Data goes straight to the file, so a model of any size
 * needs little memory. The file has its name only when it is whole: until commit it is a temporary one beside it.
 * One thread at a time. Keys and tensors report their failures at begin, all at once: the first one counts. */
#include "engine/gguf.h"

typedef struct gguf_writer gguf_writer;

err_code gguf_writer_open(gguf_writer **out, const char *path, err *e);
/* Without a commit before: the temporary file is removed, an older file of that name stays. */
void gguf_writer_close(gguf_writer **w);

/* Keys, in order. Doubles are not looked for (the reader refuses them). */
void gguf_writer_u32(gguf_writer *w, const char *key, uint32_t v);
void gguf_writer_u64(gguf_writer *w, const char *key, uint64_t v);
void gguf_writer_f32(gguf_writer *w, const char *key, float v);
void gguf_writer_bool(gguf_writer *w, const char *key, bool v);
void gguf_writer_str(gguf_writer *w, const char *key, view v);
/* Any number kind: `value` points to one (or, for _arr, n) of them. */
void gguf_writer_num(gguf_writer *w, const char *key, gguf_kind kind, const void *value);
void gguf_writer_arr(gguf_writer *w, const char *key, gguf_kind elem, const void *values, uint64_t n);
void gguf_writer_strs(gguf_writer *w, const char *key, const view *v, uint64_t n);
/* A key with its value as raw bytes, as they stand in another GGUF, for copies. */
void gguf_writer_raw(gguf_writer *w, const char *key, gguf_kind kind, view value);

/* Next row of the tensor table; its data comes after the one before, at a multiple of 32. */
void gguf_writer_tensor(gguf_writer *w, const char *name, uint32_t ggml_type, uint32_t n_dims, const uint64_t *dim);
/* Write header and table; from here on data may come. ERR_MODEL (a tensor that no reader would take), ERR_IO, ERR_NOMEM. */
err_code gguf_writer_begin(gguf_writer *w, err *e);
uint64_t gguf_writer_bytes(const gguf_writer *w, uint64_t tensor);
/* n bytes of a tensor's data, `at` bytes into it, in any order. */
err_code gguf_writer_data(gguf_writer *w, uint64_t tensor, uint64_t at, const void *data, size_t n, err *e);
/* Refuses (ERR_STATE) when data is missing; then fsync and rename. */
err_code gguf_writer_commit(gguf_writer *w, err *e);
#endif
