/* The door to a GGUF file: open, look up, map. It refuses to know what a key means. */
#include "engine/gguf_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static err_code open_file(gguf_file *f, const char *path, err *e)
{
    f->path = strdup(path);
    if (!f->path) return err_set(e, ERR_NOMEM, "out of memory");
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);   /* NONBLOCK: a FIFO must not hang us; files ignore it */
    if (f->fd < 0) return err_set(e, ERR_IO, "%s", strerror(errno));
    struct stat st;
    if (fstat(f->fd, &st)) return err_set(e, ERR_IO, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode)) return err_set(e, ERR_IO, "not a regular file");
    f->size = (uint64_t)st.st_size;
    return ERR_OK;
}

err_code gguf_open_one(gguf **out, const char *path, err *e)
{
    *out = NULL;
    gguf *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_NOMEM, "%s: out of memory", path);
    g->file.fd = -1;
    err_code rc = open_file(&g->file, path, e);
    if (!rc) rc = gguf_parse(g, e);
    if (rc) {
        err_wrap(e, "%s", path);
        gguf_close(&g);
        return rc;
    }
    *out = g;
    return ERR_OK;
}

err_code gguf_open(gguf **out, const char *path, err *e)
{
    err_code rc = gguf_open_one(out, path, e);
    if (rc || !(rc = gguf_join_parts(*out, e))) return rc;
    err_wrap(e, "%s", path);
    gguf_close(out);
    return rc;
}

static void close_file(gguf_file *f)
{
    if (f->fd >= 0) close(f->fd);
    free(f->path);
}

void gguf_close(gguf **gp)
{
    gguf *g = *gp;
    if (!g) return;
    for (uint64_t i = 0; i < g->n_keys; i++) free(g->key[i].str_at);
    free(g->key);
    free(g->key_ref);
    free(g->tensor);
    free(g->tensor_ref);
    free(g->head);
    text_free(&g->names);
    close_file(&g->file);
    for (uint32_t i = 0; i < g->n_more; i++) close_file(&g->more[i]);
    free(g->more);
    free(g);
    *gp = NULL;
}

/* ---- look-ups ---- */

const gguf_name *gguf_name_find(const gguf_name *ref, uint64_t n, const char *name)
{
    uint64_t lo = 0, hi = n;
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        int c = strcmp(ref[mid].name, name);
        if (c == 0) return &ref[mid];
        if (c < 0) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}

static const gguf_file *part(const gguf *g, uint32_t i) { return i ? &g->more[i - 1] : &g->file; }

const char *gguf_path(const gguf *g) { return g->file.path; }
uint32_t gguf_n_parts(const gguf *g) { return g->n_more + 1; }
const char *gguf_part_path(const gguf *g, uint32_t i) { return i <= g->n_more ? part(g, i)->path : NULL; }
uint32_t gguf_version(const gguf *g) { return g->version; }
const char *gguf_digest(const gguf *g) { return g->digest; }
uint64_t gguf_n_keys(const gguf *g) { return g->n_keys; }
uint64_t gguf_n_tensors(const gguf *g) { return g->n_tensors; }

const char *gguf_key(const gguf *g, uint64_t i, gguf_kind *kind)
{
    if (i >= g->n_keys) return NULL;
    if (kind) *kind = g->key[i].kind;
    return g->names.ptr + g->key[i].name;
}

view gguf_raw(const gguf *g, uint64_t i)
{
    return i < g->n_keys ? (view){ g->head + g->key[i].raw, g->key[i].raw_len } : (view){ NULL, 0 };
}

const gguf_tensor *gguf_tensor_at(const gguf *g, uint64_t i) { return i < g->n_tensors ? &g->tensor[i] : NULL; }

const gguf_tensor *gguf_tensor_find(const gguf *g, const char *name)
{
    const gguf_name *ref = gguf_name_find(g->tensor_ref, g->n_tensors, name);
    return ref ? &g->tensor[ref->i] : NULL;
}

const char *gguf_printable(char buf[static 96], view v)
{
    size_t len = v.len < 92 ? v.len : 92;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = ((const unsigned char *)v.ptr)[i];
        buf[i] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    memcpy(buf + len, v.len > len ? "..." : "", v.len > len ? 4 : 1);
    return buf;
}

static const gguf_entry *find(const gguf *g, const char *key)
{
    const gguf_name *ref = gguf_name_find(g->key_ref, g->n_keys, key);
    return ref ? &g->key[ref->i] : NULL;
}

/* One number of any kind: *neg says that it is a negative integer, held in *i; floats go to *f. */
typedef struct { enum { NOT_NUMBER, UNSIGNED, SIGNED, FLOAT } is; uint64_t u; int64_t i; double f; } number;

static number number_at(const uint8_t *p, gguf_kind kind)
{
    int8_t i8;
    int16_t i16;
    int32_t i32;
    float f32;
    number n = { 0 };
    switch (kind) {
    case GGUF_U8: case GGUF_U16: case GGUF_U32: case GGUF_U64:
        n.is = UNSIGNED;
        memcpy(&n.u, p, gguf_kind_bytes[kind]);
        break;
    case GGUF_I8:  memcpy(&i8, p, 1); n.i = i8; n.is = SIGNED; break;
    case GGUF_I16: memcpy(&i16, p, 2); n.i = i16; n.is = SIGNED; break;
    case GGUF_I32: memcpy(&i32, p, 4); n.i = i32; n.is = SIGNED; break;
    case GGUF_I64: memcpy(&n.i, p, 8); n.is = SIGNED; break;
    case GGUF_F32: memcpy(&f32, p, 4); n.f = f32; n.is = FLOAT; break;
    case GGUF_F64: memcpy(&n.f, p, 8); n.is = FLOAT; break;
    default: break;
    }
    return n;
}

