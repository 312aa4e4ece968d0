#include "coordinator/costs.h"
#include "coordinator/plan.h"
#include <string.h>

/* Owns the table of costs and its form as JSON. It measures nothing. */

#define COST_MAX 1e12   /* microseconds: eleven days */

double cost_at(const costs *c, const cost_line *l, double rows)
{
    uint32_t i = 1, n = l->n < c->n_rows ? l->n : c->n_rows;
    if (!n || rows <= 0) return 0;
    while (i < n && c->rows[i] < rows) i++;
    if (i == n || rows <= c->rows[0]) return i == n ? l->at[n - 1] * rows / c->rows[n - 1] : l->at[0];
    double from = c->rows[i - 1], to = c->rows[i], part = (rows - from) / (to - from);
    return l->at[i - 1] + part * (l->at[i] - l->at[i - 1]);
}

const cost_team *cost_team_of(const costs *c, uint32_t threads)
{
    uint32_t i = 0;
    while (i + 1 < c->n_teams && c->team[i].threads > threads) i++;
    return &c->team[i];
}

err_code costs_of_model(costs *c, const gguf *g, const model_shape *s, err *e)
{
    double bytes[MODEL_MAX_LAYERS], head, sum = 0;
    err_code rc = plan_costs(g, s, bytes, &head, e);
    if (rc) return rc;
    memcpy(c->digest, s->digest, sizeof c->digest);
    c->L = s->L;
    c->D = s->D;
    for (uint32_t l = 0; l < s->L; l++) sum += bytes[l];
    for (uint32_t l = 0; l < s->L; l++) c->weight[l] = bytes[l] * s->L / sum, c->layer_bytes[l] = (uint64_t)bytes[l];
    c->head_bytes = (uint64_t)head;
    const gguf_tensor *t = gguf_tensor_find(g, "token_embd.weight");
    c->embed_bytes = t ? t->bytes : 0;
    c->kv_row_bytes = (uint64_t)2 * s->K * s->d * 2;
    return ERR_OK;
}

/* ---- JSON ---------------------------------------------------------------------------------------------------------- */

static json_t *line_json(const cost_line *l)
{
    json_t *a = json_array();
    for (uint32_t i = 0; a && i < l->n; i++) json_array_append_new(a, json_real(l->at[i]));
    return a;
}

static json_t *team_json(const cost_team *t)
{
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o}", "threads", (json_int_t)t->threads, "crowd", (json_int_t)t->crowd, "layer_us",
                     line_json(&t->layer), "head_us", line_json(&t->head), "layer_crowded_us", line_json(&t->layer_crowded),
                     "head_crowded_us", line_json(&t->head_crowded));
}

json_t *costs_json(const costs *c)
{
    json_t *rows = json_array(), *teams = json_array(), *bytes = json_array();
    for (uint32_t i = 0; rows && i < c->n_rows; i++) json_array_append_new(rows, json_integer(c->rows[i]));
    for (uint32_t i = 0; teams && i < c->n_teams; i++) json_array_append_new(teams, team_json(&c->team[i]));
    for (uint32_t i = 0; bytes && i < c->L; i++) json_array_append_new(bytes, json_integer((json_int_t)c->layer_bytes[i]));
    return json_pack("{s:s, s:s, s:I, s:I, s:o, s:o, s:o, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "schema", "sluice.costs/1", "digest",
                     c->digest, "dim", (json_int_t)c->D, "cpus", (json_int_t)c->cpus, "rows", rows, "teams", teams, "layer_bytes", bytes,
                     "embed_bytes", (json_int_t)c->embed_bytes, "head_bytes", (json_int_t)c->head_bytes, "kv_row_bytes",
                     (json_int_t)c->kv_row_bytes, "attend_us", c->attend_us, "embed_us", c->embed_us, "hop_us", c->hop_us, "hop_us_mb",
                     c->hop_us_mb, "turn_us", c->turn_us, "turn_row_us", c->turn_row_us);
}

static err_code bad(const char *what, err *e) { return err_set(e, ERR_CONFIG, "costs: \"%s\" is missing or wrong", what); }

static err_code read_int(const json_t *o, const char *key, uint64_t lo, uint64_t hi, uint64_t *out, err *e)
{
    const json_t *v = json_object_get(o, key);
    json_int_t x = json_integer_value(v);
    if (!json_is_integer(v) || x < 0 || (uint64_t)x < lo || (uint64_t)x > hi) return bad(key, e);
    *out = (uint64_t)x;
    return ERR_OK;
}

static err_code read_cost(const json_t *o, const char *key, double *out, err *e)
{
    const json_t *v = json_object_get(o, key);
    *out = json_number_value(v);
    return json_is_number(v) && *out >= 0 && *out <= COST_MAX ? ERR_OK : bad(key, e);
}

