/* Reads and checks a GGUF header into a gguf. It refuses to believe the file: nothing is read, multiplied or reserved
 * before it was compared with the bytes that are there. The header is read with pread, not mapped, so a file that
 * shrinks or changes meanwhile can neither raise SIGBUS nor differ between check and use. */
#include "engine/gguf_priv.h"
#include "engine/wtype.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the GGUF reader copies little-endian fields as they are"
#endif

#define KEY_MAX 65535u                  /* the GGUF text: key names have at most 2^16-1 bytes */
#define KEYS_MAX 65536u                 /* models have below 100; one million empty keys are an attack, not a model */
#define HEAD_MAX ((uint64_t)1 << 30)    /* known headers end below 32 MiB; bounds what a claimed string makes us read */
#define KEY_BYTES_MIN 14u               /* length 8, name 1, kind 4, value 1 */
#define TENSOR_BYTES_MIN 33u            /* length 8, name 1, dims 4+8, type 4, offset 8 */

typedef struct {                        /* while opening */
    gguf *g;
    uint64_t pos, loaded, room;         /* next byte; bytes of head that are read; bytes of head reserved */
    err *e;
} reader;

const uint8_t gguf_kind_bytes[GGUF_KIND_COUNT] = { [GGUF_U8] = 1, [GGUF_I8] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4,
    [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8 };

static const char *shown(char buf[static 96], const void *p, uint64_t n) { return gguf_printable(buf, (view){ p, n }); }

/* ---- bytes ---- */

static err_code head_grow(reader *r, uint64_t want)
{
    uint64_t room = r->room ? r->room : 1 << 16;
    while (room < want) room *= 2;
    if (room > r->g->file.size) room = r->g->file.size;
    uint8_t *p = realloc(r->g->head, room);
    if (!p) return err_set(r->e, ERR_NOMEM, "out of memory for %" PRIu64 " header bytes", room);
    r->g->head = p;
    r->room = room;
    return ERR_OK;
}

static err_code head_load(reader *r, uint64_t want)
{
    if (want > HEAD_MAX)
        return err_set(r->e, ERR_MODEL, "metadata reaches byte %" PRIu64 ", more than the %" PRIu64 " we accept", want, HEAD_MAX);
    if (want > r->room && head_grow(r, want)) return r->e ? r->e->code : ERR_NOMEM;
    while (r->loaded < want) {
        ssize_t n = pread(r->g->file.fd, r->g->head + r->loaded, r->room - r->loaded, (off_t)r->loaded);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(r->e, ERR_IO, "read at byte %" PRIu64 ": %s", r->loaded, strerror(errno));
        if (n == 0) return err_set(r->e, ERR_IO, "file became shorter than %" PRIu64 " bytes while it was read", r->g->file.size);
        r->loaded += (uint64_t)n;
    }
    return ERR_OK;
}

/* Make the next n bytes readable at head + pos. */
static err_code need(reader *r, uint64_t n, const char *what)
{
    uint64_t left = r->g->file.size - r->pos;
    if (n > left)
        return err_set(r->e, ERR_MODEL, "%s at byte %" PRIu64 " needs %" PRIu64 " bytes, the file has %" PRIu64 " left", what,
                       r->pos, n, left);
    return r->pos + n <= r->loaded ? ERR_OK : head_load(r, r->pos + n);
}

static err_code take(reader *r, void *out, size_t n, const char *what)
{
    err_code rc = need(r, n, what);
    if (rc) return rc;
    memcpy(out, r->g->head + r->pos, n);
    r->pos += n;
    return ERR_OK;
}

/* A string's length field is read and its bytes are there; *at is where they start. */
static err_code take_str(reader *r, uint64_t *at, uint64_t *len, const char *what)
{
    err_code rc = take(r, len, 8, what);
    if (!rc) rc = need(r, *len, what);
    if (rc) return rc;
    *at = r->pos;
    r->pos += *len;
    return ERR_OK;
}

static uint64_t left(const reader *r) { return r->g->file.size - r->pos; }

/* ---- keys ---- */

static err_code take_key_name(reader *r, gguf_entry *k, uint64_t i)
{
    char what[48];
    snprintf(what, sizeof what, "name of key %" PRIu64, i);
    uint64_t at, len;
    err_code rc = take_str(r, &at, &len, what);
    if (rc) return rc;
    const uint8_t *p = r->g->head + at;
    if (len == 0 || len > KEY_MAX) return err_set(r->e, ERR_MODEL, "%s has %" PRIu64 " bytes (1 to %u)", what, len, KEY_MAX);
    char buf[96];
    if (memchr(p, 0, len)) return err_set(r->e, ERR_MODEL, "%s '%s' holds a NUL byte", what, shown(buf, p, len));
    k->name = r->g->names.len;
    if (!text_add(&r->g->names, p, len) || !text_add(&r->g->names, "", 1))
        return err_set(r->e, ERR_NOMEM, "out of memory for keys");
    return ERR_OK;
}

static err_code check_bools(reader *r, uint64_t at, uint64_t n, const char *key)
{
    for (uint64_t i = 0; i < n; i++)
        if (r->g->head[at + i] > 1)
            return err_set(r->e, ERR_MODEL, "key '%s': a bool has the value %u", key, r->g->head[at + i]);
    return ERR_OK;
}

static err_code take_str_array(reader *r, gguf_entry *k, const char *what)
{
    if (k->n > left(r) / 8)
        return err_set(r->e, ERR_MODEL, "%s claims %" PRIu64 " strings, the file has %" PRIu64 " bytes left", what, k->n, left(r));
    uint64_t at, len;
    for (uint64_t i = 0; i < k->n; i++) {
        err_code rc = take_str(r, &at, &len, what);
        if (rc) return rc;
    }
    if (!k->n) return ERR_OK;
    k->str_at = malloc(k->n * sizeof *k->str_at);
    if (!k->str_at) return err_set(r->e, ERR_NOMEM, "out of memory for %s", what);
    uint64_t pos = k->at;
    for (uint64_t i = 0; i < k->n; i++) {
        k->str_at[i] = (uint32_t)(pos - k->at);          /* fits: the header ends below HEAD_MAX */
        memcpy(&len, r->g->head + pos, 8);
        pos += 8 + len;
    }
    return ERR_OK;
}

static err_code take_array(reader *r, gguf_entry *k, const char *key, const char *what)
{
    uint32_t elem;
    err_code rc = take(r, &elem, 4, what);
    if (!rc) rc = take(r, &k->n, 8, what);
    if (rc) return rc;
    if (elem == GGUF_ARR) return err_set(r->e, ERR_MODEL, "key '%s' is an array of arrays, which no model needs", key);
    if (elem >= GGUF_KIND_COUNT) return err_set(r->e, ERR_MODEL, "key '%s' is an array of unknown kind %u", key, elem);
    k->elem = (gguf_kind)elem;
    k->at = r->pos;
    if (elem == GGUF_STR) return take_str_array(r, k, what);
    if (k->n > left(r) / gguf_kind_bytes[elem])
        return err_set(r->e, ERR_MODEL, "key '%s' claims %" PRIu64 " elements of %u bytes, the file has %" PRIu64 " bytes left",
                       key, k->n, gguf_kind_bytes[elem], left(r));
    if ((rc = need(r, k->n * gguf_kind_bytes[elem], what))) return rc;
    r->pos += k->n * gguf_kind_bytes[elem];
    return elem == GGUF_BOOL ? check_bools(r, k->at, k->n, key) : ERR_OK;
}

static err_code take_value(reader *r, gguf_entry *k)
{
    char name[96], what[128];
    const char *key = r->g->names.ptr + k->name;
    snprintf(what, sizeof what, "key '%s'", shown(name, key, strlen(key)));
    uint32_t kind;
    err_code rc = take(r, &kind, 4, what);
    if (rc) return rc;
    if (kind >= GGUF_KIND_COUNT) return err_set(r->e, ERR_MODEL, "%s has unknown kind %u", what, kind);
    k->kind = (gguf_kind)kind;
    k->raw = r->pos;
    if (kind == GGUF_ARR) return take_array(r, k, name, what);
    if (kind == GGUF_STR) return take_str(r, &k->at, &k->n, what);
    k->at = r->pos;
    k->n = 1;
    if ((rc = need(r, gguf_kind_bytes[kind], what))) return rc;
    r->pos += gguf_kind_bytes[kind];
    return kind == GGUF_BOOL ? check_bools(r, k->at, 1, name) : ERR_OK;
}

int gguf_name_order(const void *a, const void *b)
{
    const gguf_name *x = a, *y = b;
    int c = strcmp(x->name, y->name);
    return c ? c : (x->i > y->i) - (x->i < y->i);
}

/* Sort the n names and refuse a double one. `thing` is "key" or "tensor". */
static err_code name_index(reader *r, gguf_name *ref, uint64_t n, const char *thing)
{
    if (n) qsort(ref, n, sizeof *ref, gguf_name_order);
    char buf[96];
    for (uint64_t i = 1; i < n; i++)
        if (!strcmp(ref[i].name, ref[i - 1].name))
            return err_set(r->e, ERR_MODEL, "%s '%s' is there twice (number %u and %u)", thing,
                           shown(buf, ref[i].name, strlen(ref[i].name)), ref[i - 1].i, ref[i].i);
    return ERR_OK;
}

static err_code take_keys(reader *r, uint64_t n)
{
    gguf *g = r->g;
    if (n > KEYS_MAX || n > left(r) / KEY_BYTES_MIN)
        return err_set(r->e, ERR_MODEL, "claims %" PRIu64 " keys (at most %u; %" PRIu64 " bytes left in the file)", n, KEYS_MAX,
                       left(r));
    g->key = calloc(n ? n : 1, sizeof *g->key);
    g->key_ref = calloc(n ? n : 1, sizeof *g->key_ref);
    if (!g->key || !g->key_ref) return err_set(r->e, ERR_NOMEM, "out of memory for %" PRIu64 " keys", n);
    for (uint64_t i = 0; i < n; i++) {
        g->n_keys = i + 1;                               /* before it is filled: close frees what is there */
        err_code rc = take_key_name(r, &g->key[i], i);
        if (!rc) rc = take_value(r, &g->key[i]);
        if (rc) return rc;
        g->key[i].raw_len = r->pos - g->key[i].raw;
    }
    for (uint64_t i = 0; i < n; i++) g->key_ref[i] = (gguf_name){ g->names.ptr + g->key[i].name, (uint32_t)i };
    return name_index(r, g->key_ref, n, "key");
}

/* ---- tensors ---- */

static err_code take_tensor_name(reader *r, gguf_tensor *t, uint64_t i)
{
    char what[48], buf[96];
    snprintf(what, sizeof what, "name of tensor %" PRIu64, i);
    uint64_t at, len;
    err_code rc = take_str(r, &at, &len, what);
    if (rc) return rc;
    const uint8_t *p = r->g->head + at;
    if (len == 0 || len >= GGUF_NAME_MAX)
        return err_set(r->e, ERR_MODEL, "%s '%s' has %" PRIu64 " bytes (1 to %d)", what, shown(buf, p, len), len,
                       GGUF_NAME_MAX - 1);
    for (uint64_t c = 0; c < len; c++)
        if (p[c] < 0x20 || p[c] == 0x7f)
            return err_set(r->e, ERR_MODEL, "%s '%s' holds a control character", what, shown(buf, p, len));
    memcpy(t->name, p, len);
    return ERR_OK;
}

static err_code take_dims(reader *r, gguf_tensor *t, uint64_t *elements)
{
    err_code rc = take(r, &t->n_dims, 4, t->name);
    if (rc) return rc;
    if (t->n_dims < 1 || t->n_dims > GGUF_MAX_DIMS)
        return err_set(r->e, ERR_MODEL, "tensor '%s' has %u dimensions (1 to %d)", t->name, t->n_dims, GGUF_MAX_DIMS);
    uint64_t product = 1;
    for (uint32_t d = 0; d < GGUF_MAX_DIMS; d++) {
        t->dim[d] = 1;
        if (d >= t->n_dims) continue;
        if ((rc = take(r, &t->dim[d], 8, t->name))) return rc;
        if (t->dim[d] == 0) return err_set(r->e, ERR_MODEL, "tensor '%s': dimension %u is 0", t->name, d);
        if (t->dim[d] > INT64_MAX || __builtin_mul_overflow(product, t->dim[d], &product) || product > INT64_MAX)
            return err_set(r->e, ERR_MODEL, "tensor '%s': dimension %u of %" PRIu64 " overflows the element count", t->name, d,
                           t->dim[d]);
    }
    *elements = product;
    return ERR_OK;
}

static err_code take_type(reader *r, gguf_tensor *t, uint64_t elements)
{
    err_code rc = take(r, &t->type, 4, t->name);
    if (rc) return rc;
    uint32_t block, bytes;
    char buf[16];
    if (!wtype_ggml_block(t->type, &block, &bytes) || !block)
        return err_set(r->e, ERR_MODEL, "tensor '%s' has unknown type %u", t->name, t->type);
    if (t->dim[0] % block)
        return err_set(r->e, ERR_MODEL, "tensor '%s': row length %" PRIu64 " is not a multiple of the %u-element blocks of %s",
                       t->name, t->dim[0], block, wtype_ggml_name(t->type, buf));
    if (__builtin_mul_overflow(elements / block, (uint64_t)bytes, &t->bytes))
        return err_set(r->e, ERR_MODEL, "tensor '%s': %" PRIu64 " elements of %s overflow the byte count", t->name, elements,
                       wtype_ggml_name(t->type, buf));
    return ERR_OK;
}

static err_code take_tensor(reader *r, gguf_tensor *t, uint64_t i)
{
    uint64_t elements = 0;
    err_code rc = take_tensor_name(r, t, i);
    if (!rc) rc = take_dims(r, t, &elements);
    if (!rc) rc = take_type(r, t, elements);
    if (!rc) rc = take(r, &t->offset, 8, t->name);
    return rc;
}

static err_code take_tensors(reader *r, uint64_t n)
{
    gguf *g = r->g;
    if (n > GGUF_TENSORS_MAX || n > left(r) / TENSOR_BYTES_MIN)
        return err_set(r->e, ERR_MODEL, "claims %" PRIu64 " tensors (at most %u; %" PRIu64 " bytes left in the file)", n,
                       GGUF_TENSORS_MAX, left(r));
    g->tensor = calloc(n ? n : 1, sizeof *g->tensor);
    g->tensor_ref = calloc(n ? n : 1, sizeof *g->tensor_ref);
    if (!g->tensor || !g->tensor_ref) return err_set(r->e, ERR_NOMEM, "out of memory for %" PRIu64 " tensors", n);
    g->n_tensors = n;
    for (uint64_t i = 0; i < n; i++) {
        err_code rc = take_tensor(r, &g->tensor[i], i);
        if (rc) return rc;
        g->tensor_ref[i] = (gguf_name){ g->tensor[i].name, (uint32_t)i };
    }
    return name_index(r, g->tensor_ref, n, "tensor");
}

static err_code read_alignment(reader *r, uint64_t *align)
{
    *align = 32;                                         /* the GGUF text's default */
    if (!gguf_name_find(r->g->key_ref, r->g->n_keys, "general.alignment")) return ERR_OK;
    if (!gguf_get_u64(r->g, "general.alignment", align)) return err_set(r->e, ERR_MODEL, "key 'general.alignment' is not a count");
    if (*align < 8 || *align > 1 << 20 || (*align & (*align - 1)))
        return err_set(r->e, ERR_MODEL, "key 'general.alignment' is %" PRIu64 " (a power of two from 8 to %d)", *align, 1 << 20);
    return ERR_OK;
}

/* Offsets become absolute; every tensor's bytes must be inside the file. */
static err_code place_tensors(reader *r, uint64_t data, uint64_t align)
{
    gguf *g = r->g;
    uint64_t room = g->file.size > data ? g->file.size - data : 0;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        gguf_tensor *t = &g->tensor[i];
        if (t->offset % align)
            return err_set(r->e, ERR_MODEL, "tensor '%s': offset %" PRIu64 " is not a multiple of the alignment %" PRIu64, t->name,
                           t->offset, align);
        if (t->offset > room || t->bytes > room - t->offset)
            return err_set(r->e, ERR_MODEL,
                           "tensor '%s': %" PRIu64 " bytes at offset %" PRIu64 ", but the data section has %" PRIu64
                           " (is the file cut off?)",
                           t->name, t->bytes, t->offset, room);
        t->offset += data;
    }
    return ERR_OK;
}

