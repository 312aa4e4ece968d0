#include "coordinator/plan_file.h"
#include <string.h>

/* Owns the reading of plans. It makes none. */

#define FILE_MAX (16u << 20)

static err_code take_part(plan_file *p, const json_t *o, uint32_t at, err *e)
{
    json_int_t first = json_integer_value(json_object_get(o, "first")), last = json_integer_value(json_object_get(o, "last"));
    if (first != at || last <= first || last > p->costs.L)
        return err_set(e, ERR_CONFIG, "stage %u has layers %lld to %lld: want %u to at most %u", p->n, (long long)first, (long long)last, at, p->costs.L);
    p->part[p->n++] = (plan_part){ (uint32_t)first, (uint32_t)last, first == 0, last == (json_int_t)p->costs.L };
    return ERR_OK;
}

static err_code take_parts(plan_file *p, const json_t *stages, err *e)
{
    uint32_t at = 0;
    json_t *o;
    size_t i;
    if (!json_array_size(stages) || json_array_size(stages) > 512) return err_set(e, ERR_CONFIG, "\"stages\" is missing or wrong");
    json_array_foreach(stages, i, o) {
        err_code rc = take_part(p, o, at, e);
        if (rc) return rc;
        at = p->part[p->n - 1].last;
    }
    return at == p->costs.L ? ERR_OK : err_set(e, ERR_CONFIG, "the stages end at layer %u of %u", at, p->costs.L);
}

err_code plan_file_read(plan_file *p, const char *path, const char *digest, err *e)
{
    text in = { 0 };
    json_error_t je;
    *p = (plan_file){ .n = 0 };
    err_code rc = text_read_file(&in, path, FILE_MAX, e);
    json_t *o = rc ? NULL : json_loadb(in.ptr, in.len, 0, &je);
    if (!rc && !o) rc = err_set(e, ERR_CONFIG, "line %d: %s", je.line, je.text);
    if (!rc) rc = costs_read(&p->costs, json_object_get(o, "costs"), e);
    if (!rc) rc = take_parts(p, json_object_get(o, "stages"), e);
    if (!rc && strcmp(p->costs.digest, digest)) rc = err_set(e, ERR_MODEL, "it is for model %s, this one is %s", p->costs.digest, digest);
    json_decref(o);
    text_free(&in);
    return rc ? err_wrap(e, "plan %s", path) : ERR_OK;
}

err_code plan_file_split(const plan_file *p, uint32_t n_stages, plan_part *out, err *e)
{
    double layer[MODEL_MAX_LAYERS];
    const costs *c = &p->costs;
    if (n_stages == p->n) {
        memcpy(out, p->part, n_stages * sizeof *out);
        return ERR_OK;
    }
    for (uint32_t l = 0; l < c->L; l++) layer[l] = c->weight[l] * cost_at(c, &c->team[0].layer, 1);
    return plan_split(layer, c->L, cost_at(c, &c->team[0].head, 1), n_stages, out, e);
}
