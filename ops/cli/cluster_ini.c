#include "ops/cli/cluster_ini.h"
#include "core/settings.h"
#include <errno.h>
#include <ini.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Owns the description of a cluster that need not be there. It runs nothing. */

typedef struct { cluster_spec *c; const char *path; err *e; int line; } reading;

/* ---- values ---------------------------------------------------------------------------------------------------------- */

static err_code wrong(const reading *r, const char *key, const char *value)
{
    return err_set(r->e, ERR_CONFIG, "%s: %s = \"%.80s\" is wrong", r->path, key, value);
}

static err_code take_u32(const reading *r, const char *key, const char *value, uint32_t lo, uint32_t hi, uint32_t *out)
{
    char *end;
    unsigned long long v = *value >= '0' && *value <= '9' ? strtoull(value, &end, 10) : (end = (char *)value, 0);
    if (end == value || *end || v < lo || v > hi) return wrong(r, key, value);
    *out = (uint32_t)v;
    return ERR_OK;
}

static err_code take_real(const reading *r, const char *key, const char *value, double lo, double hi, double *out)
{
    char *end;
    double v = strtod(value, &end);
    if (end == value || *end || !(v >= lo && v <= hi)) return wrong(r, key, value);
    *out = v;
    return ERR_OK;
}

static err_code take_list(const reading *r, const char *key, const char *value, uint32_t lo, uint32_t hi, uint32_t *out, uint32_t cap, uint32_t *n)
{
    char word[24];
    const char *at = value;
    err_code rc = ERR_OK;
    for (*n = 0; !rc; at++) {
        size_t len = strcspn(at, ",");
        if (*n == cap || len >= sizeof word) return wrong(r, key, value);
        snprintf(word, sizeof word, "%.*s", (int)len, at);
        rc = take_u32(r, key, word, lo, hi, &out[(*n)++]);
        at += len;
        if (!*at) break;
    }
    return rc;
}

/* ---- sections -------------------------------------------------------------------------------------------------------- */

static err_code unknown(const reading *r, const char *section, const char *key)
{
    return err_set(r->e, ERR_CONFIG, "%s: [%s] has no key \"%.60s\"", r->path, section, key);
}

static err_code load_key(reading *r, const char *key, const char *v)
{
    sim_load *l = &r->c->load;
    uint32_t seed = 0;
    if (!strcmp(key, "clients")) return take_u32(r, key, v, 1, 1u << 20, &l->clients);
    if (!strcmp(key, "rate")) return take_real(r, key, v, 0, 1e9, &l->rate);
    if (!strcmp(key, "requests")) return take_u32(r, key, v, 1, 1u << 24, &l->requests);
    if (!strcmp(key, "chunk")) return take_u32(r, key, v, 1, 4096, &l->chunk);
    if (!strcmp(key, "in_flight")) return take_u32(r, key, v, 0, 4096, &l->width);
    if (!strcmp(key, "prompt")) return take_list(r, key, v, 1, 1u << 24, l->prompt, SIM_LENGTHS_MAX, &l->n_prompt);
    if (!strcmp(key, "generate")) return take_list(r, key, v, 1, 1u << 24, l->gen, SIM_LENGTHS_MAX, &l->n_gen);
    if (strcmp(key, "seed")) return unknown(r, "load", key);
    err_code rc = take_u32(r, key, v, 0, UINT32_MAX, &seed);
    l->seed = seed;
    return rc;
}

