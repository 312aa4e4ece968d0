/* Which tensor gets which type, and the streaming of rows through a team of threads. It refuses to quantise what is
 * quantised unless told so, and never touches vectors (norms, biases). */
#include "engine/model_quantize.h"
#include "core/pool.h"
#include "engine/quantize.h"
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((uint64_t)8 << 20) /* of f32 rows between two writes */
#define ROW_MAX (1u << 24)              /* elements; the widest matrices known have below 2^18 */

/* ---- which type ---- */

typedef enum { PLAIN, SMALL, MEDIUM } mix;
typedef struct {
    const char *name;
    wtype type;
    mix mix;
    uint32_t file_type;
} recipe;

/* file_type: llama.cpp's numbers of general.file_type. Its names without a size mean the medium mix. */
static const recipe recipes[] = {
    { "F16", WTYPE_F16, PLAIN, 1 },       { "BF16", WTYPE_BF16, PLAIN, 32 },    { "Q8_0", WTYPE_Q8_0, PLAIN, 7 },
    { "Q6_K", WTYPE_Q6_K, PLAIN, 18 },    { "Q5_K_M", WTYPE_Q5_K, MEDIUM, 17 }, { "Q5_K_S", WTYPE_Q5_K, PLAIN, 16 },
    { "Q5_K", WTYPE_Q5_K, MEDIUM, 17 },   { "Q5_1", WTYPE_Q5_1, PLAIN, 9 },     { "Q5_0", WTYPE_Q5_0, PLAIN, 8 },
    { "Q4_K_M", WTYPE_Q4_K, MEDIUM, 15 }, { "Q4_K_S", WTYPE_Q4_K, SMALL, 14 },  { "Q4_K", WTYPE_Q4_K, MEDIUM, 15 },
    { "Q4_1", WTYPE_Q4_1, PLAIN, 3 },     { "Q4_0", WTYPE_Q4_0, PLAIN, 2 },
};
#define N_RECIPES (sizeof recipes / sizeof *recipes)

const char *model_quantize_type(size_t i)
{
    return i < N_RECIPES ? recipes[i].name : NULL;
}

