/* The GGUF writer. It refuses to leave half a file under the name that was asked for. */
#include "engine/gguf_write.h"
#include "engine/wtype.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALIGN 32u                       /* the format's default, so no key has to say it */

typedef struct { uint64_t offset, bytes, written; } part;

struct gguf_writer {
    char *path, *temp;
    int fd;
    text keys, table;                   /* encoded */
    part *tensor;
    uint64_t n_keys, n_tensors, cap, data, end;   /* data: where the section starts; end: its length so far */
    bool begun, committed;
    err first;                          /* first failure before begin */
};

/* ---- open and close ---- */

err_code gguf_writer_open(gguf_writer **out, const char *path, err *e)
{
    *out = NULL;
    gguf_writer *w = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_NOMEM, "%s: out of memory", path);
    w->fd = -1;
    text temp = { 0 };
    w->path = strdup(path);
    bool ok = w->path && text_addf(&temp, "%s.new-XXXXXX", path);
    w->temp = temp.ptr;
    if (ok) w->fd = mkostemp(w->temp, O_CLOEXEC);
    if (w->fd >= 0 && fchmod(w->fd, 0644) == 0) {
        *out = w;
        return ERR_OK;
    }
    err_code rc = ok ? err_set(e, ERR_IO, "%s: %s", w->temp, strerror(errno)) : err_set(e, ERR_NOMEM, "%s: out of memory", path);
    gguf_writer_close(&w);
    return rc;
}

void gguf_writer_close(gguf_writer **wp)
{
    gguf_writer *w = *wp;
    if (!w) return;
    if (w->fd >= 0) {
        close(w->fd);
        if (!w->committed) unlink(w->temp);
    }
    text_free(&w->keys);
    text_free(&w->table);
    free(w->tensor);
    free(w->path);
    free(w->temp);
    free(w);
    *wp = NULL;
}

/* ---- keys ---- */

static void fail(gguf_writer *w, err_code c, const char *what, const char *name)
{
    if (!w->first.code) err_set(&w->first, c, "%s: %s '%s'", w->path, what, name);
}

static bool put_u32(text *t, uint32_t v) { return text_add(t, &v, sizeof v); }
static bool put_u64(text *t, uint64_t v) { return text_add(t, &v, sizeof v); }
static bool put_str(text *t, view v) { return put_u64(t, v.len) && text_add(t, v.ptr, v.len); }

static bool put_key(gguf_writer *w, const char *key, gguf_kind kind)
{
    w->n_keys++;
    return put_str(&w->keys, (view){ key, strlen(key) }) && put_u32(&w->keys, kind);
}

static size_t kind_size(gguf_kind kind)
{
    static const uint8_t size[GGUF_KIND_COUNT] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    return kind < GGUF_KIND_COUNT ? size[kind] : 0;
}

void gguf_writer_raw(gguf_writer *w, const char *key, gguf_kind kind, view value)
{
    if (!put_key(w, key, kind) || !text_add(&w->keys, value.ptr, value.len)) fail(w, ERR_NOMEM, "out of memory at key", key);
}

void gguf_writer_num(gguf_writer *w, const char *key, gguf_kind kind, const void *value)
{
    if (!kind_size(kind)) fail(w, ERR_MODEL, "not a number kind for key", key);
    else gguf_writer_raw(w, key, kind, (view){ value, kind_size(kind) });
}

void gguf_writer_u32(gguf_writer *w, const char *key, uint32_t v) { gguf_writer_num(w, key, GGUF_U32, &v); }
void gguf_writer_u64(gguf_writer *w, const char *key, uint64_t v) { gguf_writer_num(w, key, GGUF_U64, &v); }
void gguf_writer_f32(gguf_writer *w, const char *key, float v) { gguf_writer_num(w, key, GGUF_F32, &v); }
void gguf_writer_bool(gguf_writer *w, const char *key, bool v) { gguf_writer_num(w, key, GGUF_BOOL, &(uint8_t){ v }); }

void gguf_writer_str(gguf_writer *w, const char *key, view v)
{
    if (!put_key(w, key, GGUF_STR) || !put_str(&w->keys, v)) fail(w, ERR_NOMEM, "out of memory at key", key);
}

void gguf_writer_arr(gguf_writer *w, const char *key, gguf_kind elem, const void *values, uint64_t n)
{
    if (!kind_size(elem)) fail(w, ERR_MODEL, "not a number kind for key", key);
    else if (!put_key(w, key, GGUF_ARR) || !put_u32(&w->keys, elem) || !put_u64(&w->keys, n) ||
             !text_add(&w->keys, values, n * kind_size(elem)))
        fail(w, ERR_NOMEM, "out of memory at key", key);
}

void gguf_writer_strs(gguf_writer *w, const char *key, const view *v, uint64_t n)
{
    bool ok = put_key(w, key, GGUF_ARR) && put_u32(&w->keys, GGUF_STR) && put_u64(&w->keys, n);
    for (uint64_t i = 0; ok && i < n; i++) ok = put_str(&w->keys, v[i]);
    if (!ok) fail(w, ERR_NOMEM, "out of memory at key", key);
}

/* ---- tensors ---- */

