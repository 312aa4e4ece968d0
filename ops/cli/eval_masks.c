#include "coordinator/route_policies.h"
#include "core/rng.h"
#include "engine/route_probe.h"
#include "ops/cli/command.h"
#include "ops/cli/documents.h"
#include "ops/cli/lines.h"
#include "ops/cli/mask_table.h"
#include "ops/cli/paths.h"
#include "ops/cli/progress.h"
#include "ops/cli/qa.h"
#include "ops/cli/signals.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* sluice eval masks: many ways of choosing layers on many texts, in this process: a text is read once, and what is behind its prompt again
 * for each mask. So random can be many masks a text, and an oracle can be had, which tries layers one at a time and takes the one without
 * which the right words cost least. Of an answer's tokens the first is said by the prompt's last row, which runs all layers; it counts
 * for right or wrong. Speed and the rules as a cluster follows them are sluice eval route's. */

enum { LONGEST = 1024, DOC_LONGEST = 256, DOC_LEAST = 16, MOST = 4096, CHANCES = 2, BUDGETS = 4, ORACLE_EVERY = 4 };

typedef struct {
    settings *s;
    gguf *g;
    model_shape shape;
    tokenizer *tok;
    profile *prof;
    router *known;                /* NULL: no profile */
    stand_ins *stand;             /* likewise */
    lab *lab;
    route_probe *probe;
    lora *adapter;
    float scale;
    documents set[MASK_SETS];
    mask_results out;
    size_t items;
    /* the item under way */
    float *pooled;                /* [L][D] sums over rows, divided */
    double damage[MASK_LAYERS], rho[MASK_LAYERS], entropy;
    uint32_t judged;
    bool begins;
    progress bar;
} study;

/* ---- items --------------------------------------------------------------------------------------------------------- */

/* " Answer." and a line end behind the prompt: how the bundled models answer. */
static err_code add_question(text *all, const question *q, err *e)
{
    bool ok = text_add(all, q->prompt.ptr, q->prompt.len) && text_addf(all, "\f %s.\n\n", q->answer);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for questions");
}

static err_code questions_of(study *y, const char *path, text *all, err *e)
{
    lines in;
    view line;
    size_t n = 0;
    err_code rc = lines_open(&in, path, e);
    if (rc) return rc;
    while (!rc && (!y->s->limit || n++ < y->s->limit) && lines_next(&in, &line, e)) {
        question q = { 0 };
        rc = question_read(&q, line, false, e);
        if (!rc) rc = add_question(all, &q, e);
        question_free(&q);
    }
    if (!rc) rc = e->code;
    lines_close(&in);
    return rc;
}

static err_code add_set(study *y, const char *path, bool asked, err *e)
{
    const documents_limits limit = { asked ? 4 : DOC_LEAST, asked ? LONGEST : DOC_LONGEST, !asked && y->s->limit ? (uint32_t)y->s->limit : MOST };
    text all = { 0 };
    uint32_t k = y->out.n_sets;
    err_code rc = k < MASK_SETS ? ERR_OK : err_set(e, ERR_USAGE, "more than %d files", MASK_SETS);
    if (!rc) rc = asked ? questions_of(y, path, &all, e) : text_read_file(&all, path, 1 << 28, e);
    if (!rc) rc = documents_read(&y->set[k], y->tok, (view){ all.ptr, all.len }, &limit, e);
    text_free(&all);
    if (rc) return rc;
    y->out.set[k] = path;
    y->out.asked[k] = asked;
    y->out.first[k] = y->items;
    y->items += y->set[k].n;
    y->out.first[++y->out.n_sets] = y->items;
    return ERR_OK;
}

static err_code read_items(study *y, err *e)
{
    err_code rc = y->s->file ? add_set(y, y->s->file, false, e) : ERR_OK;
    for (size_t i = 0; !rc && i < y->s->questions.n; i++) rc = add_set(y, y->s->questions.at[i], true, e);
    return rc || y->items ? rc : err_set(e, ERR_USAGE, "neither -f TEXT nor --questions FILE.jsonl has anything");
}

/* ---- trials -------------------------------------------------------------------------------------------------------- */

static err_code add_trial(study *y, const char *name, uint32_t layers, bool adapted, err *e)
{
    mask_trial *t = &y->out.trial[y->out.n_trials];
    if (y->out.n_trials == MASK_TRIALS) return err_set(e, ERR_USAGE, "more than %d rules", MASK_TRIALS);
    *t = (mask_trial){ .layers = layers, .adapted = adapted };
    snprintf(t->name, sizeof t->name, "%s", name);
    t->kl = calloc(3 * y->items, sizeof *t->kl);
    if (!t->kl) return err_set(e, ERR_NOMEM, "out of memory for %zu items", y->items);
    t->nats = t->kl + y->items;
    t->right = t->nats + y->items;
    y->out.n_trials++;
    return ERR_OK;
}

