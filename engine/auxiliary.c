#include "engine/auxiliary.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- layers of the base ---------------------------------------------------------------------------------------------- */

static err_code take_layer(auxiliary *a, const char **at, uint32_t L, err *e)
{
    char *end;
    errno = 0;
    unsigned long l = strtoul(*at, &end, 10);
    if (end == *at || **at == '-' || errno || l >= L || (*end && *end != ','))
        return err_set(e, ERR_CONFIG, "auxiliary " AUX_LAYERS "...: \"%.20s\" is no layer of the base, which has 0 to %u", *at, L - 1);
    if (a->n_kept && l <= a->kept[a->n_kept - 1])
        return err_set(e, ERR_CONFIG, "auxiliary " AUX_LAYERS "...: layer %lu behind layer %u: they ascend", l, a->kept[a->n_kept - 1]);
    a->kept[a->n_kept++] = (uint32_t)l;
    *at = *end ? end + 1 : end;
    if (*end && !**at) return err_set(e, ERR_CONFIG, "auxiliary " AUX_LAYERS "... ends with a comma");
    return ERR_OK;
}

static void name_layers(auxiliary *a, const gguf *base)
{
    text t = { 0 };
    bool ok = text_adds(&t, AUX_LAYERS);
    for (uint32_t i = 0; ok && i < a->n_kept; i++) ok = text_addf(&t, i ? ",%u" : "%u", a->kept[i]);
    snprintf(a->name, sizeof a->name, "%s", ok ? t.ptr : AUX_LAYERS);
    ok = ok && text_adds(&t, gguf_digest(base));
    XXH128_hash_t h = XXH3_128bits(ok ? t.ptr : "", ok ? t.len : 0);
    snprintf(a->digest, sizeof a->digest, "%016" PRIx64 "%016" PRIx64, h.high64, h.low64);
    text_free(&t);
}

static err_code read_layers(auxiliary *a, const char *list, const gguf *base, err *e)
{
    err_code rc = model_shape_read(&a->shape, base, e);
    uint32_t L = a->shape.L;
    if (!rc && !*list) rc = err_set(e, ERR_CONFIG, "auxiliary " AUX_LAYERS ": no layer is named");
    while (!rc && *list) rc = take_layer(a, &list, L, e);
    /* which layers look back only a window follows from their number, so a thinned model would have other ones */
    if (!rc && a->shape.look.window)
        rc = err_set(e, ERR_CONFIG, "auxiliary " AUX_LAYERS "...: layers of a model with attention windows cannot stand alone");
    if (rc) return rc;
    a->shape.L = a->n_kept;
    name_layers(a, base);
    return ERR_OK;
}

/* ---- another file ------------------------------------------------------------------------------------------------------ */

static bool raw_value(const gguf *g, const char *key, view *out)
{
    for (uint64_t i = 0; i < gguf_n_keys(g); i++) {
        gguf_kind kind;
        if (strcmp(gguf_key(g, i, &kind), key)) continue;
        *out = gguf_raw(g, i);
        return true;
    }
    return false;
}

/* Ids must mean the same in both models; how text is cut into them is the base's matter alone. */
static err_code check_vocabulary(const gguf *aux, const gguf *base, err *e)
{
    static const char key[] = "tokenizer.ggml.tokens";
    view a, b, x, y;
    if (!raw_value(base, key, &b)) return err_set(e, ERR_MODEL, "%s: %s is missing", gguf_path(base), key);
    if (!raw_value(aux, key, &a)) return err_set(e, ERR_MODEL, "%s: %s is missing", gguf_path(aux), key);
    if (a.len == b.len && !memcmp(a.ptr, b.ptr, a.len)) return ERR_OK;
    gguf_kind kind;
    uint64_t n = 0, m = 0, i = 0;
    gguf_get_arr(aux, key, &kind, &n);
    gguf_get_arr(base, key, &kind, &m);
    while (i < n && i < m && gguf_arr_str(aux, key, i, &x) && gguf_arr_str(base, key, i, &y) && x.len == y.len && !memcmp(x.ptr, y.ptr, x.len)) i++;
    return err_set(e, ERR_MODEL, "auxiliary %s has another tokenizer than the base: %" PRIu64 " tokens, not %" PRIu64 "; the first that differs is %" PRIu64,
                   gguf_path(aux), n, m, i);
}

static err_code read_file(auxiliary *a, const char *path, const gguf *base, err *e)
{
    err_code rc = gguf_open(&a->file, path, e);
    if (rc) return err_wrap(e, "auxiliary model");
    rc = model_shape_read(&a->shape, a->file, e);
    if (!rc) rc = check_vocabulary(a->file, base, e);
    snprintf(a->name, sizeof a->name, "%s", path);
    snprintf(a->digest, sizeof a->digest, "%s", rc ? "" : gguf_digest(a->file));
    return rc;
}

err_code auxiliary_open(auxiliary **out, const char *what, const gguf *base, err *e)
{
    auxiliary *a = *out = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_NOMEM, "out of memory");
    size_t n = sizeof AUX_LAYERS - 1;
    err_code rc = strncmp(what, AUX_LAYERS, n) ? read_file(a, what, base, e) : read_layers(a, what + n, base, e);
    if (rc) auxiliary_close(out);
    return rc;
}

/* ---- weights ------------------------------------------------------------------------------------------------------------- */

static err_code thin_out(auxiliary *a, const model *base, err *e)
{
    a->thin = (model){ .shape = a->shape, .part = { 0, a->n_kept, true, false }, .embed = base->embed };
    a->thin.layer = calloc(a->n_kept, sizeof *a->thin.layer);
    if (!a->thin.layer) return err_set(e, ERR_NOMEM, "out of memory for %u layers", a->n_kept);
    for (uint32_t i = 0; i < a->n_kept; i++) a->thin.layer[i] = base->layer[a->kept[i] - base->part.first];
    a->m = &a->thin;
    return ERR_OK;
}

err_code auxiliary_load(auxiliary *a, const model *base, const pack_options *o, uint32_t threads, err *e)
{
    if (a->n_kept) return thin_out(a, base, e);
    pack_file *packed = pack_open(a->file, o, threads, NULL);
    err_code rc = model_open_packed(&a->m, a->file, packed, (shard){ 0, a->shape.L, true, false }, e);
    pack_close(&packed);
    return rc;
}

void auxiliary_close(auxiliary **ap)
{
    auxiliary *a = *ap;
    if (!a) return;
    if (a->m && a->m != &a->thin) model_close(&a->m);
    free(a->thin.layer);
    if (a->file) gguf_close(&a->file);
    free(a);
    *ap = NULL;
}
