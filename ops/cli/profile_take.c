#include "engine/profile.h"
#include "engine/model.h"
#include "ops/cli/command.h"
#include "ops/cli/paths.h"
#include "ops/cli/show.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* sluice profile take: routers that ops/train/first.py has trained become section first of the model's profile. Owns how such a file is
 * read; refuses routers of another shape than the model's.
 *   {"schema": "sluice.routers/1", "layers": L, "width": D, "bias": [L], "weights": [L][D], "trained": {...}}
 * goes to tensors first.LAYER.w [D] and first.bias [L]; numbers and texts of "trained" go along under their names. */

static err_code take_numbers(const json_t *list, uint32_t n, double *out, const char *what, err *e)
{
    if (!json_is_array(list) || json_array_size(list) != n)
        return err_set(e, ERR_INPUT, "%s has %zu numbers, want %u", what, json_is_array(list) ? json_array_size(list) : 0, n);
    for (uint32_t i = 0; i < n; i++) {
        const json_t *x = json_array_get(list, i);
        out[i] = json_number_value(x);
        if (!json_is_number(x) || !isfinite(out[i]) || fabs(out[i]) > 1e6) return err_set(e, ERR_INPUT, "%s: number %u is none, or above a million", what, i);
    }
    return ERR_OK;
}

static err_code put_layer(profile_writer *w, const json_t *o, uint32_t l, uint32_t D, double *x, float *f, err *e)
{
    char what[40];
    snprintf(what, sizeof what, "weights of layer %u", l);
    err_code rc = take_numbers(json_array_get(json_object_get(o, "weights"), l), D, x, what, e);
    for (uint32_t i = 0; !rc && i < D; i++) f[i] = (float)x[i];
    if (!rc) profile_put_floats(w, PROFILE_FIRST, l, "w", WTYPE_F32, D, 1, f);
    return rc;
}

static void put_notes(profile_writer *w, json_t *trained)
{
    const char *name;
    json_t *x;
    json_object_foreach(trained, name, x) {
        if (json_is_number(x)) profile_put_number(w, PROFILE_FIRST, name, json_number_value(x));
        if (json_is_string(x)) profile_put_text(w, PROFILE_FIRST, name, json_string_value(x));
    }
}

static err_code put_all(profile_writer *w, json_t *o, uint32_t L, uint32_t D, err *e)
{
    size_t most = L > D ? L : D;
    double *x = malloc(most * sizeof *x);
    float *f = malloc(D * sizeof *f);
    err_code rc = x && f ? take_numbers(json_object_get(o, "bias"), L, x, "bias", e) : err_set(e, ERR_NOMEM, "out of memory for routers");
    if (!rc) profile_put_numbers(w, PROFILE_FIRST, "bias", x, L);
    for (uint32_t l = 0; !rc && l < L; l++) rc = put_layer(w, o, l, D, x, f, e);
    if (!rc) put_notes(w, json_object_get(o, "trained"));
    free(x);
    free(f);
    return rc;
}

static err_code check_shape(const json_t *o, const model_shape *s, err *e)
{
    const char *schema = json_string_value(json_object_get(o, "schema"));
    json_int_t L = json_integer_value(json_object_get(o, "layers")), D = json_integer_value(json_object_get(o, "width"));
    if (!schema || strcmp(schema, "sluice.routers/1")) return err_set(e, ERR_INPUT, "schema is \"%.60s\", want \"sluice.routers/1\"", schema ? schema : "");
    if (L == s->L && D == s->D) return ERR_OK;
    return err_set(e, ERR_INPUT, "routers of %lld layers of %lld, and the model has %u of %u", (long long)L, (long long)D, s->L, s->D);
}

static err_code write_section(settings *s, const gguf *g, const model_shape *shape, json_t *o, const char *out, err *e)
{
    profile_writer *w = NULL;
    profile_binding bound = { gguf_digest(g), NULL, s->arith ? s->arith : "i8b32" };
    err_code rc = profile_writer_open(&w, out, &bound, shape->L, 1u << PROFILE_FIRST, e);
    if (!rc) rc = put_all(w, o, shape->L, shape->D, e);
    if (!rc) rc = profile_writer_commit(w, e);
    profile_writer_close(&w);
    return rc;
}

err_code profile_take(settings *s, const char *file, err *e)
{
    gguf *g = NULL;
    model_shape shape;
    text out = { 0 };
    json_error_t je;
    json_t *o = json_load_file(file, 0, &je);
    err_code rc = o ? ERR_OK : err_set(e, ERR_INPUT, "%s", je.text);
    if (!rc && !s->model) rc = path_default_model(s, e);
    if (!rc) rc = gguf_open(&g, s->model, e);
    if (!rc) rc = model_shape_read(&shape, g, e);
    if (!rc) rc = check_shape(o, &shape, e);
    if (!rc && !(s->out ? text_adds(&out, s->out) : profile_beside(s->model, &out))) rc = err_set(e, ERR_NOMEM, "out of memory");
    if (!rc) rc = write_section(s, g, &shape, o, out.ptr, e);
    if (!rc) printf("%s has section first\n", out.ptr);
    json_decref(o);
    gguf_close(&g);
    text_free(&out);
    return rc ? err_wrap(e, "%s", file) : show_write("", 0, e);
}
