/* Masks as plain numbers, and as the text that a job's log has. Decides nothing about which layers are worth their time. */
#include "core/mask.h"
#include <stdlib.h>
#include <string.h>

layer_mask mask_none(uint32_t n)
{
    layer_mask m = { .n = n };
    for (uint32_t l = 0; l < n && l < MASK_LAYERS; l++) m.at[l] = (mask_layer){ MASK_NEVER, MASK_NEVER };
    return m;
}

bool mask_is_none(const layer_mask *m)
{
    for (uint32_t l = 0; l < m->n; l++)
        if (m->at[l].attn != MASK_NEVER || m->at[l].ffn != MASK_NEVER) return false;
    return !m->calm.last;
}

static bool is_constant(uint32_t from) { return !from || from == MASK_NEVER; }

bool mask_is_constant(const layer_mask *m)
{
    for (uint32_t l = 0; l < m->n; l++)
        if (!is_constant(m->at[l].attn) || !is_constant(m->at[l].ffn)) return false;
    return !m->calm.last;
}

static uint32_t bind(uint32_t from, uint32_t n_prompt, uint32_t made)
{
    if (from == MASK_NEVER || !(from & MASK_AFTER)) return from;
    uint32_t after = from & ~MASK_AFTER;
    return n_prompt + (after > made ? after - made : 0);
}

void mask_bind(layer_mask *out, const layer_mask *job, uint32_t n_prompt, uint32_t made)
{
    out->n = job->n;
    out->stand = job->stand;
    out->stand_id = job->stand_id;
    out->calm = job->calm;
    out->calm.from = bind(job->calm.from, n_prompt, made);
    for (uint32_t l = 0; l < job->n; l++)
        out->at[l] = (mask_layer){ bind(job->at[l].attn, n_prompt, made), bind(job->at[l].ffn, n_prompt, made) };
}

uint32_t mask_idle(const layer_mask *m, uint32_t first, uint32_t last)
{
    uint32_t from = 0;
    if (first < last && (last > m->n || m->stand)) return MASK_NEVER;
    for (uint32_t l = first; l < last; l++) {
        if (m->at[l].attn > from) from = m->at[l].attn;
        if (m->at[l].ffn > from) from = m->at[l].ffn;
    }
    return from;
}

static err_code change(uint32_t layer, const char *what, uint32_t from, uint32_t to, uint32_t rows, err *e)
{
    if (from == to || (from >= rows && to >= rows)) return ERR_OK;
    return err_set(e, ERR_STATE, "%s of layer %u would be left out from row %lld on, not %lld, and %u rows have been computed: they would have to be computed again",
                   what, layer, to == MASK_NEVER ? -1ll : (long long)to, from == MASK_NEVER ? -1ll : (long long)from, rows);
}

err_code mask_change(const layer_mask *from, const layer_mask *to, uint32_t rows, err *e)
{
    static const mask_layer on = { MASK_NEVER, MASK_NEVER };
    for (uint32_t l = 0; l < from->n || l < to->n; l++) {
        mask_layer a = l < from->n ? from->at[l] : on, b = l < to->n ? to->at[l] : on;
        if (change(l, "attention", a.attn, b.attn, rows, e) || change(l, "the FFN", a.ffn, b.ffn, rows, e)) return ERR_STATE;
    }
    return ERR_OK;
}

static double skipped(uint32_t off, uint32_t from, uint32_t to)
{
    if (off >= to) return 0;
    return to - (off > from ? off : from);
}

double mask_share(const layer_mask *m, uint32_t from, uint32_t to, double w_attn, double w_ffn)
{
    double sum = 0, all = (double)m->n * (to > from ? to - from : 0) * (w_attn + w_ffn);
    for (uint32_t l = 0; l < m->n && to > from; l++)
        sum += w_attn * skipped(m->at[l].attn, from, to) + w_ffn * skipped(m->at[l].ffn, from, to);
    return all > 0 ? sum / all : 0;
}

/* ---- calm FFNs --------------------------------------------------------------------------------------------------------- */

enum { IGNORES, LOOKS };          /* states of a row; more of them: it rests */

static bool is_inner(const mask_calm *c, uint32_t layer) { return layer >= c->first && layer < c->last; }

mask_calm mask_calm_inner(uint32_t n) { return (mask_calm){ .first = (n + 3) / 6, .last = n - (n + 6) / 12, .count = MASK_CALM_ALL }; }

bool mask_calm_rests(const mask_calm *c, uint32_t layer, mask_row *row)
{
    if (row->state <= LOOKS || !is_inner(c, layer)) return false;
    if (row->state <= MASK_CALM_ALL) row->state--;
    row->out++;
    return true;
}

void mask_calm_saw(const mask_calm *c, uint32_t layer, float like, mask_row *row)
{
    if (row->state == LOOKS && is_inner(c, layer) && like >= c->theta) row->state = c->count + 1;
}

