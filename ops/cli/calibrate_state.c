#include "ops/cli/calibrate_state.h"
#include "core/buf.h"
#include "core/clock.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* The file: head, then for each block its name's length, its size, its hash, name, bytes. A block that was in the file waits until
 * somebody asks for it; blocks nobody asks for are written again. */

enum { NAME_MAX_BYTES = 100, PERIOD_NS = 1000000000, PERIODS = 10, SHARE = 20 };
#define FILE_MOST ((size_t)1 << 36)     /* of a state: sums of the largest models are a few GiB */
static const char magic[8] = "slcalib1";

typedef struct { char name[NAME_MAX_BYTES]; void *data; uint64_t bytes; } block;
typedef struct { uint64_t name, bytes, hash; } block_head;

struct calibrate_state {
    char *file;
    uint64_t key[2];
    block *block;
    size_t n;
    bool found;
    uint64_t saved_ns, took_ns;
};

static block *block_add(calibrate_state *s, const char *name, size_t len, uint64_t bytes)
{
    block *more = realloc(s->block, (s->n + 1) * sizeof *more);
    if (!more) return NULL;
    s->block = more;
    block *b = &more[s->n];
    *b = (block){ .bytes = bytes, .data = calloc(1, bytes ? bytes : 1) };
    if (!b->data) return NULL;
    memcpy(b->name, name, len);
    s->n++;
    return b;
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

static bool take(view *in, void *to, size_t n)
{
    if (in->len < n) return false;
    memcpy(to, in->ptr, n);
    *in = (view){ (const char *)in->ptr + n, in->len - n };
    return true;
}

static bool take_block(calibrate_state *s, view *in)
{
    block_head h;
    char name[NAME_MAX_BYTES] = "";
    if (!take(in, &h, sizeof h) || h.name >= NAME_MAX_BYTES || !take(in, name, h.name) || h.bytes > in->len) return false;
    if (XXH3_64bits(in->ptr, h.bytes) != h.hash) return false;
    block *b = block_add(s, name, h.name, h.bytes);
    return b && take(in, b->data, h.bytes);
}

static void blocks_free(calibrate_state *s)
{
    for (size_t i = 0; i < s->n; i++) free(s->block[i].data);
    free(s->block);
    s->block = NULL;
    s->n = 0;
}

static void read_file(calibrate_state *s)
{
    text t = { 0 };
    char m[8];
    uint64_t key[2];
    if (!access(s->file, R_OK) && text_read_file(&t, s->file, FILE_MOST, NULL) == ERR_OK) {
        view in = { t.ptr, t.len };
        bool ok = take(&in, m, sizeof m) && take(&in, key, sizeof key) && !memcmp(m, magic, sizeof m) && !memcmp(key, s->key, sizeof key);
        while (ok && in.len) ok = take_block(s, &in);
        if (!ok) blocks_free(s);
        s->found = ok && s->n;
    }
    text_free(&t);
}

err_code calibrate_state_open(calibrate_state **out, const char *file, const char *key, err *e)
{
    *out = NULL;
    calibrate_state *s = calloc(1, sizeof *s);
    if (!s || !(s->file = strdup(file))) {
        free(s);
        return err_set(e, ERR_NOMEM, "%s: out of memory", file);
    }
    XXH128_hash_t h = XXH3_128bits(key, strlen(key));
    s->key[0] = h.low64;
    s->key[1] = h.high64;
    s->saved_ns = clock_ns();
    read_file(s);
    *out = s;
    return ERR_OK;
}

void calibrate_state_close(calibrate_state **sp)
{
    calibrate_state *s = *sp;
    if (!s) return;
    blocks_free(s);
    free(s->file);
    free(s);
    *sp = NULL;
}

void *calibrate_state_block(calibrate_state *s, const char *name, size_t bytes, bool *found)
{
    size_t len = strlen(name);
    *found = false;
    if (len >= NAME_MAX_BYTES) return NULL;
    for (size_t i = 0; i < s->n; i++) {
        if (strcmp(s->block[i].name, name) || s->block[i].bytes != bytes) continue;
        *found = true;
        return s->block[i].data;
    }
    block *b = block_add(s, name, len, bytes);
    return b ? b->data : NULL;
}

/* ---- writing ------------------------------------------------------------------------------------------------------- */

static bool write_blocks(const calibrate_state *s, FILE *f)
{
    bool ok = fwrite(magic, sizeof magic, 1, f) == 1 && fwrite(s->key, sizeof s->key, 1, f) == 1;
    for (size_t i = 0; ok && i < s->n; i++) {
        const block *b = &s->block[i];
        block_head h = { strlen(b->name), b->bytes, XXH3_64bits(b->data, b->bytes) };
        ok = fwrite(&h, sizeof h, 1, f) == 1 && fwrite(b->name, 1, h.name, f) == h.name && fwrite(b->data, 1, b->bytes, f) == b->bytes;
    }
    return ok && !fflush(f) && !fsync(fileno(f));
}

err_code calibrate_state_save(calibrate_state *s, err *e)
{
    text temp = { 0 };
    uint64_t at = clock_ns();
    if (!text_addf(&temp, "%s.new", s->file)) return err_set(e, ERR_NOMEM, "%s: out of memory", s->file);
    FILE *f = fopen(temp.ptr, "we");
    bool ok = f && write_blocks(s, f);
    int why = errno;
    if (f && fclose(f)) ok = false;
    ok = ok && !rename(temp.ptr, s->file);
    if (!ok && f) unlink(temp.ptr);
    text_free(&temp);
    s->saved_ns = clock_ns();
    s->took_ns = s->saved_ns - at;
    return ok ? ERR_OK : err_set(e, ERR_IO, "%s: %s", s->file, strerror(why));
}

err_code calibrate_state_save_sometimes(calibrate_state *s, err *e)
{
    uint64_t wait = (uint64_t)PERIODS * PERIOD_NS;
    if (s->took_ns > wait / SHARE) wait = s->took_ns * SHARE;
    return clock_ns() - s->saved_ns < wait ? ERR_OK : calibrate_state_save(s, e);
}

bool calibrate_state_found(const calibrate_state *s) { return s->found; }
void calibrate_state_remove(calibrate_state *s) { unlink(s->file); }