static err_code node_key(reading *r, node_spec *n, const char *key, const char *v)
{
    const struct { const char *key; uint32_t lo, hi, *to; } ints[] = {
        { "count", 1, SIM_STAGES_MAX, &n->count }, { "stages", 1, SIM_STAGES_MAX, &n->stages },
        { "threads", 1, 4096, &n->threads },       { "cores", 1, 65536, &n->cores },
    };
    uint32_t mb = 0;
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        if (!strcmp(key, ints[i].key)) return take_u32(r, key, v, ints[i].lo, ints[i].hi, ints[i].to);
    if (!strcmp(key, "speed")) return take_real(r, key, v, 1e-6, 1e6, &n->speed);
    if (!strcmp(key, "latency_us")) return take_real(r, key, v, 0, 1e9, &n->latency_us);
    if (!strcmp(key, "bandwidth_mbs")) return take_real(r, key, v, 1e-6, 1e9, &n->bandwidth_mbs);
    if (!strcmp(key, "groups")) return take_list(r, key, v, 0, SIM_STAGES_MAX - 1, n->group, SIM_STAGES_MAX, &n->n_groups);
    if (strcmp(key, "memory_mb")) return unknown(r, "node", key);
    err_code rc = take_u32(r, key, v, 0, UINT32_MAX, &mb);
    n->memory_mb = mb;
    return rc;
}

static node_spec fresh(const char *name)
{
    node_spec n = { .count = 1, .stages = 1, .threads = 1, .speed = 1, .latency_us = -1 };
    snprintf(n.name, sizeof n.name, "%s", name);
    return n;
}

static err_code on_node(reading *r, const char *name, const char *key, const char *value)
{
    cluster_spec *c = r->c;
    uint32_t i = 0;
    while (i < c->n && strcmp(c->node[i].name, name)) i++;
    if (i == c->n && c->n == SPEC_NODES_MAX) return err_set(r->e, ERR_CONFIG, "%s: more than %u kinds of nodes", r->path, SPEC_NODES_MAX);
    if (i == c->n) c->node[c->n++] = fresh(name);
    if (i + 1 < c->n) return err_set(r->e, ERR_CONFIG, "%s: [node %s] is there twice", r->path, name);
    return node_key(r, &c->node[i], key, value);
}

static err_code on_pair(reading *r, const char *section, const char *key, const char *value)
{
    if (!strcmp(section, "load")) return load_key(r, key, value);
    if (!strcmp(section, "link") && !strcmp(key, "latency_us")) return take_real(r, key, value, 0, 1e9, &r->c->latency_us);
    if (!strcmp(section, "link") && !strcmp(key, "bandwidth_mbs")) return take_real(r, key, value, 1e-6, 1e9, &r->c->bandwidth_mbs);
    if (!strcmp(section, "link")) return unknown(r, section, key);
    if (!strncmp(section, "node ", 5) && section[5]) return on_node(r, section + 5, key, value);
    return err_set(r->e, ERR_CONFIG, "%s: no section [%.60s]: want load, link, node NAME", r->path, section);
}

static int pair(void *me, const char *section, const char *key, const char *value)
{
    reading *r = me;
    if (r->e->code) return 0;
    return on_pair(r, section, key ? key : "", value ? value : "") == ERR_OK;
}

