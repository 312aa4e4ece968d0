/* Reading a profile: what it is bound to, and its values and tensors by section and layer. Refuses to hand out a byte that is not
 * what was written. */
#include "engine/profile_priv.h"
#include "core/log.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

static const struct { const char *name; uint32_t version; } sections[PROFILE_SECTIONS] = {
#define X(N, name, version) [PROFILE_##N] = { name, version },
    PROFILE_SECTION_MAP(X)
#undef X
};

const char *profile_section_name(profile_section s) { return sections[s].name; }
uint32_t profile_section_version(profile_section s) { return sections[s].version; }

#define SMALL "abcdefghijklmnopqrstuvwxyz0123456789_"

/* ---- names --------------------------------------------------------------------------------------------------------- */

bool profile_key(char out[static GGUF_NAME_MAX], profile_section s, uint32_t layer, const char *name)
{
    int n = layer == PROFILE_WHOLE ? snprintf(out, GGUF_NAME_MAX, "%s.%s", sections[s].name, name)
                                   : snprintf(out, GGUF_NAME_MAX, "%s.%u.%s", sections[s].name, layer, name);
    return n > 0 && n < GGUF_NAME_MAX && *name && !name[strspn(name, SMALL)];
}

profile_section profile_owner(const char *name, uint32_t *layer)
{
    for (int s = 0; s < PROFILE_SECTIONS; s++) {
        size_t n = strlen(sections[s].name);
        if (strncmp(name, sections[s].name, n) || name[n] != '.') continue;
        char *end;
        unsigned long l = strtoul(name + n + 1, &end, 10);
        *layer = end > name + n + 1 && *end == '.' && l < UINT32_MAX ? (uint32_t)l : PROFILE_WHOLE;
        return (profile_section)s;
    }
    return PROFILE_SECTIONS;
}

bool profile_beside(const char *model_file, text *out)
{
    size_t n = strlen(model_file);
    if (n > 5 && !strcmp(model_file + n - 5, ".gguf")) n -= 5;
    return text_add(out, model_file, n) && text_adds(out, ".profile.gguf");
}

/* ---- open ---------------------------------------------------------------------------------------------------------- */

/* A digest or the name of a path: short, and nothing that a terminal or JSON could stumble over. */
static err_code take_text(const profile *p, const char *key, char **out, err *e)
{
    view v;
    if (!gguf_get_str(p->g, key, &v) || v.len > 64) return err_set(e, ERR_MODEL, "%s: key %s is missing or no short text", gguf_path(p->g), key);
    *out = strndup(v.len ? v.ptr : "", v.len);
    if (!*out) return err_set(e, ERR_NOMEM, "%s: out of memory", gguf_path(p->g));
    if (strlen(*out) != v.len || (*out)[strspn(*out, SMALL)])
        return err_set(e, ERR_MODEL, "%s: key %s is no digest or name", gguf_path(p->g), key);
    return ERR_OK;
}

static err_code take_head(profile *p, err *e)
{
    const char *file = gguf_path(p->g);
    uint64_t format, layers, n;
    gguf_kind kind;
    view arch;
    if (!gguf_get_str(p->g, "general.architecture", &arch) || arch.len != strlen(PROFILE_ARCHITECTURE) ||
        memcmp(arch.ptr, PROFILE_ARCHITECTURE, arch.len))
        return err_set(e, ERR_MODEL, "%s: a GGUF file, but no profile", file);
    if (!gguf_get_u64(p->g, "profile.format", &format) || format != PROFILE_FORMAT)
        return err_set(e, ERR_MODEL, "%s: profile.format is missing or not %u", file, PROFILE_FORMAT);
    if (!gguf_get_u64(p->g, "profile.layers", &layers) || layers < 1 || layers > UINT16_MAX)
        return err_set(e, ERR_MODEL, "%s: profile.layers is missing or out of range", file);
    p->layers = (uint32_t)layers;
    if (!gguf_get_arr(p->g, "profile.hash", &kind, &n)) n = 0, kind = GGUF_I64;
    if (kind != GGUF_I64 || n != gguf_n_tensors(p->g))
        return err_set(e, ERR_MODEL, "%s: profile.hash has %" PRIu64 " hashes for %" PRIu64 " tensors", file, n, gguf_n_tensors(p->g));
    err_code rc = take_text(p, "profile.model", &p->model, e);
    if (!rc) rc = take_text(p, "profile.auxiliary", &p->auxiliary, e);
    if (!rc) rc = take_text(p, "profile.path", &p->path, e);
    return rc;
}

