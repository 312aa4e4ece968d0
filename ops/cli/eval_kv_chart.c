#include "ops/cli/eval_kv_chart.h"
#include "ops/cli/plot.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Owns which policies share a colour. */

enum { PLAIN, KIVI, KVQUANT, BLIND, SCORED, MIXED, ORACLE, KINDS };
static const char *const kind_names[] = { "plain formats", "by channel (KIVI)", "codebooks (KVQuant)", "random, window", "rows by score",
                                          "other", "oracle" };

static int kind_of(const kv_policy *p, bool oracle)
{
    if (oracle) return ORACLE;
    if (p->evicts && (p->score == KV_SCORE_RANDOM || p->score == KV_SCORE_POSITION) && !p->roles) return BLIND;
    if (p->retrieve) return p->retrieve == KV_RETRIEVE_RANDOM ? BLIND : MIXED;
    if (p->prune || p->levels[0] || p->k2.kind || p->roles || (p->evicts && p->k.kind)) return MIXED;
    if (p->evicts) return SCORED;
    return p->k.kind == KV_PACK_CHANNEL ? KIVI : p->k.kind == KV_PACK_NUQ ? KVQUANT : PLAIN;
}

const char *eval_kv_kind(const kv_policy *p, bool oracle) { return kind_names[kind_of(p, oracle)]; }

static double at(const json_t *row, const char *key)
{
    const json_t *x = json_object_get(row, key);
    return json_is_number(x) ? json_number_value(x) : NAN;
}

static bool is_kind(const json_t *row, int k)
{
    const char *is = json_string_value(json_object_get(row, "kind"));
    return is && !strcmp(is, kind_names[k]);
}

static err_code draw(const json_t *rows, const char *key, const char *label, bool log_y, const char *path, err *e)
{
    size_t all = json_array_size(rows), n = 0, drawn = 0;
    double *x = calloc(2 * (all + 1) * KINDS, sizeof *x);
    plot_series s[KINDS];
    if (!x) return err_set(e, ERR_NOMEM, "out of memory for a chart");
    for (int k = 0; k < KINDS; k++) {
        double *px = x + 2 * (all + 1) * (size_t)k, *py = px + all + 1;
        s[n] = (plot_series){ .name = kind_names[k], .x = px, .y = py };
        for (size_t i = 0; i < all; i++) {
            const json_t *row = json_array_get(rows, i);
            if (!is_kind(row, k) || !isfinite(at(row, key)) || !isfinite(at(row, "bytes"))) continue;
            if (log_y && !(at(row, key) > 0)) continue;
            px[s[n].n] = at(row, "bytes");
            py[s[n].n++] = at(row, key);
            drawn++;
        }
        n += s[n].n > 0;
    }
    plot p = { .kind = PLOT_POINTS, .title = label, .x_label = "bytes a token, all there are", .y_label = label, .log_x = true,
               .log_y = log_y, .series = s, .n = n };
    err_code rc = drawn ? plot_write(&p, path, e) : ERR_OK;
    free(x);
    return rc;
}

err_code eval_kv_draw(const json_t *rows, const char *prefix, err *e)
{
    char path[4096];
    snprintf(path, sizeof path, "%s-kl.svg", prefix);
    err_code rc = draw(rows, "kl", "mean KL from the exact cache", true, path, e);
    snprintf(path, sizeof path, "%s-needles.svg", prefix);
    if (rc == ERR_OK) rc = draw(rows, "after", "needles found, question after the prompt, %", false, path, e);
    return rc;
}