static bool ends(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

/* Matrices that are multiplied with; routers and position tables are small and sensitive. */
static bool is_matrix(const gguf_tensor *t)
{
    static const char *const kept[] = { "_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight" };
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (ends(t->name, kept[i])) return false;
    return t->n_dims >= 2 && ends(t->name, ".weight");
}

/* "blk.7.attn_v.weight": 7 and "attn_v.weight"; -1 for tensors of no layer. */
static int layer_of(const char *name, const char **rest)
{
    int layer, n = 0;
    *rest = name;
    if (sscanf(name, "blk.%6d.%n", &layer, &n) != 1 || !n || layer < 0) return -1;
    *rest = name + n;
    return layer;
}

/* The layers where errors weigh most: the first and last eighth, and every third between (llama.cpp's rule). */
static bool wants_more_bits(int layer, int n)
{
    return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

typedef struct {
    const recipe *r;
    bool pure, tied;
    int layers;
} plan;

static wtype mixed_type(const plan *p, const char *name)
{
    const char *rest;
    wtype type = p->r->type;
    if (p->pure || !wtypes[type].quant) return type;
    if (!strcmp(name, p->tied ? "token_embd.weight" : "output.weight")) return type == WTYPE_Q8_0 ? type : WTYPE_Q6_K;
    int layer = layer_of(name, &rest);
    bool v = !strcmp(rest, "attn_v.weight"), down = !strcmp(rest, "ffn_down.weight");
    if (layer < 0 || p->r->mix == PLAIN) return type;
    if (p->r->mix == SMALL) return (v && layer < 4) || (down && layer < p->layers / 8) ? WTYPE_Q5_K : type;
    if (!strcmp(rest, "attn_qkv.weight")) return type == WTYPE_Q4_K ? WTYPE_Q5_K : WTYPE_Q6_K;
    return (v || down) && wants_more_bits(layer, p->layers) ? WTYPE_Q6_K : type;
}

/* What rows that do not divide into K blocks get: the next type up in blocks of 32. */
static wtype fitting(wtype t, uint64_t row)
{
    if (row % wtypes[t].block == 0) return t;
    t = t == WTYPE_Q4_K ? WTYPE_Q5_0 : t == WTYPE_Q5_K ? WTYPE_Q5_1 : WTYPE_Q8_0;
    return row % wtypes[t].block == 0 ? t : WTYPE_F16;
}

/* ---- one conversion ---- */

typedef struct {
    const gguf *g;
    const model_quantize_options *o;
    plan plan;
    gguf_writer *w;
    wtype *to; /* [tensors]; WTYPE_COUNT: copied */
    pool *team;
    float *rows; /* a row for every thread */
    uint8_t *buf;
    gguf_meter meter;
    model_quantize_report *report;
    err *e;
} job;

static err_code choose(job *j, const gguf_tensor *t, wtype *to)
{
    wtype from, want = WTYPE_COUNT;
    char name[16];
    *to = WTYPE_COUNT;
    if (!is_matrix(t)) return ERR_OK;
    want = mixed_type(&j->plan, t->name);
    *to = fitting(want, t->dim[0]);
    j->report->fallbacks += *to != want;
    if (wtypes[*to].ggml_id == t->type) return *to = WTYPE_COUNT, ERR_OK;
    if (!wtype_from_ggml(t->type, &from))
        return err_set(j->e, ERR_MODEL, "tensor %s has type %s, which this build cannot read", t->name,
                       wtype_ggml_name(t->type, name));
    if (wtypes[from].quant && !j->o->requantize)
        return err_set(j->e, ERR_INPUT,
                       "tensor %s is quantised already (%s): what that lost stays lost; --requantize takes it all the same",
                       t->name, wtypes[from].name);
    if (t->dim[0] > ROW_MAX)
        return err_set(j->e, ERR_MODEL, "tensor %s has rows of %" PRIu64 " elements, %u at most", t->name, t->dim[0], ROW_MAX);
    return ERR_OK;
}

static err_code choose_all(job *j)
{
    uint64_t n = gguf_n_tensors(j->g);
    const char *rest;
    j->to = calloc(n + 1, sizeof *j->to);
    if (!j->to) return err_set(j->e, ERR_NOMEM, "out of memory");
    j->plan.tied = !gguf_tensor_find(j->g, "output.weight");
    for (uint64_t i = 0; i < n; i++) {
        int layer = layer_of(gguf_tensor_at(j->g, i)->name, &rest);
        j->plan.layers = layer >= j->plan.layers ? layer + 1 : j->plan.layers;
    }
    err_code rc = ERR_OK;
    for (uint64_t i = 0; !rc && i < n; i++) rc = choose(j, gguf_tensor_at(j->g, i), &j->to[i]);
    return rc;
}

static err_code write_head(job *j)
{
    static const char *const own[] = { "general.file_type", "general.quantization_version", NULL };
    gguf_copy_keys(j->w, j->g, own);
    gguf_writer_u32(j->w, "general.quantization_version", 2); /* of the block layouts that ggml uses now */
    gguf_writer_u32(j->w, "general.file_type", j->plan.r->file_type);
    for (uint64_t i = 0; i < gguf_n_tensors(j->g); i++) {
        const gguf_tensor *t = gguf_tensor_at(j->g, i);
        gguf_copy_entry(j->w, t, j->to[i] == WTYPE_COUNT ? t->type : wtypes[j->to[i]].ggml_id);
    }
    return gguf_writer_begin(j->w, j->e);
}

/* ---- rows ---- */

typedef struct {
    wtype from, to;
    uint32_t n, rows; /* elements of a row; rows of this chunk */
    const uint8_t *in;
    uint8_t *out;
    float *scratch; /* [threads][n] */
    atomic_bool refused;
} chunk;

static void convert_part(void *arg, uint32_t tid, uint32_t n_threads)
{
    chunk *c = arg;
    uint32_t lo, hi;
    size_t in = wtype_row_bytes(c->from, c->n), out = wtype_row_bytes(c->to, c->n);
    float *x = c->scratch + (size_t)tid * c->n;
    pool_part(c->rows, 1, tid, n_threads, &lo, &hi);
    for (uint32_t r = lo; r < hi; r++) {
        wtype_to_f32(c->from, c->in + r * in, c->n, x);
        if (!quantize_row(c->to, x, c->n, c->out + r * out)) atomic_store(&c->refused, true);
    }
}

static err_code convert_rows(job *j, uint64_t i, const uint8_t *data)
{
    const gguf_tensor *t = gguf_tensor_at(j->g, i);
    chunk c = { .to = j->to[i], .n = (uint32_t)t->dim[0], .out = j->buf, .scratch = j->rows };
    (void)wtype_from_ggml(t->type, &c.from);
    size_t in = wtype_row_bytes(c.from, c.n), out = wtype_row_bytes(c.to, c.n);
    uint64_t left = t->bytes / in, most = CHUNK_BYTES / ((uint64_t)c.n * sizeof(float));
    err_code rc = ERR_OK;
    for (uint64_t at = 0; !rc && left; at += c.rows, left -= c.rows) {
        c.rows = (uint32_t)(left < most ? left : most ? most : 1);
        c.in = data + at * in;
        pool_run(j->team, convert_part, &c);
        if (c.refused)
            return err_set(j->e, ERR_MODEL, "tensor %s holds values that are not finite, or too large for %s", t->name,
                           wtypes[c.to].name);
        rc = gguf_writer_data(j->w, i, at * out, j->buf, c.rows * out, j->e);
        if (!rc) rc = gguf_meter_add(&j->meter, c.rows * in, j->e);
    }
    return rc;
}

static err_code convert(job *j, uint64_t i)
{
    const gguf_tensor *t = gguf_tensor_at(j->g, i);
    if (j->to[i] == WTYPE_COUNT) {
        j->report->kept++;
        return gguf_copy_data(j->w, i, j->g, t, &j->meter, j->e);
    }
    gguf_range r;
    err_code rc = gguf_map(j->g, t->offset, t->bytes, &r, j->e);
    if (!rc) rc = convert_rows(j, i, r.data);
    gguf_unmap(&r);
    j->report->converted++;
    return rc;
}

/* A row for every thread, and a chunk of output: at most four bytes an element, of CHUNK_BYTES or one row. */
static err_code make_room(job *j)
{
    uint64_t widest = 1;
    for (uint64_t i = 0; i < gguf_n_tensors(j->g); i++)
        if (j->to[i] != WTYPE_COUNT && gguf_tensor_at(j->g, i)->dim[0] > widest) widest = gguf_tensor_at(j->g, i)->dim[0];
    uint64_t bytes = widest * sizeof(float);
    j->rows = malloc(bytes * j->o->threads);
    j->buf = malloc(bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES);
    return j->rows && j->buf ? ERR_OK : err_set(j->e, ERR_NOMEM, "out of memory for rows of %" PRIu64, widest);
}

static err_code write_all(job *j)
{
    err_code rc = write_head(j);
    if (!rc) rc = make_room(j);
    j->meter.total = gguf_data_bytes(j->g);
    for (uint64_t i = 0; !rc && i < gguf_n_tensors(j->g); i++) rc = convert(j, i);
    for (uint64_t i = 0; i < gguf_n_tensors(j->g); i++) j->report->bytes_out += gguf_writer_bytes(j->w, i);
    j->report->bytes_in = j->meter.total;
    return rc ? rc : gguf_writer_commit(j->w, j->e);
}

/* ---- the door ---- */

static err_code find_recipe(job *j)
{
    char all[200] = "";
    size_t n = 0;
    for (size_t i = 0; i < N_RECIPES; i++) {
        if (!strcmp(recipes[i].name, j->o->type)) return j->plan.r = &recipes[i], ERR_OK;
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", i ? " " : "", recipes[i].name);
    }
    return err_set(j->e, ERR_INPUT, "no type \"%.40s\" to quantise to (%s)", j->o->type, all);
}

err_code model_quantize(const gguf *g, const char *out, const model_quantize_options *o, model_quantize_report *report, err *e)
{
    *report = (model_quantize_report){ 0 };
    job j = {
        .g = g, .o = o, .plan = { .pure = o->pure }, .report = report, .e = e, .meter = { .fn = o->progress, .arg = o->arg }
    };
    err_code rc = find_recipe(&j);
    if (!rc) rc = gguf_copy_check(g, out, e);
    if (!rc && (rc = choose_all(&j))) err_wrap(e, "%s", gguf_path(g));
    if (!rc) rc = pool_open(&j.team, o->threads, NULL, NULL, e);
    if (!rc) rc = gguf_writer_open(&j.w, out, e);
    if (!rc) rc = write_all(&j);
    gguf_writer_close(&j.w);
    pool_close(&j.team);
    free(j.to);
    free(j.rows);
    free(j.buf);
    return rc;
}