static err_code add_counted(study *y, const char *form, uint32_t k, bool adapted, err *e)
{
    char name[96], number[12];
    const char *at = strchr(form, '#');
    snprintf(number, sizeof number, "%u", k);
    snprintf(name, sizeof name, "%.*s%s%s", (int)(at - form), form, number, at + 1);
    return add_trial(y, name, k, adapted, e);
}

/* The first of a budget with "first" in front is what others are compared with. */
static err_code add_budget(study *y, uint32_t k, bool adapted, err *e)
{
    static const char *const forms[] = { "first:#", "first:#,routers=trained", "fixed:#", "unified:#,rows=decode", "random:#", "oracle:#" };
    bool trained = y->known && y->known->rho_w;
    err_code rc = ERR_OK;
    for (size_t i = 0; !rc && i < sizeof forms / sizeof *forms; i++) {
        bool learned = i < 3, plain = i < 4;
        if ((learned && !y->known) || (i == 1 && !trained) || (adapted && !plain)) continue;
        rc = add_counted(y, forms[i], k, adapted, e);
    }
    return rc;
}

/* A rule of the command line; those of a number of layers are held against each other. */
static err_code add_asked(study *y, const char *rule, err *e)
{
    skip_rule r;
    err_code rc = skip_rule_parse(&r, rule, e);
    for (int adapted = 0; !rc && adapted <= (y->adapter != NULL); adapted++) rc = add_trial(y, rule, r.layers, adapted, e);
    return rc;
}

static err_code add_trials(study *y, err *e)
{
    err_code rc = add_trial(y, "none", 0, false, e);
    for (size_t i = 1; !rc && i < y->s->args.n; i++) rc = add_asked(y, y->s->args.at[i], e);
    for (int adapted = 0; adapted <= (y->adapter != NULL); adapted++) {
        if (!rc && adapted) rc = add_trial(y, "none", 0, true, e);
        for (uint32_t i = 1; !rc && i <= BUDGETS && y->s->args.n < 2; i++) {
            uint32_t k = (y->shape.L * i + 5) / 10;
            if (k && k + 2 <= y->shape.L) rc = add_budget(y, k, adapted, e);
        }
    }
    return rc;
}

/* ---- an item ------------------------------------------------------------------------------------------------------- */

static void take_cost(study *y, mask_trial *t, size_t item, const layer_mask *m, const probe_cost *c, double weight)
{
    double attn = 2.0 * (y->shape.H + y->shape.K) * y->shape.d, ffn = 3.0 * y->shape.F;
    t->kl[item] += (float)(weight * c->kl);
    t->nats[item] += (float)(weight * c->damage * y->judged);
    t->right[item] += (float)(weight * (y->begins && c->said + 1 >= y->judged)); /* whatever closes the line */
    layer_mask bound = *m;
    for (uint32_t l = 0; l < bound.n; l++) {
        if (bound.at[l].attn != MASK_NEVER) bound.at[l].attn = 0;
        if (bound.at[l].ffn != MASK_NEVER) bound.at[l].ffn = 0;
    }
    double read = m->stand == MASK_LOW_RANK ? 2.0 * stand_ins_rank(y->stand) : 0; /* of an FFN's stand-in */
    t->skipped += weight * (mask_share(&bound, 0, 1, attn, ffn) - mask_share(&bound, 0, 1, 0, 1) * read / (attn + ffn)) / (double)y->items;
}

static err_code by_mask(study *y, mask_trial *t, size_t item, const layer_mask *m, double weight, err *e)
{
    probe_cost c;
    err_code rc = route_probe_cost(y->probe, m, &c, e);
    if (!rc) take_cost(y, t, item, m, &c, weight);
    return rc;
}

static err_code by_rule(study *y, mask_trial *t, size_t item, const char *text_of_rule, double weight, err *e)
{
    skip_rule r;
    layer_mask m;
    route_world w = { .L = y->shape.L, .answer = 64, .known = y->known, .damage = y->damage, .entropy = &y->entropy, .rho = y->known && y->known->rho_w ? y->rho : NULL,
                      .low_order = stand_ins_order(y->stand), .stand_id = { [MASK_LOW_RANK] = stand_ins_id(y->stand, MASK_LOW_RANK), [MASK_SCALED] = stand_ins_id(y->stand, MASK_SCALED) } };
    err_code rc = skip_rule_parse(&r, text_of_rule, e);
    if (!rc) rc = route_choose(&m, &r, &w, e);
    return rc ? rc : by_mask(y, t, item, &m, weight, e);
}