static bool number_f64(number n, double *out)
{
    if (n.is == NOT_NUMBER) return false;
    *out = n.is == FLOAT ? n.f : n.is == SIGNED ? (double)n.i : (double)n.u;
    return true;
}

bool gguf_get_u64(const gguf *g, const char *key, uint64_t *out)
{
    const gguf_entry *k = find(g, key);
    if (!k) return false;
    number n = number_at(g->head + k->at, k->kind);
    if (n.is == SIGNED && n.i >= 0) n = (number){ .is = UNSIGNED, .u = (uint64_t)n.i };
    if (n.is != UNSIGNED) return false;
    *out = n.u;
    return true;
}

bool gguf_get_f64(const gguf *g, const char *key, double *out)
{
    const gguf_entry *k = find(g, key);
    return k && number_f64(number_at(g->head + k->at, k->kind), out);
}

bool gguf_get_bool(const gguf *g, const char *key, bool *out)
{
    const gguf_entry *k = find(g, key);
    if (!k || k->kind != GGUF_BOOL) return false;
    *out = g->head[k->at] != 0;
    return true;
}

bool gguf_get_str(const gguf *g, const char *key, view *out)
{
    const gguf_entry *k = find(g, key);
    if (!k || k->kind != GGUF_STR) return false;
    *out = (view){ g->head + k->at, k->n };
    return true;
}

static const gguf_entry *find_arr(const gguf *g, const char *key, uint64_t i)
{
    const gguf_entry *k = find(g, key);
    return k && k->kind == GGUF_ARR && i < k->n ? k : NULL;
}

bool gguf_get_arr(const gguf *g, const char *key, gguf_kind *elem, uint64_t *n)
{
    const gguf_entry *k = find(g, key);
    bool is = k && k->kind == GGUF_ARR;
    if (elem) *elem = is ? k->elem : GGUF_U8;
    if (n) *n = is ? k->n : 0;
    return is;
}

bool gguf_arr_str(const gguf *g, const char *key, uint64_t i, view *out)
{
    const gguf_entry *k = find_arr(g, key, i);
    if (!k || k->elem != GGUF_STR) return false;
    const uint8_t *p = g->head + k->at + k->str_at[i];
    uint64_t len;
    memcpy(&len, p, 8);
    *out = (view){ p + 8, len };
    return true;
}

static number arr_number(const gguf *g, const char *key, uint64_t i)
{
    const gguf_entry *k = find_arr(g, key, i);
    if (!k || k->elem == GGUF_STR || k->elem == GGUF_BOOL) return (number){ 0 };
    return number_at(g->head + k->at + i * gguf_kind_bytes[k->elem], k->elem);
}

bool gguf_arr_f64(const gguf *g, const char *key, uint64_t i, double *out) { return number_f64(arr_number(g, key, i), out); }

bool gguf_arr_i64(const gguf *g, const char *key, uint64_t i, int64_t *out)
{
    number n = arr_number(g, key, i);
    if (n.is == NOT_NUMBER || n.is == FLOAT || (n.is == UNSIGNED && n.u > INT64_MAX)) return false;
    *out = n.is == SIGNED ? n.i : (int64_t)n.u;
    return true;
}

/* ---- data ---- */

/* The file that holds the byte at `offset`: the last one that begins there or before. */
static const gguf_file *part_at(const gguf *g, uint64_t offset)
{
    uint32_t i = g->n_more;
    while (i && part(g, i)->base > offset) i--;
    return part(g, i);
}

static err_code map_file(const gguf_file *f, uint64_t at, uint64_t bytes, gguf_range *out, err *e)
{
    struct stat st;
    if (fstat(f->fd, &st)) return err_set(e, ERR_IO, "%s: %s", f->path, strerror(errno));
    if ((uint64_t)st.st_size != f->size)
        return err_set(e, ERR_IO, "%s: was %" PRIu64 " bytes when opened, now %" PRIu64, f->path, f->size, (uint64_t)st.st_size);
    if (bytes == 0 || at > f->size || bytes > f->size - at)
        return err_set(e, ERR_MODEL, "%s: no %" PRIu64 " bytes at %" PRIu64 " in %" PRIu64, f->path, bytes, at, f->size);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), start = at / page * page;
    out->len = (size_t)(at + bytes - start);
    out->base = mmap(NULL, out->len, PROT_READ, MAP_SHARED, f->fd, (off_t)start);
    if (out->base == MAP_FAILED) {
        err_set(e, ERR_IO, "%s: cannot map %zu bytes: %s", f->path, out->len, strerror(errno));
        *out = (gguf_range){ 0 };
        return ERR_IO;
    }
    out->data = (const uint8_t *)out->base + (at - start);
    return ERR_OK;
}

err_code gguf_map(const gguf *g, uint64_t offset, uint64_t bytes, gguf_range *out, err *e)
{
    const gguf_file *f = part_at(g, offset);
    *out = (gguf_range){ 0 };
    return map_file(f, offset - f->base, bytes, out, e);
}

void gguf_unmap(gguf_range *r)
{
    if (r->base) munmap(r->base, r->len);
    *r = (gguf_range){ 0 };
}