static err_code check_tensors(const profile *p, err *e)
{
    for (uint64_t i = 0; i < gguf_n_tensors(p->g); i++) {
        const gguf_tensor *t = gguf_tensor_at(p->g, i);
        uint32_t layer;
        wtype type;
        char buf[16];
        if (t->name[strspn(t->name, SMALL ".")])
            return err_set(e, ERR_MODEL, "%s: tensor %" PRIu64 " has a name with other characters than a profile's", gguf_path(p->g), i);
        if (profile_owner(t->name, &layer) != PROFILE_SECTIONS && layer != PROFILE_WHOLE && layer >= p->layers)
            return err_set(e, ERR_MODEL, "%s: tensor '%s' of a model with %u layers", gguf_path(p->g), t->name, p->layers);
        if (!wtype_from_ggml(t->type, &type) || (type != WTYPE_F32 && type != WTYPE_F16 && type != WTYPE_Q8_0))
            return err_set(e, ERR_MODEL, "%s: tensor '%s' is %s, and a profile has F32, F16 and Q8_0", gguf_path(p->g), t->name,
                           wtype_ggml_name(t->type, buf));
        if (t->n_dims > 2) return err_set(e, ERR_MODEL, "%s: tensor '%s' has %u dimensions (1, 2)", gguf_path(p->g), t->name, t->n_dims);
    }
    return ERR_OK;
}

static err_code check_bound(const profile *p, const profile_binding *want, err *e)
{
    const struct { const char *is, *want, *what; } rows[] = {
        { p->model, want->model, "model" }, { p->auxiliary, want->auxiliary, "auxiliary model" }, { p->path, want->path, "arithmetic" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].want && strcmp(rows[i].is, rows[i].want))
            return err_set(e, ERR_CONFIG, "%s: the profile of another %s: it says \"%.40s\", this one is \"%.40s\"", gguf_path(p->g),
                           rows[i].what, rows[i].is, rows[i].want);
    return ERR_OK;
}

err_code profile_open(profile **out, const char *file, const profile_binding *want, err *e)
{
    *out = NULL;
    profile *p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NOMEM, "%s: out of memory", file);
    err_code rc = gguf_open(&p->g, file, e);
    if (!rc && gguf_n_parts(p->g) != 1) rc = err_set(e, ERR_MODEL, "%s: a profile is one file, not %u parts", file, gguf_n_parts(p->g));
    if (!rc) rc = take_head(p, e);
    if (!rc) rc = check_tensors(p, e);
    if (!rc && want) rc = check_bound(p, want, e);
    if (rc) {
        profile_close(&p);
        return rc;
    }
    *out = p;
    return ERR_OK;
}

void profile_close(profile **pp)
{
    profile *p = *pp;
    if (!p) return;
    gguf_close(&p->g);
    free(p->model);
    free(p->auxiliary);
    free(p->path);
    free(p);
    *pp = NULL;
}

err_code profile_choose(profile **out, const char *asked, const char *model_file, const profile_binding *want, err *e)
{
    text beside = { 0 };
    err why;
    *out = NULL;
    if (asked) return strcmp(asked, "none") ? profile_open(out, asked, want, e) : ERR_OK;
    if (!profile_beside(model_file, &beside)) return err_set(e, ERR_NOMEM, "out of memory");
    err_code rc = access(beside.ptr, F_OK) ? ERR_OK : profile_open(out, beside.ptr, want, &why);
    if (rc) LOG(rc == ERR_CONFIG ? LOG_INFO : LOG_WARN, "PROFILE-LEFT", "text=\"%s\"", why.text);
    text_free(&beside);
    return ERR_OK;
}

/* ---- what it says of itself ---------------------------------------------------------------------------------------- */

const char *profile_file(const profile *p) { return gguf_path(p->g); }
const char *profile_digest(const profile *p) { return gguf_digest(p->g); }   /* the header holds a hash of every tensor */
profile_binding profile_bound(const profile *p) { return (profile_binding){ p->model, p->auxiliary, p->path }; }
uint32_t profile_layers(const profile *p) { return p->layers; }

uint32_t profile_version(const profile *p, profile_section s)
{
    double v;
    return profile_number(p, s, "version", &v) && v >= 1 && v <= UINT32_MAX ? (uint32_t)v : 0;
}

bool profile_has(const profile *p, profile_section s) { return profile_version(p, s) == sections[s].version; }

err_code profile_need(const profile *p, profile_section s, err *e)
{
    uint32_t v = profile_version(p, s);
    if (v == sections[s].version) return ERR_OK;
    if (!v) return err_set(e, ERR_CONFIG, "%s: has no section %s (sluice calibrate --only %s makes it)", profile_file(p),
                           sections[s].name, sections[s].name);
    return err_set(e, ERR_CONFIG, "%s: section %s has version %u, and this program knows %u (sluice calibrate --only %s)",
                   profile_file(p), sections[s].name, v, sections[s].version, sections[s].name);
}

