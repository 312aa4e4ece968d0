#ifndef ENGINE_GGUF_PRIV_H
#define ENGINE_GGUF_PRIV_H
/* What engine/gguf.c (the door) and engine/gguf_parse.c (the checks) share; nobody else includes this. */
#include "engine/gguf.h"

typedef struct {
    uint64_t name;                      /* offset into names */
    gguf_kind kind, elem;
    uint64_t at, n;                     /* value: offset into head; string length or element count (1 for scalars) */
    uint64_t raw, raw_len;              /* the value as it stands in the file, inner lengths and all */
    uint32_t *str_at;                   /* string arrays: offset of each length field, relative to `at`; owned */
} gguf_entry;

typedef struct { const char *name; uint32_t i; } gguf_name;

struct gguf {
    char *path;
    int fd;
    uint64_t size;                      /* of the file */
    uint32_t version;
    char digest[33];
    uint8_t *head;                      /* bytes [0, data section) of the file */
    text names;                         /* key names, NUL after each */
    gguf_entry *key;
    gguf_tensor *tensor;
    gguf_name *key_ref, *tensor_ref;     /* sorted by name */
    uint64_t n_keys, n_tensors;
};

/* Bytes of one value of a kind; 0 for strings and arrays. */
extern const uint8_t gguf_kind_bytes[GGUF_KIND_COUNT];
/* Fill *g, whose fd and size are set; on failure gguf_close frees what is there. */
err_code gguf_parse(gguf *g, err *e);
const gguf_name *gguf_name_find(const gguf_name *ref, uint64_t n, const char *name);
#endif
