#ifndef ENGINE_PACK_IMPL_H
#define ENGINE_PACK_IMPL_H
/* The format of a file of packed weights, shared by engine/pack.c (finding, checking), engine/pack_write.c (making) and
 * engine/pack_cache.c (the folder). Little-endian; a header, [count] tensors, then the tensors' bytes, each from a page on.
 * Private to those. */
#include "engine/pack.h"
#include "engine/packed.h"

#define PACK_MAGIC "SLUPACK1"
#define PACK_SUFFIX ".pack"
enum { PACK_PAGE = 4096, PACK_HUGE = 2 << 20, PACK_TENSORS_MAX = 1 << 16 };

typedef struct {
    char magic[8];
    uint32_t layout, count;
    uint8_t key[16];
    uint64_t bytes;              /* of the file */
    uint64_t hash;               /* XXH3 of the tensor table */
    char model[256];             /* the file it was made from, for people */
} pack_head;

typedef struct {
    char name[GGUF_NAME_MAX];
    uint32_t type, n_in;         /* wtypes[].ggml_id */
    uint64_t n_out, offset, bytes, hash;
} pack_tensor;

/* XXH3-128 that names the packed weights of g; ERR_IO. */
err_code pack_key(const gguf *g, uint8_t key[16], err *e);
/* Is this tensor one that a product may want packed? Embeddings only where they are the head too. */
bool pack_wants(const gguf *g, const gguf_tensor *t, wtype *type);
/* Write the whole file to fd. */
err_code pack_write(int fd, const gguf *g, const uint8_t key[16], uint32_t threads, const pack_meter *m, err *e);
/* Bytes that pack_write will write, 0: nothing to pack. */
uint64_t pack_size(const gguf *g);
/* Remove the longest unused files until `need` more bytes fit under the cap. ERR_FULL when they never will. */
err_code pack_make_room(const pack_options *o, const char *dir, uint64_t need, err *e);
#endif