static void make_digest(gguf *g, uint64_t head_len)
{
    XXH3_state_t *s = XXH3_createState();
    if (!s) return;                                      /* caller sees the empty digest */
    XXH3_128bits_reset(s);
    XXH3_128bits_update(s, g->head, head_len);
    XXH3_128bits_update(s, &g->file.size, sizeof g->file.size);
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits_digest(s));
    XXH3_freeState(s);
    for (int i = 0; i < 16; i++) snprintf(g->digest + 2 * i, 3, "%02x", c.digest[i]);
}

static err_code finish(reader *r)
{
    gguf *g = r->g;
    uint64_t align;
    err_code rc = read_alignment(r, &align);
    if (rc) return rc;
    uint64_t data = (r->pos + align - 1) / align * align;
    if ((rc = place_tensors(r, data, align))) return rc;
    uint64_t head_len = data < g->file.size ? data : g->file.size; /* a file without tensors may stop before the padding */
    if (head_len > r->loaded && (rc = head_load(r, head_len))) return rc;
    uint8_t *small = realloc(g->head, head_len);
    if (small) g->head = small;
    make_digest(g, head_len);
    return g->digest[0] ? ERR_OK : err_set(r->e, ERR_NOMEM, "out of memory for the digest");
}

/* ---- the whole ---- */

