#include "ops/cli/evaluation.h"
#include "ops/cli/command.h"
#include <string.h>

/* Owns the cluster under an eval, and the choice among the evals. What they measure is theirs. */

err_code evaluation_open(evaluation *v, settings *s, err *e)
{
    *v = (evaluation){ 0 };
    err_code rc = cluster_join(&v->cluster, s, e);
    if (rc == ERR_OK) rc = client_open(&v->c, s, v->cluster.dir.ptr, e);
    if (rc == ERR_OK) rc = client_status(v->c, 0, &v->status, e);
    if (rc != ERR_OK) return rc;
    const json_t *m = json_object_get(v->status, "model");
    v->model = json_string_value(json_object_get(m, "file"));
    json_int_t n_ctx = json_integer_value(json_object_get(m, "context"));
    v->n_ctx = n_ctx > 0 ? (uint64_t)n_ctx : 0;
    return v->model ? ERR_OK : err_set(e, ERR_PROTO, "the coordinator does not say which model it runs");
}

err_code evaluation_close(evaluation *v, err_code rc, err *e)
{
    client_close(&v->c);
    json_decref(v->status);
    if (rc == ERR_GONE) cluster_check(&v->cluster, e);
    cluster_leave(&v->cluster);
    return rc;
}

json_t *evaluation_stages(evaluation *v)
{
    err quiet;
    json_t *now = NULL, *stages = NULL;
    if (client_status(v->c, 0, &now, &quiet) == ERR_OK) stages = json_object_get(now, "stages");
    stages = json_is_array(stages) ? json_incref(stages) : json_array();
    json_decref(now);
    return stages;
}

err_code cmd_eval(settings *s, err *e)
{
    static const char *const words[] = { "logits", "ppl", "qa", "predict", "route", "back-off", "masks", "kv" };
    static err_code (*const run[])(settings *, err *) = { eval_logits, eval_ppl, eval_qa, eval_predict, eval_route, eval_back_off, eval_masks, eval_kv };
    const char *w = s->args.n ? s->args.at[0] : "";
    if (s->args.n > 1 && strcmp(w, "route") && strcmp(w, "back-off") && strcmp(w, "masks")) return err_set(e, ERR_USAGE, "what is \"%.100s\"?", s->args.at[1]);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(w, words[i])) return run[i](s, e);
    const char *near = nearest_word(w, words, sizeof words / sizeof *words);
    return err_set(e, ERR_USAGE, "eval logits, eval ppl, eval qa, eval predict, eval route, eval back-off, eval masks or eval kv, not \"%.60s\"%s%s%s", w, near ? " (did you mean " : "",
                   near ? near : "", near ? "?)" : "");
}
