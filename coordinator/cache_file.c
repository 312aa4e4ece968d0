#include "coordinator/cache_file.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "heads are copied as they lie in memory");

/* Grows by one when the meaning of any byte changes; other versions are refused. */
#define CACHE_VERSION 1u
enum { TOKENS_MAX = 1 << 24, STREAM_MAX = 1 << 28 }; /* proto/messages.def */

static const char magic[8] = { 'S', 'L', 'U', 'I', 'C', 'E', 'P', 'C' };
typedef struct {
    char magic[8];
    uint32_t version, format, path, layers, rope_long, tokens;
    uint64_t parts;
    double lora_scale;
    char digest[32], lora[32];
} file_head;
typedef struct {
    uint32_t layer, from, to, zero;
    uint64_t bytes;
} part_head;
_Static_assert(sizeof(file_head) == 112 && sizeof(part_head) == 24, "both are copied whole: no padding");

static err_code no_memory(err *e)
{
    return err_set(e, ERR_NOMEM, "out of memory for the prompt cache");
}

static uint64_t chain_of(uint64_t before, const part_head *h, const void *stream)
{
    return XXH3_64bits_withSeed(stream, h->bytes, XXH3_64bits_withSeed(h, sizeof *h, before));
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

struct cache_reader {
    FILE *f;
    char path[1024];
    file_head head;
    uint32_t *token;
    text stream;
    uint64_t first_chain, chain, at, size;
    long first;
};

static err_code damaged(const cache_reader *r, const char *what, err *e)
{
    return err_set(e, ERR_PROTO, "%s is damaged: %s", r->path, what);
}

static bool get(cache_reader *r, void *p, size_t n)
{
    return fread(p, 1, n, r->f) == n;
}

static file_head head_of(const cache_key *k)
{
    file_head h = { .version = CACHE_VERSION,
                    .format = k->format,
                    .path = k->path,
                    .layers = k->layers,
                    .rope_long = k->rope_long,
                    .lora_scale = k->lora[0] ? k->lora_scale : 0 };
    memcpy(h.magic, magic, sizeof magic);
    memcpy(h.digest, k->digest, sizeof h.digest);
    memcpy(h.lora, k->lora, sizeof h.lora);
    return h;
}

static err_code fits(const cache_reader *r, const cache_key *want, err *e)
{
    const file_head w = head_of(want), *h = &r->head;
    const char *what = NULL;
    if (h->version != w.version) what = "version of the file";
    else if (memcmp(h->digest, w.digest, sizeof w.digest) || h->layers != w.layers) what = "model";
    else if (memcmp(h->lora, w.lora, sizeof w.lora) || memcmp(&h->lora_scale, &w.lora_scale, sizeof w.lora_scale)) what = "adapter";
    else if (h->format != w.format) what = "format of cached rows (--kv)";
    else if (h->path != w.path) what = "arithmetic path of prompts (--arith, --prompt-arith)";
    else if (h->rope_long != w.rope_long) what = "set of rotary factors (--ctx)";
    return what ? err_set(e, ERR_STATE, "%s was made with another %s", r->path, what) : ERR_OK;
}

static err_code read_tokens(cache_reader *r, err *e)
{
    uint64_t chain, n = r->head.tokens;
    if (!n || n > TOKENS_MAX || n * sizeof *r->token > r->size) return damaged(r, "the number of tokens", e);
    if (!(r->token = malloc(n * sizeof *r->token))) return no_memory(e);
    if (!get(r, r->token, n * sizeof *r->token) || !get(r, &chain, sizeof chain)) return damaged(r, "it is too short", e);
    r->first_chain = XXH3_64bits_withSeed(r->token, n * sizeof *r->token, XXH3_64bits(&r->head, sizeof r->head));
    if (chain != r->first_chain) return damaged(r, "its tokens", e);
    r->chain = chain;
    r->first = ftell(r->f);
    return ERR_OK;
}

static err_code open_file(cache_reader *r, const char *path, err *e)
{
    struct stat st;
    snprintf(r->path, sizeof r->path, "%s", path);
    r->f = fopen(path, "re");
    if (!r->f) return err_set(e, errno == ENOENT ? ERR_ABSENT : ERR_INPUT, "%s: %s", path, strerror(errno));
    bool plain = !fstat(fileno(r->f), &st) && S_ISREG(st.st_mode);
    if (plain) r->size = (uint64_t)st.st_size;
    if (!plain || !get(r, &r->head, sizeof r->head) || memcmp(r->head.magic, magic, sizeof magic))
        return err_set(e, ERR_INPUT, "%s is no prompt cache, and is left alone", path);
    return ERR_OK;
}

err_code cache_read_open(cache_reader **out, const char *path, const cache_key *want, err *e)
{
    cache_reader *r = calloc(1, sizeof *r);
    *out = NULL;
    if (!r) return no_memory(e);
    err_code rc = open_file(r, path, e);
    if (!rc) rc = fits(r, want, e);
    if (!rc) rc = read_tokens(r, e);
    if (rc) cache_read_close(&r);
    *out = r;
    return rc;
}

void cache_read_close(cache_reader **r)
{
    if (!*r) return;
    if ((*r)->f) fclose((*r)->f);
    free((*r)->token);
    text_free(&(*r)->stream);
    free(*r);
    *r = NULL;
}

const uint32_t *cache_read_tokens(const cache_reader *r, uint32_t *n)
{
    return *n = r->head.tokens, r->token;
}

err_code cache_read_part(cache_reader *r, cache_part *p, view *stream, bool *end, err *e)
{
    part_head h;
    uint64_t chain;
    *end = r->at == r->head.parts;
    if (*end) return ERR_OK;
    if (!get(r, &h, sizeof h)) return damaged(r, "it is too short", e);
    if (!h.bytes || h.bytes > STREAM_MAX || h.bytes > r->size || h.layer >= r->head.layers || h.from >= h.to ||
        h.to > r->head.tokens)
        return damaged(r, "the head of a part", e);
    text_clear(&r->stream);
    if (!text_reserve(&r->stream, h.bytes)) return no_memory(e);
    if (!get(r, r->stream.ptr, h.bytes) || !get(r, &chain, sizeof chain)) return damaged(r, "it is too short", e);
    if (chain != chain_of(r->chain, &h, r->stream.ptr)) return damaged(r, "its rows", e);
    r->chain = chain;
    r->at++;
    *p = (cache_part){ h.layer, h.from, h.to };
    *stream = (view){ r->stream.ptr, h.bytes };
    return ERR_OK;
}

err_code cache_read_again(cache_reader *r, err *e)
{
    r->at = 0;
    r->chain = r->first_chain;
    return fseek(r->f, r->first, SEEK_SET) ? err_set(e, ERR_IO, "%s: %s", r->path, strerror(errno)) : ERR_OK;
}

/* ---- writing ------------------------------------------------------------------------------------------------------- */

struct cache_writer {
    FILE *f;
    char path[1024], temp[1060];
    uint64_t chain;
};

static err_code put(cache_writer *w, const void *p, size_t n, err *e)
{
    return fwrite(p, 1, n, w->f) == n ? ERR_OK : err_set(e, ERR_IO, "%s: %s", w->temp, strerror(errno));
}

static err_code write_head(cache_writer *w, const cache_key *key, const uint32_t *tokens, uint32_t n, uint64_t parts, err *e)
{
    file_head h = head_of(key);
    h.tokens = n;
    h.parts = parts;
    w->chain = XXH3_64bits_withSeed(tokens, n * sizeof *tokens, XXH3_64bits(&h, sizeof h));
    err_code rc = put(w, &h, sizeof h, e);
    if (!rc) rc = put(w, tokens, n * sizeof *tokens, e);
    return rc ? rc : put(w, &w->chain, sizeof w->chain, e);
}

err_code cache_write_open(cache_writer **out, const char *path, const cache_key *key, const uint32_t *tokens, uint32_t n,
                          uint64_t parts, err *e)
{
    static uint32_t made;
    cache_writer *w = calloc(1, sizeof *w);
    *out = NULL;
    if (!w) return no_memory(e);
    snprintf(w->path, sizeof w->path, "%s", path);
    snprintf(w->temp, sizeof w->temp, "%s.%d.%u", w->path, (int)getpid(), ++made);
    w->f = fopen(w->temp, "wex");
    err_code rc = w->f ? write_head(w, key, tokens, n, parts, e) : err_set(e, ERR_IO, "%s: %s", w->temp, strerror(errno));
    if (!rc) return *out = w, ERR_OK;
    err quiet;
    cache_write_close(&w, false, &quiet);
    return rc;
}

err_code cache_write_part(cache_writer *w, const cache_part *p, view stream, err *e)
{
    part_head h = { p->layer, p->from, p->to, 0, stream.len };
    w->chain = chain_of(w->chain, &h, stream.ptr);
    err_code rc = put(w, &h, sizeof h, e);
    if (!rc) rc = put(w, stream.ptr, stream.len, e);
    return rc ? rc : put(w, &w->chain, sizeof w->chain, e);
}

err_code cache_write_close(cache_writer **wp, bool keep, err *e)
{
    cache_writer *w = *wp;
    *wp = NULL;
    if (!w) return ERR_OK;
    bool there = w->f != NULL, ok = there && !ferror(w->f);
    if (there && fclose(w->f)) ok = false;
    ok = ok && (!keep || !rename(w->temp, w->path));
    err_code rc = ok ? ERR_OK : err_set(e, ERR_IO, "%s: %s", w->path, strerror(errno));
    if (there && (!keep || !ok)) unlink(w->temp);
    free(w);
    return rc;
}
