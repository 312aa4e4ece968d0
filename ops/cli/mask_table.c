#include "ops/cli/mask_table.h"
#include "ops/cli/bootstrap_ci.h"
#include "ops/cli/show.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BOOT_SEED = 1 };

/* A stretch of items, and what is held against what there. */
typedef struct { const mask_results *m; size_t from, to; double *x; } stretch;

static interval mean_of(const stretch *s, const float *a, const float *minus)
{
    interval out = { 0 };
    err quiet;
    size_t n = 0;
    for (size_t i = s->from; i < s->to; i++) {
        double x = (double)a[i] - (minus ? (double)minus[i] : 0);
        if (!isnan(x)) s->x[n++] = x;
    }
    return bootstrap_mean(s->x, n, BOOT_SEED, &out, &quiet) ? (interval){ NAN, NAN, NAN } : out;
}

/* What a line is compared with: with the adapter, the same rule without it; without, its budget's first router. */
static const mask_trial *reference(const mask_results *m, const mask_trial *t)
{
    for (uint32_t i = 0; i < m->n_trials; i++) {
        const mask_trial *r = &m->trial[i];
        if (r->adapted) continue;
        if (t->adapted ? !strcmp(r->name, t->name) : t->layers && r->layers == t->layers && !strncmp(r->name, "first", 5)) return r;
    }
    return NULL;
}

static void print_difference(const stretch *s, const float *router, const float *other, double unit)
{
    interval d = mean_of(s, router, other);
    printf(" %+.*f (%+.*f to %+.*f)%s |", unit > 1 ? 1 : 3, unit * d.mean, unit > 1 ? 1 : 3, unit * d.lo, unit > 1 ? 1 : 3, unit * d.hi, d.lo > 0 || d.hi < 0 ? " *" : "");
}

static void print_row(const stretch *s, const mask_trial *t, bool asked)
{
    const mask_trial *r = reference(s->m, t);
    interval kl = mean_of(s, t->kl, NULL), nats = mean_of(s, t->nats, NULL);
    printf("| `%s`%s | %.0f %% | %.4f ± %.4f | %.3f |", t->name, t->adapted ? " and LoRA" : "", 100 * t->skipped, kl.mean, (kl.hi - kl.lo) / 2, nats.mean);
    if (asked) printf(" %.1f |", 100 * mean_of(s, t->right, NULL).mean);
    if (!r || r == t) {
        printf("%s\n", asked ? " | | |" : " | |");
        return;
    }
    print_difference(s, r->kl, t->kl, 1);
    print_difference(s, r->nats, t->nats, 1);
    if (asked) print_difference(s, r->right, t->right, 100);
    printf("\n");
}

static void print_set(const stretch *s, const char *name, bool asked)
{
    printf("\n%s, %zu items; differences: the budget's first router less this one, or with an adapter the same rule without it less this one; 95 %% interval, * outside\n\n",
           name, s->to - s->from);
    printf("| rule | left out | KL | nats an answer |%s KL, less | nats, less |%s\n", asked ? " right, % |" : "", asked ? " right, points |" : "");
    printf("|---|---|---|---|%s---|---|%s\n", asked ? "---|" : "", asked ? "---|" : "");
    for (uint32_t i = 0; i < s->m->n_trials; i++) print_row(s, &s->m->trial[i], asked);
}

static json_t *trial_json(const stretch *s, const mask_trial *t)
{
    interval kl = mean_of(s, t->kl, NULL), nats = mean_of(s, t->nats, NULL), right = mean_of(s, t->right, NULL);
    return json_pack("{s:s,s:b,s:i,s:f,s:[fff],s:[fff],s:[fff]}", "rule", t->name, "adapter", (int)t->adapted, "layers", (int)t->layers, "skipped", t->skipped, "kl",
                     kl.mean, kl.lo, kl.hi, "nats", nats.mean, nats.lo, nats.hi, "right", right.mean, right.lo, right.hi);
}

static json_t *set_json(const stretch *s, const char *name)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < s->m->n_trials; i++) json_array_append_new(list, trial_json(s, &s->m->trial[i]));
    return json_pack("{s:s,s:I,s:o}", "set", name, "items", (json_int_t)(s->to - s->from), "trials", list);
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

err_code mask_table_print(const mask_results *m, bool json, err *e)
{
    json_t *sets = json_array();
    stretch s = { .m = m, .x = malloc((m->done + 1) * sizeof *s.x) };
    size_t asked = m->done;
    if (!s.x || !sets) return err_set(e, ERR_NOMEM, "out of memory for figures");
    for (uint32_t i = 0; i <= m->n_sets; i++) {
        bool all = i == m->n_sets;
        s.from = least(all ? asked : m->first[i], m->done);
        s.to = all ? m->done : least(m->first[i + 1], m->done);
        if (!all && m->asked[i]) asked = least(asked, s.from);
        if (s.from == s.to) continue;
        if (json) json_array_append_new(sets, set_json(&s, all ? "all questions" : m->set[i]));
        else print_set(&s, all ? "all questions" : m->set[i], all || m->asked[i]);
    }
    free(s.x);
    if (json) return show_json(json_pack("{s:s,s:s,s:o}", "schema", "sluice.eval/1", "eval", "masks", "sets", sets), e);
    json_decref(sets);
    return show_write("", 0, e);
}