/* Other masks for every text, so that it is chance that is judged and not a few masks. */
static err_code by_chance(study *y, mask_trial *t, size_t item, err *e)
{
    char rule[64];
    err_code rc = ERR_OK;
    for (uint32_t i = 0; !rc && i < CHANCES; i++) {
        snprintf(rule, sizeof rule, "random:%u,seed=%llu,rows=decode", t->layers, (unsigned long long)(rng_u64(y->s->seed, item * CHANCES + i) >> 40));
        rc = by_rule(y, t, item, rule, 1.0 / CHANCES, e);
    }
    return rc;
}

/* All budgets of the oracle at once: a layer at a time beside those that are out already. */
static err_code by_oracle(study *y, size_t item, err *e)
{
    layer_mask m = mask_none(y->shape.L);
    err_code rc = ERR_OK;
    for (uint32_t n = 1, last = (4 * y->shape.L + 5) / 10; !rc && n <= last; n++) {
        probe_cost best = { .damage = INFINITY };
        uint32_t take = 0;
        for (uint32_t l = 1; !rc && l + 1 < y->shape.L; l++) {
            layer_mask with = m;
            probe_cost c;
            if (m.at[l].attn != MASK_NEVER) continue;
            with.at[l] = (mask_layer){ 0, 0 };
            rc = route_probe_cost(y->probe, &with, &c, e);
            if (!rc && c.damage < best.damage) best = c, take = l;
        }
        m.at[take] = (mask_layer){ 0, 0 };
        for (uint32_t i = 0; !rc && i < y->out.n_trials; i++)
            if (y->out.trial[i].layers == n && !strncmp(y->out.trial[i].name, "oracle", 6)) take_cost(y, &y->out.trial[i], item, &m, &best, 1);
    }
    return rc;
}

/* The oracle costs as much as all the others, so not every item has one. */
static void no_oracle(study *y, size_t item)
{
    for (uint32_t i = 0; i < y->out.n_trials; i++) {
        mask_trial *t = &y->out.trial[i];
        if (!strncmp(t->name, "oracle", 6)) t->kl[item] = t->nats[item] = t->right[item] = NAN;
    }
}

static void look(study *y)
{
    if (!y->known) return;
    y->entropy = route_probe_entropy(y->probe);
    route_probe_features(y->probe, y->pooled);
    router_look(y->known, y->pooled, y->damage);
    if (y->known->rho_w) router_rho(y->known, y->pooled, y->rho);
}

static err_code try_all(study *y, size_t item, bool adapted, err *e)
{
    bool oracle = false;
    err_code rc = ERR_OK;
    look(y);
    y->begins = route_probe_begins(y->probe);
    for (uint32_t i = 0; !rc && i < y->out.n_trials; i++) {
        mask_trial *t = &y->out.trial[i];
        if (t->adapted != adapted) continue;
        if (!strncmp(t->name, "oracle", 6)) oracle = true;
        else if (!strncmp(t->name, "random:", 7) && !strchr(t->name, ',')) rc = by_chance(y, t, item, e);
        else rc = by_rule(y, t, item, t->name, 1, e);
    }
    if (rc || !oracle) return rc;
    return item % ORACLE_EVERY ? no_oracle(y, item), ERR_OK : by_oracle(y, item, e);
}

static err_code one_item(study *y, const documents *d, uint32_t i, size_t item, err *e)
{
    const document *at = &d->doc[i];
    y->judged = at->n - 1 - at->prompt;
    err_code rc = route_probe_read(y->probe, d->tokens.id + at->at, at->n, at->prompt, NULL, e);
    if (!rc) rc = try_all(y, item, false, e);
    if (!rc && y->adapter) rc = route_probe_adapt(y->probe, y->adapter, y->scale, e);
    return rc || !y->adapter ? rc : try_all(y, item, true, e);
}

