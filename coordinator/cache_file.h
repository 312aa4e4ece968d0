#ifndef COORDINATOR_CACHE_FILE_H
#define COORDINATOR_CACHE_FILE_H
/* The file of --prompt-cache: the tokens of a prompt and their KV, as kvstore's export streams of one layer and some rows
 * each, so that any number of stages can take it. Owns the format; trusts nothing in it. Main thread only.
 *
 * All little-endian, no padding:
 *   head    magic "SLUICEPC", u32 version, format, path, layers, rope_long, tokens, u64 parts, f64 lora scale,
 *           32 bytes digest of the model, 32 bytes digest of the LoRA adapter (NUL: none)
 *   tokens  u32 [tokens]
 *   chain   u64 xxh3 of all before
 *   parts   [parts] x { u32 layer, from, to, 0, u64 bytes, the stream, u64 chain }, chain: xxh3 of the part with the chain
 *           before it as seed, so that no part can be changed, left out or moved. Rows ascend; layers of the same rows follow
 *           each other. */
#include "core/buf.h"
#include "core/err.h"
#include <stdbool.h>
#include <stdint.h>

/* What must be the same for the KV of the same tokens to be the same, bit for bit. */
typedef struct {
    char digest[33], lora[33]; /* of model and adapter, "" for none */
    double lora_scale;
    uint32_t format, path, layers;
    uint32_t rope_long; /* the long set of rotary factors is in use */
} cache_key;

typedef struct {
    uint32_t layer, from, to;
} cache_part;

typedef struct cache_reader cache_reader;
typedef struct cache_writer cache_writer;

/* ERR_ABSENT: no such file. ERR_INPUT: it is no prompt cache at all (and must not be overwritten). ERR_STATE: it is of another
 * model, adapter, format or path, which the text names. ERR_PROTO: damaged. */
err_code cache_read_open(cache_reader **out, const char *path, const cache_key *want, err *e);
void cache_read_close(cache_reader **r);
const uint32_t *cache_read_tokens(const cache_reader *r, uint32_t *n);
/* The next part; the stream is the reader's until the next call. *end: there is none. ERR_PROTO: damaged. */
err_code cache_read_part(cache_reader *r, cache_part *p, view *stream, bool *end, err *e);
/* Back to the first part. */
err_code cache_read_again(cache_reader *r, err *e);

err_code cache_write_open(cache_writer **out, const char *path, const cache_key *key, const uint32_t *tokens, uint32_t n,
                          uint64_t parts, err *e);
err_code cache_write_part(cache_writer *w, const cache_part *p, view stream, err *e);
/* keep: the file takes its name, in one move; else nothing stays. */
err_code cache_write_close(cache_writer **w, bool keep, err *e);
#endif