static err_code begin(cluster_spec *c, err *e)
{
    *c = (cluster_spec){ .node = calloc(SPEC_NODES_MAX, sizeof *c->node), .latency_us = 50, .bandwidth_mbs = 1000,
                         .load = { .clients = 1, .requests = 64, .chunk = 64, .max_rows = 512, .prompt = { 128 }, .gen = { 128 }, .n_prompt = 1, .n_gen = 1 } };
    return c->node ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

void cluster_spec_free(cluster_spec *c)
{
    free(c->node);
    *c = (cluster_spec){ 0 };
}

err_code cluster_spec_local(cluster_spec *c, uint32_t stages, uint32_t threads, uint32_t cores, err *e)
{
    err_code rc = begin(c, e);
    if (rc) return rc;
    c->node[0] = fresh("here");
    c->node[0].stages = stages;
    c->node[0].threads = threads;
    c->node[0].cores = cores;
    c->n = 1;
    return ERR_OK;
}

err_code cluster_spec_read(cluster_spec *c, const char *path, err *e)
{
    err_code rc = begin(c, e);
    if (rc) return rc;
    FILE *f = fopen(path, "re");
    if (!f) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    reading r = { c, path, e, 0 };
    e->code = ERR_OK;
    int line = ini_parse_file(f, pair, &r);
    fclose(f);
    if (e->code) return line > 0 ? err_wrap(e, "line %d", line) : e->code;
    if (line) return err_set(e, ERR_CONFIG, "%s:%d: no section, no key = value", path, line);
    return c->n ? ERR_OK : err_set(e, ERR_CONFIG, "%s: no [node NAME]", path);
}

/* ---- stages ------------------------------------------------------------------------------------------------------------ */

/* How long a layer takes on this stage, when the node's others work too. */
static double pace(const costs *k, const node_spec *n, uint32_t groups, uint32_t mates, uint32_t rows)
{
    const cost_team *t = cost_team_of(k, n->threads);
    double us = cost_at(k, groups > 1 ? &t->layer_crowded : &t->layer, rows);
    return us * t->threads / n->threads * mates / n->speed;
}

static uint32_t same_group(const node_spec *n, const sim_stage *of_node, uint32_t group)
{
    uint32_t k = 0;
    for (uint32_t i = 0; i < n->stages; i++) k += of_node[i].group == group;
    return k;
}

static void put_node(const cluster_spec *c, const costs *k, const node_spec *n, uint32_t number, uint32_t rows, sim_cluster *out, plan_seat *seat)
{
    uint32_t cores = n->cores ? n->cores : n->threads * n->stages, groups = cores / n->threads ? cores / n->threads : 1;
    sim_stage *at = &out->stage[out->n];
    double base = cost_at(k, &k->team[0].layer, rows);
    for (uint32_t i = 0; i < n->stages; i++)
        at[i] = (sim_stage){ .node = number, .group = n->n_groups ? n->group[i % n->n_groups] : i % groups, .threads = n->threads,
                             .speed = n->speed, .latency_us = k->hop_us, .mb_us = k->hop_us_mb };
    double latency = n->latency_us >= 0 ? n->latency_us : c->latency_us, mbs = n->bandwidth_mbs > 0 ? n->bandwidth_mbs : c->bandwidth_mbs;
    at[n->stages - 1].latency_us = latency;
    at[n->stages - 1].mb_us = 1e6 / mbs;
    for (uint32_t i = 0; i < n->stages; i++) {
        uint32_t busy = groups < n->stages ? groups : n->stages;
        seat[out->n + i] = (plan_seat){ base / pace(k, n, busy, same_group(n, at, at[i].group), rows), n->memory_mb * 1000000 / n->stages };
    }
    out->n += n->stages;
}

err_code cluster_spec_stages(const cluster_spec *c, const costs *k, uint32_t rows, sim_cluster *out, plan_seat *seat, err *e)
{
    uint32_t number = 0;
    memset(out, 0, sizeof *out);
    out->costs = k;
    for (uint32_t i = 0; i < c->n; i++)
        for (uint32_t j = 0; j < c->node[i].count; j++) {
            if (out->n + c->node[i].stages > SIM_STAGES_MAX) return err_set(e, ERR_CONFIG, "more than %u stages", SIM_STAGES_MAX);
            put_node(c, k, &c->node[i], number++, rows, out, seat);
        }
    out->first_us = k->hop_us; /* the coordinator is on the first node */
    if (number == 1) out->stage[out->n - 1].latency_us = k->hop_us, out->stage[out->n - 1].mb_us = k->hop_us_mb;
    return ERR_OK;
}

plan_work cluster_spec_work(const costs *k, uint32_t rows, double *layer)
{
    const cost_team *t = &k->team[0];
    for (uint32_t l = 0; l < k->L; l++) layer[l] = k->weight[l] * cost_at(k, &t->layer, rows);
    return (plan_work){ .L = k->L, .layer = layer, .layer_bytes = k->layer_bytes, .embed = k->embed_us * rows, .head = cost_at(k, &t->head, rows),
                        .hop = k->hop_us, .embed_bytes = k->embed_bytes, .head_bytes = k->head_bytes };
}