static bool tensor_bytes(uint32_t type, uint32_t n_dims, const uint64_t *dim, uint64_t *bytes)
{
    uint32_t block, size;
    if (n_dims < 1 || n_dims > GGUF_MAX_DIMS || !wtype_ggml_block(type, &block, &size) || !block || dim[0] % block) return false;
    uint64_t n = 1;
    for (uint32_t i = 0; i < n_dims; i++)
        if (!dim[i] || __builtin_mul_overflow(n, dim[i], &n) || n > INT64_MAX) return false;
    return !__builtin_mul_overflow(n / block, (uint64_t)size, bytes) && *bytes < (uint64_t)1 << 62;
}

static bool part_add(gguf_writer *w, uint64_t bytes)
{
    if (w->n_tensors == w->cap) {
        uint64_t cap = w->cap ? w->cap * 2 : 64;
        part *p = realloc(w->tensor, cap * sizeof *p);
        if (!p) return false;
        w->tensor = p;
        w->cap = cap;
    }
    w->tensor[w->n_tensors++] = (part){ w->end, bytes, 0 };
    w->end += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return true;
}

void gguf_writer_tensor(gguf_writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dim)
{
    uint64_t bytes, offset = w->end;
    size_t len = strlen(name);
    if (!len || len >= GGUF_NAME_MAX || !tensor_bytes(type, n_dims, dim, &bytes) || w->end >> 62) {
        fail(w, ERR_MODEL, "name, type or dimensions are not possible for tensor", name);
        return;
    }
    bool ok = put_str(&w->table, (view){ name, len }) && put_u32(&w->table, n_dims);
    for (uint32_t i = 0; ok && i < n_dims; i++) ok = put_u64(&w->table, dim[i]);
    if (!ok || !put_u32(&w->table, type) || !put_u64(&w->table, offset) || !part_add(w, bytes))
        fail(w, ERR_NOMEM, "out of memory at tensor", name);
}

uint64_t gguf_writer_bytes(const gguf_writer *w, uint64_t tensor) { return tensor < w->n_tensors ? w->tensor[tensor].bytes : 0; }

/* ---- bytes ---- */

static err_code write_at(gguf_writer *w, uint64_t at, const void *p, size_t n, err *e)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = pwrite(w->fd, (const char *)p + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return err_set(e, ERR_IO, "%s: write at byte %" PRIu64 ": %s", w->temp, at + done, k ? strerror(errno) : "no progress");
        done += (size_t)k;
    }
    return ERR_OK;
}

err_code gguf_writer_begin(gguf_writer *w, err *e)
{
    if (w->first.code) return err_set(e, w->first.code, "%s", w->first.text);
    text head = { 0 };
    bool ok = text_adds(&head, "GGUF") && put_u32(&head, 3) && put_u64(&head, w->n_tensors) && put_u64(&head, w->n_keys) &&
              text_add(&head, w->keys.ptr, w->keys.len) && text_add(&head, w->table.ptr, w->table.len);
    err_code rc = ok ? write_at(w, 0, head.ptr, head.len, e) : err_set(e, ERR_NOMEM, "%s: out of memory for the header", w->path);
    w->data = (head.len + ALIGN - 1) / ALIGN * ALIGN;
    text_free(&head);
    if (!rc && ftruncate(w->fd, (off_t)(w->data + w->end))) rc = err_set(e, ERR_IO, "%s: %s", w->temp, strerror(errno));
    w->begun = !rc;
    return rc;
}

err_code gguf_writer_data(gguf_writer *w, uint64_t tensor, uint64_t at, const void *data, size_t n, err *e)
{
    if (!w->begun) return err_set(e, ERR_STATE, "%s: data before the header", w->path);
    if (tensor >= w->n_tensors) return err_set(e, ERR_STATE, "%s: no tensor %" PRIu64, w->path, tensor);
    part *p = &w->tensor[tensor];
    if (at > p->bytes || n > p->bytes - at)
        return err_set(e, ERR_STATE, "%s: tensor %" PRIu64 " has %" PRIu64 " bytes, no %zu at %" PRIu64, w->path, tensor, p->bytes,
                       n, at);
    err_code rc = write_at(w, w->data + p->offset + at, data, n, e);
    if (!rc) p->written += n;
    return rc;
}

static err_code sync_folder(const char *path, err *e)
{
    const char *slash = strrchr(path, '/');
    text dir = { 0 };
    bool ok = slash ? text_add(&dir, path, (size_t)(slash - path) + 1) : text_adds(&dir, ".");
    int fd = ok ? open(dir.ptr, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    ok = fd >= 0 && (fsync(fd) == 0 || errno == EINVAL);   /* some file systems have no such thing */
    err_code rc = ok ? ERR_OK : err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    text_free(&dir);
    return rc;
}

err_code gguf_writer_commit(gguf_writer *w, err *e)
{
    if (!w->begun || w->committed) return err_set(e, ERR_STATE, "%s: commit out of order", w->path);
    for (uint64_t i = 0; i < w->n_tensors; i++)
        if (w->tensor[i].written < w->tensor[i].bytes)
            return err_set(e, ERR_STATE, "%s: tensor %" PRIu64 " has %" PRIu64 " of %" PRIu64 " bytes", w->path, i,
                           w->tensor[i].written, w->tensor[i].bytes);
    if (fsync(w->fd)) return err_set(e, ERR_IO, "%s: %s", w->temp, strerror(errno));
    if (rename(w->temp, w->path)) return err_set(e, ERR_IO, "%s: %s", w->path, strerror(errno));
    w->committed = true;
    return sync_folder(w->path, e);
}
