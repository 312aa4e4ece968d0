#ifndef ENGINE_GGUF_PRIV_H
#define ENGINE_GGUF_PRIV_H
/* What engine/gguf.c (the door), engine/gguf_parse.c (the checks) and engine/gguf_parts.c share; nobody else includes this. */
#include "engine/gguf.h"

typedef struct {
    uint64_t name;                      /* offset into names */
    gguf_kind kind, elem;
    uint64_t at, n;                     /* value: offset into head; string length or element count (1 for scalars) */
    uint64_t raw, raw_len;              /* the value as it stands in the file, inner lengths and all */
    uint32_t *str_at;                   /* string arrays: offset of each length field, relative to `at`; owned */
} gguf_entry;

typedef struct { const char *name; uint32_t i; } gguf_name;

/* A file; `base`: where its first byte is when the parts are laid end to end. */
typedef struct { char *path; int fd; uint64_t size, base; } gguf_file;

struct gguf {
    gguf_file file, *more;              /* the first one, and [n_more] other parts */
    uint32_t n_more;
    uint32_t version;
    char digest[33];
    uint8_t *head;                      /* bytes [0, data section) of the file */
    text names;                         /* key names, NUL after each */
    gguf_entry *key;
    gguf_tensor *tensor;
    gguf_name *key_ref, *tensor_ref;     /* sorted by name */
    uint64_t n_keys, n_tensors;
};

#define GGUF_TENSORS_MAX (1u << 20)     /* 512 layers of 1,000 tensors are half of it */

/* One file by itself, whether or not it says that there are others. */
err_code gguf_open_one(gguf **out, const char *path, err *e);
/* Find and take in the other parts, when there are any. */
err_code gguf_join_parts(gguf *g, err *e);
/* Order by name, then by number (qsort). */
int gguf_name_order(const void *a, const void *b);
/* Bytes of one value of a kind; 0 for strings and arrays. */
extern const uint8_t gguf_kind_bytes[GGUF_KIND_COUNT];
/* Fill *g, whose file is open; on failure gguf_close frees what is there. */
err_code gguf_parse(gguf *g, err *e);
const gguf_name *gguf_name_find(const gguf_name *ref, uint64_t n, const char *name);
#endif
