#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H
/* GGUF v2/v3 reader. Opening reads the header (keys, tensor table) into memory and keeps the file open: of the data
 * only what somebody maps with gguf_map is in memory. Of a model in parts (NAME-00001-of-0000N.gguf) the first file is
 * given; the others are looked for beside it, and all tensors appear as those of one file. Every count, length, offset,
 * type and dimension is checked against the bytes that are left in the file before it is used (nothing is reserved
 * because a file claims it). Immutable after open: any thread may read. */
#include "core/buf.h"
#include "core/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GGUF_MAX_DIMS 4
#define GGUF_NAME_MAX 64                       /* ggml's own limit, bytes with NUL */
#define GGUF_PARTS_MAX 512                     /* each keeps a file descriptor; a usual process may have 1024 */

typedef enum { GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STR, GGUF_ARR,
               GGUF_U64, GGUF_I64, GGUF_F64, GGUF_KIND_COUNT } gguf_kind;

typedef struct {
    char name[GGUF_NAME_MAX];
    uint32_t type;                             /* ggml type id; engine/wtype.h knows which we compute with */
    uint32_t n_dims;
    uint64_t dim[GGUF_MAX_DIMS];               /* dim[0] runs fastest (row length); absent ones are 1 */
    uint64_t offset, bytes;                    /* for gguf_map: in the file, absolute, the parts laid end to end */
} gguf_tensor;

typedef struct gguf gguf;

/* ERR_IO (cannot read), ERR_MODEL (says which thing, where, and the bad value). */
err_code gguf_open(gguf **out, const char *path, err *e);
void gguf_close(gguf **g);

const char *gguf_path(const gguf *g);
uint32_t gguf_version(const gguf *g);
/* Files of the model: 1, or the parts of it; the i-th one's path. */
uint32_t gguf_n_parts(const gguf *g);
const char *gguf_part_path(const gguf *g, uint32_t i);
/* 32 hex digits + NUL: XXH3-128 of header and tensor table (all bytes before the data section) and the file size; of
 * several parts, that of their digests. */
const char *gguf_digest(const gguf *g);

uint64_t gguf_n_keys(const gguf *g);
const char *gguf_key(const gguf *g, uint64_t i, gguf_kind *kind);
/* The value of key i as it stands in the file (lengths of strings and arrays included); for copying it to another. */
view gguf_raw(const gguf *g, uint64_t i);
/* Typed look-ups: true and *out set when the key exists with a fitting kind. Integers of any width convert when the
 * value fits. Views stay valid until gguf_close. */
bool gguf_get_u64(const gguf *g, const char *key, uint64_t *out);
bool gguf_get_f64(const gguf *g, const char *key, double *out);
bool gguf_get_bool(const gguf *g, const char *key, bool *out);
bool gguf_get_str(const gguf *g, const char *key, view *out);
/* Arrays: element kind and count; 0 elements / false when absent. */
bool gguf_get_arr(const gguf *g, const char *key, gguf_kind *elem, uint64_t *n);
bool gguf_arr_str(const gguf *g, const char *key, uint64_t i, view *out);
bool gguf_arr_f64(const gguf *g, const char *key, uint64_t i, double *out);   /* any number kind */
bool gguf_arr_i64(const gguf *g, const char *key, uint64_t i, int64_t *out);  /* integer kinds */

uint64_t gguf_n_tensors(const gguf *g);
const gguf_tensor *gguf_tensor_at(const gguf *g, uint64_t i);
const gguf_tensor *gguf_tensor_find(const gguf *g, const char *name);   /* NULL when absent */

/* Bytes of a file made fit for a message: printable ASCII, '?' for the rest, cut at 92 with "...". Returns buf. */
const char *gguf_printable(char buf[static 96], view v);

/* One contiguous read-only mapping of the range [offset, offset+bytes), which lies in one file, rounded out to pages. */
typedef struct { void *base; size_t len; const uint8_t *data; } gguf_range;
err_code gguf_map(const gguf *g, uint64_t offset, uint64_t bytes, gguf_range *out, err *e);
void gguf_unmap(gguf_range *r);
#endif