uint64_t profile_section_hash(const profile *p, profile_section s)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(p->g); i++) {
        const gguf_tensor *t = gguf_tensor_at(p->g, i);
        uint32_t layer;
        int64_t hash = 0;
        if (profile_owner(t->name, &layer) != s || !gguf_arr_i64(p->g, "profile.hash", i, &hash)) continue;
        sum ^= XXH3_64bits_withSeed(t->name, strlen(t->name), (uint64_t)hash); /* whatever their order in the file */
    }
    return sum;
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

bool profile_number(const profile *p, profile_section s, const char *name, double *out)
{
    char key[GGUF_NAME_MAX];
    return profile_key(key, s, PROFILE_WHOLE, name) && gguf_get_f64(p->g, key, out);
}

bool profile_text(const profile *p, profile_section s, const char *name, view *out)
{
    char key[GGUF_NAME_MAX];
    return profile_key(key, s, PROFILE_WHOLE, name) && gguf_get_str(p->g, key, out);
}

bool profile_numbers(const profile *p, profile_section s, const char *name, double *out, uint64_t n)
{
    char key[GGUF_NAME_MAX];
    gguf_kind kind;
    uint64_t has;
    if (!profile_key(key, s, PROFILE_WHOLE, name) || !gguf_get_arr(p->g, key, &kind, &has) || has != n) return false;
    for (uint64_t i = 0; i < n; i++)
        if (!gguf_arr_f64(p->g, key, i, &out[i])) return false;
    return true;
}

/* ---- tensors ------------------------------------------------------------------------------------------------------- */

uint64_t profile_hash_of(const void *data, size_t n) { return XXH3_64bits(data, n); }

err_code profile_checked(const profile *p, uint64_t i, gguf_range *out, err *e)
{
    const gguf_tensor *t = gguf_tensor_at(p->g, i);
    int64_t want;
    err_code rc = gguf_map(p->g, t->offset, t->bytes, out, e);
    if (rc) return rc;
    if (gguf_arr_i64(p->g, "profile.hash", i, &want) && profile_hash_of(out->data, (size_t)t->bytes) == (uint64_t)want) return ERR_OK;
    gguf_unmap(out);
    return err_set(e, ERR_MODEL, "%s: tensor '%s' is damaged (its hash is another)", profile_file(p), t->name);
}

const gguf_tensor *profile_find(const profile *p, profile_section s, uint32_t layer, const char *name)
{
    char key[GGUF_NAME_MAX];
    return profile_key(key, s, layer, name) ? gguf_tensor_find(p->g, key) : NULL;
}

err_code profile_map(const profile *p, profile_section s, uint32_t layer, const char *name, profile_data *out, err *e)
{
    *out = (profile_data){ 0 };
    const gguf_tensor *t = profile_find(p, s, layer, name);
    char key[GGUF_NAME_MAX] = "";
    if (!t) {
        profile_key(key, s, layer, name);
        return err_set(e, ERR_MODEL, "%s: has no tensor '%s'", profile_file(p), key);
    }
    out->n0 = t->dim[0];
    out->n1 = t->dim[1];
    if (!wtype_from_ggml(t->type, &out->type)) return err_set(e, ERR_MODEL, "%s: tensor '%s' of an unknown type", profile_file(p), t->name);
    err_code rc = profile_checked(p, (uint64_t)(t - gguf_tensor_at(p->g, 0)), &out->range, e);
    out->data = out->range.data;
    return rc;
}

void profile_unmap(profile_data *m) { gguf_unmap(&m->range); }

err_code profile_floats(const profile *p, profile_section s, uint32_t layer, const char *name, uint64_t n0, uint64_t n1, float *out,
                        err *e)
{
    profile_data m;
    err_code rc = profile_map(p, s, layer, name, &m, e);
    if (rc) return rc;
    if (m.n0 != n0 || m.n1 != n1 || n0 > UINT32_MAX)
        rc = err_set(e, ERR_MODEL, "%s: %s of layer %u has %" PRIu64 " x %" PRIu64 " values, and the model wants %" PRIu64 " x %" PRIu64,
                     profile_file(p), name, layer, m.n0, m.n1, n0, n1);
    for (uint64_t i = 0; !rc && i < n1; i++) {
        wtype_to_f32(m.type, (const uint8_t *)m.data + i * wtype_row_bytes(m.type, (uint32_t)n0), (uint32_t)n0, out + i * n0);
        for (uint64_t j = 0; !rc && j < n0; j++)
            if (!isfinite(out[i * n0 + j])) rc = err_set(e, ERR_MODEL, "%s: %s of layer %u has values that are not finite",
                                                         profile_file(p), name, layer);
    }
    profile_unmap(&m);
    return rc;
}
