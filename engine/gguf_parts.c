/* Reading a model in parts: finds the files beside the first one and makes one table of their tensors. It refuses sets that
 * do not fit together instead of computing with half a model. */
#include "engine/gguf_priv.h"
#include "engine/gguf_split.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define TAIL_LEN (sizeof "-00001-of-00002.gguf" - 1)

static bool five_digits(const char *s, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 5; i++) {
        if (s[i] < '0' || s[i] > '9') return false;
        *out = *out * 10 + (uint32_t)(s[i] - '0');
    }
    return true;
}

bool gguf_part_name(const char *path, size_t *prefix, uint32_t *no, uint32_t *count)
{
    size_t len = strlen(path);
    if (len <= TAIL_LEN) return false;
    const char *tail = path + len - TAIL_LEN;
    *prefix = len - TAIL_LEN;
    return tail[0] == '-' && five_digits(tail + 1, no) && !memcmp(tail + 6, "-of-", 4) && five_digits(tail + 10, count) &&
           !strcmp(tail + 15, ".gguf");
}

typedef struct {
    uint64_t no, count, tensors;
    view source;
    bool has_tensors, has_source;
} split_keys;

/* count stays 1 where nothing is split. */
static split_keys read_keys(const gguf *g)
{
    split_keys k = { .count = 1 };
    (void)gguf_get_u64(g, "split.count", &k.count);
    (void)gguf_get_u64(g, "split.no", &k.no);
    k.has_tensors = gguf_get_u64(g, "split.tensors.count", &k.tensors);
    k.has_source = gguf_get_str(g, "split.source_digest", &k.source);
    return k;
}

static err_code check_first(const gguf *g, const split_keys *k, size_t *prefix, err *e)
{
    uint32_t no, count;
    bool named = gguf_part_name(gguf_path(g), prefix, &no, &count);
    if (k->count > GGUF_PARTS_MAX) return err_set(e, ERR_MODEL, "claims %" PRIu64 " parts, %d at most", k->count, GGUF_PARTS_MAX);
    if (k->no)
        return err_set(e, ERR_MODEL,
                       "is part %" PRIu64 " of %" PRIu64 " of a model; give the first one, ...-00001-of-%05" PRIu64 ".gguf",
                       k->no + 1, k->count, k->count);
    if (named && no == 1 && count == k->count) return ERR_OK;
    return err_set(e, ERR_MODEL,
                   "is the first of %" PRIu64 " parts, so its name must end in -00001-of-%05" PRIu64
                   ".gguf for the others to be found",
                   k->count, k->count);
}

static bool same_view(view a, view b)
{
    return a.len == b.len && !memcmp(a.ptr, b.ptr, a.len);
}

static err_code check_part(const split_keys *first, const split_keys *k, uint64_t i, err *e)
{
    if (k->count != first->count || k->no != i)
        return err_set(e, ERR_MODEL, "calls itself part %" PRIu64 " of %" PRIu64 ", want %" PRIu64 " of %" PRIu64, k->no + 1,
                       k->count, i + 1, first->count);
    if (k->has_tensors != first->has_tensors || k->tensors != first->tensors)
        return err_set(e, ERR_MODEL, "belongs to a model of %" PRIu64 " tensors, the first part's has %" PRIu64, k->tensors,
                       first->tensors);
    if (k->has_source != first->has_source || (k->has_source && !same_view(k->source, first->source)))
        return err_set(e, ERR_MODEL, "belongs to another model than the first part (split.source_digest differs)");
    return ERR_OK;
}