/* ---- text ---------------------------------------------------------------------------------------------------------- */

static uint32_t *half_of(mask_layer *l, int half) { return half ? &l->ffn : &l->attn; }

static bool put_half(const layer_mask *m, int half, text *out)
{
    bool ok = true, any = false;
    for (uint32_t l = 0; ok && l < m->n; l++) {
        uint32_t from = half ? m->at[l].ffn : m->at[l].attn;
        if (from == MASK_NEVER) continue;
        if (!any) ok = text_addf(out, "%s%s=", out->len ? " " : "", half ? "ffn" : "attn");
        ok = ok && text_addf(out, "%s%u", any ? "," : "", l);
        if (ok && from & MASK_AFTER) ok = text_addf(out, "+%u", from & ~MASK_AFTER);
        else if (ok && from) ok = text_addf(out, "@%u", from);
        any = true;
    }
    return ok;
}

bool mask_print(const layer_mask *m, text *out)
{
    text_clear(out);
    const mask_calm *c = &m->calm;
    bool ok = put_half(m, 0, out) && put_half(m, 1, out);
    if (c->last) /* nine digits bring a float back */
        ok = ok && text_addf(out, "%scalm=%.9g,%u-%u,%u%c%u", out->len ? " " : "", (double)c->theta, c->first, c->last, c->count, c->from & MASK_AFTER ? '+' : '@', c->from & ~MASK_AFTER);
    if (m->stand && out->len) ok = ok && text_addf(out, " stand=%u,%u", (unsigned)m->stand, m->stand_id);
    return ok && (out->len || text_adds(out, "none"));
}

/* A decimal number below `most` at *s; false: there is none. */
static bool number(const char **s, uint32_t most, uint32_t *out)
{
    char *end;
    if (**s < '0' || **s > '9') return false;
    unsigned long x = strtoul(*s, &end, 10);
    *s = end;
    *out = (uint32_t)x;
    return x < most;
}

static bool read_list(layer_mask *m, int half, const char **s)
{
    for (uint32_t l, from = 0; number(s, m->n, &l); (*s)++, from = 0) {
        char sign = **s;
        if (sign == '+' || sign == '@') {
            (*s)++;
            if (!number(s, MASK_AFTER - 1, &from)) return false;
        }
        *half_of(&m->at[l], half) = sign == '+' ? MASK_AFTER | from : from;
        if (**s != ',') return true;
    }
    return false;
}

static bool read_calm(layer_mask *m, const char **s)
{
    char *end, sign;
    mask_calm *c = &m->calm;
    c->theta = strtof(*s, &end);
    bool ok = **s >= '0' && **s <= '9' && c->theta <= 1 && *end++ == ',';
    *s = end;
    ok = ok && number(s, m->n, &c->first) && *(*s)++ == '-' && number(s, m->n + 1, &c->last) && c->first < c->last && *(*s)++ == ',' && number(s, MASK_CALM_ALL + 1, &c->count);
    sign = ok ? *(*s)++ : 0;
    ok = ok && c->count && (sign == '+' || sign == '@') && number(s, MASK_AFTER - 1, &c->from);
    if (sign == '+') c->from |= MASK_AFTER;
    return ok;
}

static bool read_stand(layer_mask *m, const char **s)
{
    uint32_t kind;
    bool ok = number(s, MASK_STANDS, &kind) && kind && *(*s)++ == ',' && number(s, UINT32_MAX, &m->stand_id) && m->stand_id;
    m->stand = ok ? (mask_stand)kind : MASK_BARE;
    return ok;
}

static bool read_part(layer_mask *m, const char **at)
{
    static const char *const names[] = { "attn=", "ffn=", "calm=", "stand=" };
    for (int i = 0; i < 4; i++) {
        size_t n = strlen(names[i]);
        if (strncmp(*at, names[i], n)) continue;
        *at += n;
        return i < 2 ? read_list(m, i, at) : i == 2 ? read_calm(m, at) : read_stand(m, at);
    }
    return false;
}

err_code mask_parse(layer_mask *out, uint32_t n, const char *s, size_t len, err *e)
{
    char *copy = strndup(len ? s : "", len);
    if (!copy) return err_set(e, ERR_NOMEM, "out of memory for a mask of %zu bytes", len);
    const char *at = copy;
    *out = mask_none(n < MASK_LAYERS ? n : MASK_LAYERS);
    bool ok = true;
    if (!strcmp(copy, "none")) at += 4;
    while (ok && *at) {
        ok = read_part(out, &at) && (!*at || *at == ' ');
        at += ok && *at == ' ';
    }
    err_code rc = ok ? ERR_OK : err_set(e, ERR_INPUT, "mask \"%.100s\": cannot be read for a model of %u layers", copy, n);
    free(copy);
    return rc;
}
