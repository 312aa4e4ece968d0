#include "ops/cli/eval_kv.h"
#include "kvstore/preset.h"
#include "ops/cli/command.h"
#include "ops/cli/paths.h"
#include <stdlib.h>
#include <string.h>

/* sluice eval kv: KV policies against the exact cache, in this process. Owns which policies are tried and in what order things are
 * measured; what is measured is in the eval_kv_*.c. */

enum { SCORED_WINDOW = 256, POLICIES_MAX = KVLAB_ROWS / KV_ASKED };

/* The choice that no rule can beat on needles and copies: NAME+oracle is NAME on prompts whose answer lies in rows that never go;
 * alone it is a quarter of the rows, drawn. */
static const char oracle_word[] = "oracle", oracle_text[] = "[keep]\nscore=random\nshare=0.25\nsinks=4\nwindow=32\n";

/* "NAME+oracle": the length of NAME, "oracle": 0, others: all. */
static size_t before_oracle(const char *name)
{
    size_t n = strlen(name), end = sizeof oracle_word - 1;
    if (n < end || strcmp(name + n - end, oracle_word)) return n;
    return n == end ? 0 : name[n - end - 1] == '+' ? n - end - 1 : n;
}

void eval_kv_step(kv_eval *v) { progress_set(&v->bar, ++v->done, v->steps); }

void eval_kv_count(kv_trial *t, const kv_seq *q)
{
    kv_seq_usage u = kv_seq_bytes(q);
    t->bytes[0] += (double)u.data;
    t->bytes[1] += (double)u.meta;
    t->bytes[2] += (double)u.seen;
    t->rows += kv_rows(q);
}

/* ---- the policies -------------------------------------------------------------------------------------------------- */

static err_code add(kv_eval *v, const char *name, err *e)
{
    kv_trial *t = &v->trial[v->n];
    if (v->n == POLICIES_MAX) return err_set(e, ERR_USAGE, "--kv: more than %d policies at once", POLICIES_MAX - 1);
    if (strlen(name) >= sizeof t->name) return err_set(e, ERR_USAGE, "--kv: \"%.60s\" is too long for a name", name);
    size_t n = before_oracle(name);
    char base[sizeof t->name];
    *t = (kv_trial){ .oracle = n < strlen(name) };
    snprintf(t->name, sizeof t->name, "%s", name);
    snprintf(base, sizeof base, "%.*s", (int)n, name);
    err_code rc = !n ? kv_policy_parse(&t->policy, oracle_text, sizeof oracle_text - 1, name, e)
                  : !strcmp(base, "f16") ? (t->policy = kv_policy_identity(), ERR_OK) : kv_policy_load(&t->policy, base, e);
    if (rc == ERR_OK) v->policy[v->n++] = t->policy;
    return rc;
}

static err_code read_policies(kv_eval *v, err *e)
{
    const char *list = v->s->kv ? v->s->kv : "";
    v->trial = calloc(POLICIES_MAX, sizeof *v->trial);
    v->policy = calloc(POLICIES_MAX, sizeof *v->policy);
    char *copy = strdup(list), *at = NULL;
    err_code rc = v->trial && v->policy && copy ? add(v, "f16", e) : err_set(e, ERR_NOMEM, "out of memory");
    for (char *name = copy ? strtok_r(copy, ",", &at) : NULL; rc == ERR_OK && name; name = strtok_r(NULL, ",", &at))
        if (strcmp(name, "f16")) rc = add(v, name, e);
    free(copy);
    if (rc == ERR_OK && v->n == 1) rc = err_set(e, ERR_USAGE, "--kv NAME,NAME,... is missing: policies to be tried");
    return rc;
}

static err_code find_against(kv_eval *v, err *e)
{
    const char *name = v->s->against;
    for (size_t i = 0; name && i < v->n; i++)
        if (!strcmp(v->trial[i].name, name) && !v->trial[i].oracle) v->against = &v->trial[i];
    return !name || v->against ? ERR_OK : err_set(e, ERR_USAGE, "--against \"%.60s\": not one of --kv, or an oracle", name);
}

/* What the profile lacks is said before anything is measured. */
static err_code try_open(kv_eval *v, err *e)
{
    err_code rc = ERR_OK;
    for (size_t i = 0; rc == ERR_OK && i < v->n; i++) {
        kv_seq *q = NULL;
        rc = kvlab_new(&v->lab, &v->policy[i], 1, &q, e);
        kvlab_drop(&v->lab, &q);
    }
    return rc;
}

/* ---- room for figures ---------------------------------------------------------------------------------------------- */

static err_code make_room(kv_eval *v, err *e)
{
    bool ok = true;
    v->scored = v->windows * SCORED_WINDOW;
    for (size_t i = 0; ok && i < v->n; i++) {
        kv_trial *t = &v->trial[i];
        t->kl = calloc(v->scored + 1, sizeof *t->kl);
        t->kl_window = calloc(v->windows + 1, sizeof *t->kl_window);
        t->nll_window = calloc(v->windows + 1, sizeof *t->nll_window);
        for (int k = 0; k < KV_ASKED; k++) t->right[k] = calloc(v->needles + 1, 1);
        ok = t->kl && t->kl_window && t->nll_window && t->right[0] && t->right[1];
    }
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for the figures of %zu policies", v->n);
}

