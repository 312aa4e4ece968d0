/* Writing a profile, whole or in part. Data waits in a file without a name until all tensors are known, since the header holds
 * their hashes. Refuses to replace a file that is not the profile of the same model. */
#include "engine/profile_priv.h"
#include "engine/gguf_copy.h"
#include "engine/quantize.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
    char name[GGUF_NAME_MAX];
    wtype type;
    uint64_t n0, n1, at, bytes;        /* at: in the spool */
    int64_t hash;
} put_tensor;

typedef struct { char name[GGUF_NAME_MAX]; char *text; double *x; uint64_t n; } put_value;   /* text, or n numbers; n 0: one in x[0] */

struct profile_writer {
    char *file, *model, *auxiliary, *path;
    uint32_t layers, only;
    profile *old;                      /* NULL: there was none */
    int spool;
    uint64_t end;                      /* of the spool */
    put_tensor *tensor;
    put_value *value;
    size_t n_tensors, n_values;
    err first;
};

/* ---- open and close ------------------------------------------------------------------------------------------------ */

static err_code open_spool(profile_writer *w, err *e)
{
    text name = { 0 };
    if (!text_addf(&name, "%s.data-XXXXXX", w->file)) return err_set(e, ERR_NOMEM, "%s: out of memory", w->file);
    w->spool = mkostemp(name.ptr, O_CLOEXEC);
    err_code rc = w->spool < 0 ? err_set(e, ERR_IO, "%s: %s", name.ptr, strerror(errno)) : ERR_OK;
    if (!rc) unlink(name.ptr);
    text_free(&name);
    return rc;
}

static err_code check_old(profile_writer *w, const profile_binding *bound, err *e)
{
    if (access(w->file, F_OK) && errno == ENOENT) return ERR_OK;
    err_code rc = profile_open(&w->old, w->file, &(profile_binding){ .model = bound->model, .path = bound->path }, e);
    if (rc == ERR_CONFIG) return err_wrap(e, "not replaced (remove it, or write to another file)");
    if (rc) return err_set(e, ERR_INPUT, "%s: is there, and no profile that could be replaced", w->file);
    if (w->old->layers != w->layers)
        return err_set(e, ERR_CONFIG, "%s: the profile of a model with %u layers, and this one has %u", w->file, w->old->layers, w->layers);
    return ERR_OK;
}

err_code profile_writer_open(profile_writer **out, const char *file, const profile_binding *bound, uint32_t layers, uint32_t only,
                             err *e)
{
    *out = NULL;
    profile_writer *w = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_NOMEM, "%s: out of memory", file);
    *w = (profile_writer){ .spool = -1, .layers = layers, .only = only };
    w->file = strdup(file);
    w->model = strdup(bound->model);
    w->path = strdup(bound->path);
    err_code rc = w->file && w->model && w->path ? check_old(w, bound, e) : err_set(e, ERR_NOMEM, "%s: out of memory", file);
    const char *auxiliary = bound->auxiliary ? bound->auxiliary : w->old ? w->old->auxiliary : "";
    if (!rc && !(w->auxiliary = strdup(auxiliary))) rc = err_set(e, ERR_NOMEM, "%s: out of memory", file);
    if (!rc) rc = open_spool(w, e);
    if (rc) {
        profile_writer_close(&w);
        return rc;
    }
    *out = w;
    return ERR_OK;
}

void profile_writer_close(profile_writer **wp)
{
    profile_writer *w = *wp;
    if (!w) return;
    for (size_t i = 0; i < w->n_values; i++) {
        free(w->value[i].text);
        free(w->value[i].x);
    }
    char *owned[] = { w->file, w->model, w->auxiliary, w->path };
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    free(w->value);
    free(w->tensor);
    if (w->spool >= 0) close(w->spool);
    profile_close(&w->old);
    free(w);
    *wp = NULL;
}

err_code profile_writer_auxiliary(profile_writer *w, const char *digest, err *e)
{
    char *is = strdup(digest);
    if (!is) return err_set(e, ERR_NOMEM, "%s: out of memory", w->file);
    free(w->auxiliary);
    w->auxiliary = is;
    return ERR_OK;
}

/* ---- put ----------------------------------------------------------------------------------------------------------- */

static void fail(profile_writer *w, err_code c, const char *what, const char *name)
{
    if (!w->first.code) err_set(&w->first, c, "%s: %s '%.60s'", w->file, what, name);
}

static bool taken(const profile_writer *w, const char *name)
{
    for (size_t i = 0; i < w->n_tensors; i++)
        if (!strcmp(w->tensor[i].name, name)) return true;
    for (size_t i = 0; i < w->n_values; i++)
        if (!strcmp(w->value[i].name, name)) return true;
    return false;
}