static err_code read_line(const json_t *o, const char *key, uint32_t n, cost_line *out, err *e)
{
    const json_t *a = json_object_get(o, key);
    if (!json_is_array(a) || json_array_size(a) != n) return bad(key, e);
    out->n = n;
    for (uint32_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(a, i);
        out->at[i] = json_number_value(v);
        if (!json_is_number(v) || !(out->at[i] >= 0 && out->at[i] <= COST_MAX)) return bad(key, e);
    }
    return ERR_OK;
}

static err_code read_rows(costs *c, const json_t *o, err *e)
{
    const json_t *a = json_object_get(o, "rows");
    size_t n = json_array_size(a);
    if (!n || n > COSTS_ROWS_MAX) return bad("rows", e);
    c->n_rows = (uint32_t)n;
    for (uint32_t i = 0; i < n; i++) {
        json_int_t x = json_integer_value(json_array_get(a, i));
        if (x < 1 || x > 4096 || (i ? x <= c->rows[i - 1] : x != 1)) return bad("rows", e);
        c->rows[i] = (uint32_t)x;
    }
    return ERR_OK;
}

static err_code read_team(costs *c, const json_t *o, err *e)
{
    cost_team *t = &c->team[c->n_teams++];
    uint64_t threads = 0, crowd = 0;
    err_code rc = read_int(o, "threads", 1, 4096, &threads, e);
    if (!rc) rc = read_int(o, "crowd", 1, 4096, &crowd, e);
    t->threads = (uint32_t)threads;
    t->crowd = (uint32_t)crowd;
    if (!rc) rc = read_line(o, "layer_us", c->n_rows, &t->layer, e);
    if (!rc) rc = read_line(o, "head_us", c->n_rows, &t->head, e);
    if (!rc) rc = read_line(o, "layer_crowded_us", c->n_rows, &t->layer_crowded, e);
    return rc ? rc : read_line(o, "head_crowded_us", c->n_rows, &t->head_crowded, e);
}

static err_code read_layers(costs *c, const json_t *o, err *e)
{
    const json_t *a = json_object_get(o, "layer_bytes");
    size_t n = json_array_size(a);
    double sum = 0;
    if (!n || n > MODEL_MAX_LAYERS) return bad("layer_bytes", e);
    c->L = (uint32_t)n;
    for (uint32_t l = 0; l < n; l++) {
        json_int_t x = json_integer_value(json_array_get(a, l));
        if (x < 1 || x > (json_int_t)1 << 50) return bad("layer_bytes", e);
        c->layer_bytes[l] = (uint64_t)x;
        sum += (double)x;
    }
    for (uint32_t l = 0; l < n; l++) c->weight[l] = (double)c->layer_bytes[l] * (double)n / sum;
    return ERR_OK;
}

err_code costs_read(costs *c, const json_t *o, err *e)
{
    *c = (costs){ 0 };
    uint64_t D = 0, cpus = 0;
    const char *digest = json_string_value(json_object_get(o, "digest"));
    const json_t *teams = json_object_get(o, "teams");
    if (!digest || strlen(digest) != 32) return bad("digest", e);
    memcpy(c->digest, digest, 33);
    err_code rc = read_int(o, "dim", 1, 65536, &D, e);
    if (!rc) rc = read_int(o, "cpus", 1, 65536, &cpus, e);
    c->D = (uint32_t)D;
    c->cpus = (uint32_t)cpus;
    if (!rc) rc = read_rows(c, o, e);
    if (!rc) rc = read_layers(c, o, e);
    if (!rc && (!json_array_size(teams) || json_array_size(teams) > COSTS_TEAMS_MAX)) rc = bad("teams", e);
    for (size_t i = 0; !rc && i < json_array_size(teams); i++) rc = read_team(c, json_array_get(teams, i), e);
    const struct { const char *key; uint64_t *to; } ints[] = { { "embed_bytes", &c->embed_bytes }, { "head_bytes", &c->head_bytes }, { "kv_row_bytes", &c->kv_row_bytes } };
    for (int i = 0; !rc && i < 3; i++) rc = read_int(o, ints[i].key, 0, (uint64_t)1 << 50, ints[i].to, e);
    const struct { const char *key; double *to; } us[] = { { "attend_us", &c->attend_us }, { "embed_us", &c->embed_us }, { "hop_us", &c->hop_us },
        { "hop_us_mb", &c->hop_us_mb }, { "turn_us", &c->turn_us }, { "turn_row_us", &c->turn_row_us } };
    for (int i = 0; !rc && i < 6; i++) rc = read_cost(o, us[i].key, us[i].to, e);
    return rc;
}