static err_code check_version(reader *r)
{
    uint32_t v;
    err_code rc = take(r, &v, 4, "version");
    if (rc) return rc;
    if (v && (v & 0xffff) == 0)
        return err_set(r->e, ERR_MODEL, "big-endian GGUF (version %u); convert it to little-endian", __builtin_bswap32(v));
    if (v == 1) return err_set(r->e, ERR_MODEL, "GGUF version 1 is no longer read; convert it again (2 or 3)");
    if (v != 2 && v != 3) return err_set(r->e, ERR_MODEL, "GGUF version %u is not known (2 or 3)", v);
    r->g->version = v;
    return ERR_OK;
}

static err_code check_magic(reader *r)
{
    char m[5] = { 0 }, buf[96];
    if (r->g->file.size < 4) return err_set(r->e, ERR_MODEL, "not a GGUF file (%" PRIu64 " bytes)", r->g->file.size);
    err_code rc = take(r, m, 4, "magic");
    if (rc || !memcmp(m, "GGUF", 4)) return rc;
    if (!memcmp(m, "FUGG", 4)) return err_set(r->e, ERR_MODEL, "big-endian GGUF; convert it to little-endian");
    return err_set(r->e, ERR_MODEL, "not a GGUF file (starts with '%s')", shown(buf, m, 4));
}

err_code gguf_parse(gguf *g, err *e)
{
    reader *r = &(reader){ .g = g, .e = e };
    uint64_t n_tensors = 0, n_keys = 0;
    err_code rc = check_magic(r);
    if (!rc) rc = check_version(r);
    if (!rc) rc = take(r, &n_tensors, 8, "tensor count");
    if (!rc) rc = take(r, &n_keys, 8, "key count");
    if (!rc) rc = take_keys(r, n_keys);
    if (!rc) rc = take_tensors(r, n_tensors);
    return rc ? rc : finish(r);
}