/* After a Ctrl-C the figures are those of what was done. */
static err_code run(study *y, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t k = 0; k < y->out.n_sets; k++)
        for (uint32_t i = 0; !rc && i < y->set[k].n && !signals_caught(); i++) {
            progress_set(&y->bar, y->out.done, y->items);
            rc = one_item(y, &y->set[k], i, y->out.done, e);
            y->out.done += !rc;
        }
    for (uint32_t i = 0; i < y->out.n_trials; i++) {
        mask_trial *t = &y->out.trial[i];
        t->skipped *= (double)y->items / (double)(y->out.done ? y->out.done : 1);
        if (!strncmp(t->name, "oracle", 6)) t->skipped = (double)t->layers / y->shape.L;
    }
    return rc;
}

/* ---- open and close ------------------------------------------------------------------------------------------------ */

static err_code open_adapter(study *y, err *e)
{
    char path[1024];
    gguf *g = NULL;
    const char *colon = y->s->lora ? strrchr(y->s->lora, ':') : NULL;
    if (!y->s->lora) return ERR_OK;
    snprintf(path, sizeof path, "%.*s", colon ? (int)(colon - y->s->lora) : 1000, y->s->lora);
    y->scale = colon ? strtof(colon + 1, NULL) : 1;
    if (!(fabsf(y->scale) < 1e6f)) return err_set(e, ERR_USAGE, "--lora %.100s: the number behind : is none", y->s->lora);
    err_code rc = gguf_open(&g, path, e);
    if (!rc) rc = lora_open(&y->adapter, g, &y->shape, (shard){ 0, y->shape.L, false, true }, e);
    gguf_close(&g);
    return rc;
}

static err_code open_profile(study *y, err *e)
{
    profile_binding want = { .model = gguf_digest(y->g), .path = path_name(PATH_I8B32) };
    err_code rc = profile_choose(&y->prof, y->s->profile, y->s->model, &want, e);
    if (!rc && y->prof && profile_has(y->prof, PROFILE_ROUTE)) rc = router_open(&y->known, y->prof, y->shape.L, y->shape.D, e);
    if (!rc && y->prof) rc = stand_ins_open(&y->stand, y->prof, &y->shape, 0, y->shape.L, e);
    return rc;
}

static err_code open_all(study *y, err *e)
{
    lab_options o = { .path = PATH_I8B32, .threads = (uint32_t)y->s->threads, .n_ctx = LONGEST, .max_rows = LONGEST,
                      .pack = { .on = !y->s->no_pack, .dir = y->s->pack_dir, .max_bytes = y->s->pack_cap << 20 } };
    err_code rc = y->s->model ? ERR_OK : path_default_model(y->s, e);
    if (!rc) rc = gguf_open(&y->g, y->s->model, e);
    if (!rc) rc = model_shape_read(&y->shape, y->g, e);
    if (!rc && (y->shape.L < 4 || y->shape.L > MASK_LAYERS)) rc = err_set(e, ERR_MODEL, "a model of %u layers has none to choose from", y->shape.L);
    if (!rc) rc = tokenizer_open(&y->tok, y->g, e);
    if (!rc) rc = read_items(y, e);
    if (!rc) rc = open_profile(y, e);
    if (!rc) rc = open_adapter(y, e);
    if (!rc) rc = lab_open(&y->lab, y->g, &o, e);
    if (!rc) runner_stand_ins(lab_runner(y->lab), y->stand);
    if (!rc) rc = route_probe_open(&y->probe, y->lab, LONGEST, PATH_I8B32, e);
    if (!rc && !(y->pooled = calloc((size_t)y->shape.L * y->shape.D, sizeof *y->pooled))) rc = err_set(e, ERR_NOMEM, "out of memory");
    return rc ? rc : add_trials(y, e);
}

static void close_all(study *y)
{
    route_probe_close(&y->probe);
    lab_close(&y->lab);
    lora_close(&y->adapter);
    router_close(&y->known);
    stand_ins_close(&y->stand);
    profile_close(&y->prof);
    tokenizer_close(&y->tok);
    gguf_close(&y->g);
    for (uint32_t i = 0; i < y->out.n_sets; i++) documents_free(&y->set[i]);
    for (uint32_t i = 0; i < y->out.n_trials; i++) free(y->out.trial[i].kl);
    free(y->pooled);
    free(y);
}

err_code eval_masks(settings *s, err *e)
{
    study *y = calloc(1, sizeof *y);
    if (!y) return err_set(e, ERR_NOMEM, "out of memory");
    y->s = s;
    y->bar = progress_open("texts");
    err_code rc = open_all(y, e);
    if (!rc) rc = run(y, e);
    progress_close(&y->bar);
    if (!rc && y->out.done) rc = mask_table_print(&y->out, s->json, e);
    close_all(y);
    return rc;
}