/* A name for something new. */
static bool name_new(profile_writer *w, profile_section s, uint32_t layer, const char *name, char out[static GGUF_NAME_MAX])
{
    if (!profile_key(out, s, layer, name)) return fail(w, ERR_STATE, "no name for a value:", name), false;
    if (!(w->only >> s & 1)) return fail(w, ERR_STATE, "a section that is not rewritten:", out), false;
    if (layer != PROFILE_WHOLE && layer >= w->layers) return fail(w, ERR_STATE, "a layer that the model lacks:", out), false;
    if (taken(w, out) || !strcmp(name, "version")) return fail(w, ERR_STATE, "given twice:", out), false;
    return true;
}

static put_value *value_new(profile_writer *w, profile_section s, const char *name)
{
    char key[GGUF_NAME_MAX];
    if (!name_new(w, s, PROFILE_WHOLE, name, key)) return NULL;
    put_value *more = realloc(w->value, (w->n_values + 1) * sizeof *more);
    if (!more) return fail(w, ERR_NOMEM, "out of memory at", key), NULL;
    w->value = more;
    more[w->n_values] = (put_value){ 0 };
    memcpy(more[w->n_values].name, key, sizeof key);
    return &more[w->n_values++];
}

static void put_doubles(profile_writer *w, profile_section s, const char *name, const double *x, uint64_t n, bool array)
{
    put_value *v = value_new(w, s, name);
    if (!v) return;
    v->n = array ? n : 0;
    v->x = n < SIZE_MAX / sizeof *x ? malloc((n + 1) * sizeof *x) : NULL;
    if (!v->x) fail(w, ERR_NOMEM, "out of memory at", name);
    for (uint64_t i = 0; v->x && i < n; i++) {
        v->x[i] = x[i];
        if (!isfinite(x[i])) fail(w, ERR_INPUT, "not a finite number:", v->name);
    }
}

void profile_put_number(profile_writer *w, profile_section s, const char *name, double x) { put_doubles(w, s, name, &x, 1, false); }

void profile_put_numbers(profile_writer *w, profile_section s, const char *name, const double *x, uint64_t n)
{
    put_doubles(w, s, name, x, n, true);
}

void profile_put_text(profile_writer *w, profile_section s, const char *name, const char *x)
{
    put_value *v = value_new(w, s, name);
    if (v && !(v->text = strdup(x))) fail(w, ERR_NOMEM, "out of memory at", name);
}

static bool spool_add(profile_writer *w, const void *data, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = pwrite(w->spool, (const char *)data + done, n - done, (off_t)(w->end + done));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        done += (size_t)k;
    }
    w->end += n;
    return true;
}

void profile_put_floats(profile_writer *w, profile_section s, uint32_t layer, const char *name, wtype type, uint64_t n0,
                        uint64_t n1, const float *x)
{
    put_tensor t = { .type = type, .n0 = n0, .n1 = n1, .at = w->end };
    if (w->first.code || !name_new(w, s, layer, name, t.name)) return;
    bool fits = (type == WTYPE_F32 || type == WTYPE_F16 || type == WTYPE_Q8_0) && n0 && n1 && n0 % wtypes[type].block == 0 &&
                n0 < 1u << 30 && n1 < 1u << 30;
    if (!fits) return fail(w, ERR_STATE, "a type or shape that a profile has not:", t.name);
    size_t row = wtype_row_bytes(type, (uint32_t)n0);
    t.bytes = row * n1;
    uint8_t *data = malloc(t.bytes);
    put_tensor *more = realloc(w->tensor, (w->n_tensors + 1) * sizeof *more);
    if (more) w->tensor = more;
    if (!data || !more) fail(w, ERR_NOMEM, "out of memory at", t.name);
    for (uint64_t i = 0; !w->first.code && i < n1; i++)
        if (!quantize_row(type, x + i * n0, (uint32_t)n0, data + i * row)) fail(w, ERR_INPUT, "values that cannot be stored:", t.name);
    for (uint64_t i = 0; !w->first.code && i < n0 * n1; i++)
        if (!isfinite(x[i])) fail(w, ERR_INPUT, "values that are not finite:", t.name);
    if (!w->first.code) {
        t.hash = (int64_t)profile_hash_of(data, t.bytes);
        if (spool_add(w, data, t.bytes)) w->tensor[w->n_tensors++] = t;
        else fail(w, ERR_IO, strerror(errno), t.name);
    }
    free(data);
}

/* ---- commit -------------------------------------------------------------------------------------------------------- */

/* Is this key or tensor of the old file of a section that stays? */
static bool stays(const profile_writer *w, const char *name)
{
    uint32_t layer;
    profile_section s = profile_owner(name, &layer);
    return s != PROFILE_SECTIONS && !(w->only >> s & 1);
}

static void write_old_keys(const profile_writer *w, gguf_writer *g)
{
    for (uint64_t i = 0; w->old && i < gguf_n_keys(w->old->g); i++) {
        gguf_kind kind;
        const char *key = gguf_key(w->old->g, i, &kind);
        if (stays(w, key)) gguf_writer_raw(g, key, kind, gguf_raw(w->old->g, i));
    }
}