/* The tensors of p behind those of g, and its file behind the others; p is closed in any case. */
static err_code take_in(gguf *g, gguf *p, err *e)
{
    const gguf_file *last = g->n_more ? &g->more[g->n_more - 1] : &g->file;
    uint64_t n = g->n_tensors + p->n_tensors, base;
    gguf_tensor *t = NULL;
    err_code rc = ERR_OK;
    if (__builtin_add_overflow(last->base, last->size, &base) || base > UINT64_MAX - p->file.size || n > GGUF_TENSORS_MAX)
        rc = err_set(e, ERR_MODEL, "parts have more tensors or bytes than a model can");
    else if (!(t = realloc(g->tensor, (n ? n : 1) * sizeof *t)))
        rc = err_set(e, ERR_NOMEM, "out of memory for %" PRIu64 " tensors", n);
    if (!rc) {
        g->tensor = t;
        for (uint64_t i = 0; i < p->n_tensors; i++) {
            t[g->n_tensors + i] = p->tensor[i];
            t[g->n_tensors + i].offset += base;
        }
        g->n_tensors = n;
        g->more[g->n_more++] = (gguf_file){ p->file.path, p->file.fd, p->file.size, base };
        p->file.path = NULL;
        p->file.fd = -1;
    }
    gguf_close(&p);
    return rc;
}

static err_code join_one(gguf *g, const split_keys *first, size_t prefix, uint32_t i, XXH3_state_t *digest, err *e)
{
    text name = { 0 };
    gguf *p = NULL;
    bool ok = text_addf(&name, "%.*s-%05u-of-%05u.gguf", (int)prefix, gguf_path(g), i + 1, (unsigned)first->count);
    err_code rc = ok ? gguf_open_one(&p, name.ptr, e) : err_set(e, ERR_NOMEM, "out of memory");
    if (rc) err_wrap(e, "part %u of %u", i + 1, (unsigned)first->count);
    else {
        split_keys k = read_keys(p);
        rc = check_part(first, &k, i, e);
        if (rc) err_wrap(e, "%s", name.ptr);
    }
    if (rc) gguf_close(&p);
    else {
        XXH3_128bits_update(digest, p->digest, 32);
        rc = take_in(g, p, e);
    }
    text_free(&name);
    return rc;
}

static err_code index_tensors(gguf *g, err *e)
{
    uint64_t n = g->n_tensors;
    gguf_name *ref = realloc(g->tensor_ref, (n ? n : 1) * sizeof *ref);
    if (!ref) return err_set(e, ERR_NOMEM, "out of memory for %" PRIu64 " tensors", n);
    g->tensor_ref = ref;
    for (uint64_t i = 0; i < n; i++) ref[i] = (gguf_name){ g->tensor[i].name, (uint32_t)i };
    if (n) qsort(ref, n, sizeof *ref, gguf_name_order);
    for (uint64_t i = 1; i < n; i++) {
        char buf[96];
        if (!strcmp(ref[i].name, ref[i - 1].name))
            return err_set(e, ERR_MODEL, "tensor '%s' is in two parts",
                           gguf_printable(buf, (view){ ref[i].name, strlen(ref[i].name) }));
    }
    return ERR_OK;
}

static err_code join_all(gguf *g, const split_keys *k, size_t prefix, XXH3_state_t *digest, err *e)
{
    err_code rc = ERR_OK;
    XXH3_128bits_reset(digest);
    XXH3_128bits_update(digest, g->digest, 32);
    for (uint32_t i = 1; !rc && i < k->count; i++) rc = join_one(g, k, prefix, i, digest, e);
    if (!rc && k->has_tensors && k->tensors != g->n_tensors)
        rc = err_set(e, ERR_MODEL, "parts have %" PRIu64 " tensors together, split.tensors.count says %" PRIu64, g->n_tensors,
                     k->tensors);
    if (!rc) rc = index_tensors(g, e);
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits_digest(digest));
    for (int i = 0; i < 16; i++) snprintf(g->digest + 2 * i, 3, "%02x", c.digest[i]);
    return rc;
}

err_code gguf_join_parts(gguf *g, err *e)
{
    split_keys k = read_keys(g);
    size_t prefix = 0;
    if (k.count <= 1) return ERR_OK;
    err_code rc = check_first(g, &k, &prefix, e);
    if (rc) return rc;
    XXH3_state_t *digest = XXH3_createState();
    g->more = calloc(k.count, sizeof *g->more);
    rc = digest && g->more ? join_all(g, &k, prefix, digest, e)
                           : err_set(e, ERR_NOMEM, "out of memory for %" PRIu64 " parts", k.count);
    XXH3_freeState(digest);
    return rc;
}