static void free_all(kv_eval *v)
{
    for (size_t i = 0; v->trial && i < v->n; i++) {
        kv_trial *t = &v->trial[i];
        void *mem[] = { t->kl, t->kl_window, t->nll_window, t->right[0], t->right[1] };
        for (size_t k = 0; k < sizeof mem / sizeof *mem; k++) free(mem[k]);
    }
    free(v->trial);
    free(v->policy);
    kvlab_close(&v->lab);
}

/* ---- the whole ------------------------------------------------------------------------------------------------------ */

static err_code open_lab(kv_eval *v, settings *s, err *e)
{
    err_code rc = path_default_model(s, e);
    if (rc == ERR_OK)
        rc = kvlab_open(&v->lab, &(kvlab_options){ .model = s->model, .profile = s->profile, .n_ctx = (uint32_t)s->ctx, .threads = (uint32_t)s->eval_threads,
                                               .pack = { !s->no_pack, s->pack_dir, s->pack_cap << 20 } }, e);
    return rc;
}

/* A prompt must leave room for what is scored behind it. */
static err_code check_sizes(kv_eval *v, err *e)
{
    uint64_t most = v->lab.n_ctx > SCORED_WINDOW ? v->lab.n_ctx - SCORED_WINDOW : 0, want = v->s->window ? v->s->window : 512;
    if (!v->s->window && want > most) want = most;
    if (want < 32 || want > most)
        return err_set(e, ERR_INPUT, "-c %llu: a prompt has 32 to %llu tokens, %d are scored behind it", (unsigned long long)want,
                       (unsigned long long)most, SCORED_WINDOW);
    v->prompt = (uint32_t)want;
    v->windows = v->s->file ? (uint32_t)v->s->kv_windows : 0;
    v->needles = (uint32_t)v->s->kv_needles;
    v->seed = v->s->seed;
    return ERR_OK;
}

/* Which parts run: --parts, or all that there is something for. */
static err_code choose_parts(kv_eval *v, err *e)
{
    static const char *const names[] = { "text", "copies", "speed", "needles" };
    const char *list = v->s->parts;
    v->parts = list ? 0 : KV_TEXT | KV_COPIES | KV_SPEED | KV_NEEDLES;
    for (const char *at = list; at && *at;) {
        size_t n = strcspn(at, ","), k = 0;
        while (k < 4 && (strlen(names[k]) != n || memcmp(at, names[k], n))) k++;
        if (k == 4) return err_set(e, ERR_USAGE, "--parts \"%.*s\": parts are text, copies, speed and needles", (int)(n < 40 ? n : 40), at);
        v->parts |= 1u << k;
        at += n + (at[n] == ',');
    }
    if (list && v->parts & KV_TEXT && !v->s->file) return err_set(e, ERR_USAGE, "--parts text: -f FILE says which text");
    if (!(v->parts & KV_TEXT)) v->windows = 0;
    if (!(v->parts & KV_NEEDLES)) v->needles = 0;
    return ERR_OK;
}

static err_code measure(kv_eval *v, err *e)
{
    static const struct { uint32_t part; err_code (*run)(kv_eval *v, err *e); } all[] = {
        { KV_TEXT, eval_kv_text }, { KV_COPIES, eval_kv_induction }, { KV_SPEED, eval_kv_speed }, { KV_NEEDLES, eval_kv_needles } };
    err_code rc = ERR_OK;
    for (size_t i = 0; rc == ERR_OK && i < sizeof all / sizeof *all; i++)
        if (v->parts & all[i].part) rc = all[i].run(v, e);
    return rc;
}

static err_code run_all(settings *s, json_t **out, err *e)
{
    kv_eval v = { .s = s, .bar = progress_open("policies") };
    err_code rc = read_policies(&v, e);
    if (rc == ERR_OK) rc = find_against(&v, e);
    if (rc == ERR_OK) rc = open_lab(&v, s, e);
    if (rc == ERR_OK) rc = check_sizes(&v, e);
    if (rc == ERR_OK) rc = choose_parts(&v, e);
    if (rc == ERR_OK) rc = try_open(&v, e);
    if (rc == ERR_OK) rc = make_room(&v, e);
    v.steps = (uint64_t)v.windows + v.needles;
    progress_set(&v.bar, 0, v.steps);
    if (rc == ERR_OK) rc = measure(&v, e);
    progress_close(&v.bar);
    if (rc == ERR_OK && !(*out = eval_kv_figures(&v, e))) rc = e->code;
    free_all(&v);
    return rc;
}

err_code eval_kv(settings *s, err *e)
{
    json_t *all = NULL;
    err_code rc = s->merge.n ? eval_kv_merge(s, &all, e) : run_all(s, &all, e);
    if (rc == ERR_OK) rc = eval_kv_print(s, all, e);
    json_decref(all);
    return rc;
}