static void write_new_keys(const profile_writer *w, gguf_writer *g)
{
    for (int s = 0; s < PROFILE_SECTIONS; s++) {
        char key[GGUF_NAME_MAX];
        snprintf(key, sizeof key, "%s.version", profile_section_name((profile_section)s));
        if (w->only >> s & 1) gguf_writer_u32(g, key, profile_section_version((profile_section)s));
    }
    for (size_t i = 0; i < w->n_values; i++) {
        const put_value *v = &w->value[i];
        if (v->text) gguf_writer_str(g, v->name, (view){ v->text, strlen(v->text) });
        else if (v->n) gguf_writer_arr(g, v->name, GGUF_F64, v->x, v->n);
        else gguf_writer_num(g, v->name, GGUF_F64, v->x);
    }
}

static void write_head(const profile_writer *w, gguf_writer *g, const int64_t *hash, uint64_t n)
{
    gguf_writer_str(g, "general.architecture", (view){ PROFILE_ARCHITECTURE, strlen(PROFILE_ARCHITECTURE) });
    gguf_writer_u32(g, "profile.format", PROFILE_FORMAT);
    gguf_writer_u32(g, "profile.layers", w->layers);
    gguf_writer_str(g, "profile.model", (view){ w->model, strlen(w->model) });
    gguf_writer_str(g, "profile.auxiliary", (view){ w->auxiliary, strlen(w->auxiliary) });
    gguf_writer_str(g, "profile.path", (view){ w->path, strlen(w->path) });
    gguf_writer_arr(g, "profile.hash", GGUF_I64, hash, n);
}

/* The table: what stays, then what is new. hash [n]; kept [k]: numbers in the old file. */
static uint64_t write_table(const profile_writer *w, gguf_writer *g, int64_t *hash, uint64_t *kept, uint64_t *n_kept)
{
    uint64_t n = 0;
    for (uint64_t i = 0; w->old && i < gguf_n_tensors(w->old->g); i++) {
        const gguf_tensor *t = gguf_tensor_at(w->old->g, i);
        if (!stays(w, t->name) || !gguf_arr_i64(w->old->g, "profile.hash", i, &hash[n])) continue;
        gguf_copy_entry(g, t, t->type);
        kept[n++] = i;
    }
    *n_kept = n;
    for (size_t i = 0; i < w->n_tensors; i++) {
        const put_tensor *t = &w->tensor[i];
        gguf_writer_tensor(g, t->name, wtypes[t->type].ggml_id, t->n1 > 1 ? 2 : 1, (uint64_t[]){ t->n0, t->n1 });
        hash[n++] = t->hash;
    }
    return n;
}

static err_code write_old_data(const profile_writer *w, gguf_writer *g, const uint64_t *kept, uint64_t n, err *e)
{
    err_code rc = ERR_OK;
    for (uint64_t i = 0; !rc && i < n; i++) {
        gguf_range r;
        rc = profile_checked(w->old, kept[i], &r, e);
        if (rc) return err_wrap(e, "cannot keep the other sections");
        rc = gguf_writer_data(g, i, 0, r.data, (size_t)gguf_tensor_at(w->old->g, kept[i])->bytes, e);
        gguf_unmap(&r);
    }
    return rc;
}

static err_code write_new_data(const profile_writer *w, gguf_writer *g, uint64_t first, err *e)
{
    if (!w->end) return ERR_OK;
    uint8_t *all = mmap(NULL, w->end, PROT_READ, MAP_SHARED, w->spool, 0);
    if (all == MAP_FAILED) return err_set(e, ERR_IO, "%s: %s", w->file, strerror(errno));
    err_code rc = ERR_OK;
    for (size_t i = 0; !rc && i < w->n_tensors; i++)
        rc = gguf_writer_data(g, first + i, 0, all + w->tensor[i].at, w->tensor[i].bytes, e);
    munmap(all, w->end);
    return rc;
}

static err_code write_all(const profile_writer *w, gguf_writer *g, err *e)
{
    uint64_t old = w->old ? gguf_n_tensors(w->old->g) : 0, n, n_kept;
    int64_t *hash = calloc(old + w->n_tensors + 1, sizeof *hash);
    uint64_t *kept = calloc(old + 1, sizeof *kept);
    err_code rc = hash && kept ? ERR_OK : err_set(e, ERR_NOMEM, "%s: out of memory", w->file);
    if (!rc) {
        n = write_table(w, g, hash, kept, &n_kept);
        write_head(w, g, hash, n);
        write_old_keys(w, g);
        write_new_keys(w, g);
        rc = gguf_writer_begin(g, e);
    }
    if (!rc) rc = write_old_data(w, g, kept, n_kept, e);
    if (!rc) rc = write_new_data(w, g, n_kept, e);
    free(hash);
    free(kept);
    return rc;
}

err_code profile_writer_commit(profile_writer *w, err *e)
{
    if (w->first.code) return err_set(e, w->first.code, "%s", w->first.text);
    gguf_writer *g = NULL;
    err_code rc = gguf_writer_open(&g, w->file, e);
    if (!rc) rc = write_all(w, g, e);
    if (!rc) rc = gguf_writer_commit(g, e);
    gguf_writer_close(&g);
    return rc;
}
