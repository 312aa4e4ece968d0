#include "coordinator/predict.h"
#include "coordinator/route.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const words[] = { [WAY_PIPELINE] = "pipeline", [WAY_LOCAL] = "local", [WAY_PREDICT] = "predict", [WAY_HYBRID] = "hybrid" };

static prefill_way way_named(const char *name)
{
    for (int i = WAY_LOCAL; name && i <= WAY_HYBRID; i++)
        if (!strcmp(name, words[i])) return (prefill_way)i;
    return WAY_PIPELINE;
}

err_code predict_check(coordinator *c, err *e)
{
    const settings *s = c->set;
    if (!s->aux && way_named(s->prefill) < WAY_PREDICT) return ERR_OK;
    if (!s->aux) return err_set(e, ERR_CONFIG, "--prefill %s: --aux says which auxiliary model predicts", s->prefill);
    predictor_source from = { .aux = s->aux, .profile = s->profile, .base = c->file, .path = c->path };
    err_code rc = predictor_look(&from, &c->predict, e);
    c->can_predict = !rc;
    return rc;
}

/* ---- the log ----------------------------------------------------------------------------------------------------------- */

typedef struct { prefill_way way; char aux[33], profile[33]; uint32_t sinks, newest; } said;

static err_code read_event(const event *v, said *out, err *e)
{
    char mode[16];
    int n = v->payload.ptr ? sscanf(v->payload.ptr, "mode=%15s aux=%32s profile=%32s sinks=%" SCNu32 " newest=%" SCNu32, mode, out->aux,
                                    out->profile, &out->sinks, &out->newest) : 0;
    out->way = n == 5 ? way_named(mode) : WAY_PIPELINE;
    if (out->way >= WAY_PREDICT && out->newest && out->newest < 1u << 24 && out->sinks < 1u << 24) return ERR_OK;
    return err_set(e, ERR_INPUT, "\"%.200s\" in the log is no way of prefill", v->payload.ptr ? v->payload.ptr : "");
}

err_code predict_follow(const coordinator *c, const job *j, err *e)
{
    said s;
    const event *v = log_find(&j->log, EVENT_PREFILL);
    err_code rc = v ? read_event(v, &s, e) : ERR_OK;
    if (!v || rc) return rc;
    if (!c->can_predict)
        return err_set(e, ERR_STATE, "by its log job %" PRIu64 " begins with predicted rows; this cluster has no auxiliary model (--aux)", j->id);
    if (strcmp(s.aux, c->predict.aux_digest) || strcmp(s.profile, c->predict.profile))
        return err_set(e, ERR_STATE, "by its log job %" PRIu64 " is predicted by auxiliary %s and profile %s; this cluster has %s and %s", j->id,
                       s.aux, s.profile, c->predict.aux_digest, c->predict.profile);
    return ERR_OK;
}

static err_code follow(const coordinator *c, job *j, const event *v, err *e)
{
    said s;
    err_code rc = predict_follow(c, j, e);
    if (!rc) rc = read_event(v, &s, e);
    if (rc) return rc;
    j->way = s.way;
    j->sinks = s.sinks;
    j->newest = s.newest;
    snprintf(j->aux, sizeof j->aux, "%s", c->predict.aux);
    return ERR_OK;
}

static err_code log_it(const coordinator *c, job *j, err *e)
{
    char line[512];
    int n = snprintf(line, sizeof line, "mode=%s aux=%s profile=%s sinks=%u newest=%u name=%s", words[j->way], c->predict.aux_digest,
                     c->predict.profile, j->sinks, j->newest, c->predict.aux);
    return log_add(&j->log, 0, 0, EVENT_PREFILL, (view){ line, (size_t)n }) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

/* ---- the choice ------------------------------------------------------------------------------------------------------------ */

/* A time or a quality that is asked for decides unless the job names its way itself. */
static prefill_way choose(const coordinator *c, job *j)
{
    const prefill_question q = { .rows = (uint32_t)j->tokens.n, .own = PREDICT_SINKS + (uint32_t)c->set->predict_newest, .limit_ms = j->ask.ttft_ms,
                                 .least = j->ask.quality, .explained = c->predict.explained, .exact = &c->cost_exact,
                                 .predicted = &c->cost_predicted };
    if (c->can_predict) return prefill_predicts(&q, j->why) ? WAY_HYBRID : WAY_PIPELINE;
    snprintf(j->why, sizeof j->why, "exact: there is no auxiliary model");
    return WAY_PIPELINE;
}

void predict_measured(coordinator *c, const job *j, uint32_t rows)
{
    prefill_cost_note(j->way < WAY_PREDICT ? &c->cost_exact : &c->cost_predicted, rows, j->t_prefilled - j->t_start);
}

static prefill_way wanted(const coordinator *c, job *j)
{
    if (!j->ask.prefill && (j->ask.ttft_ms || j->ask.quality > 0)) return choose(c, j);
    return j->ask.prefill ? (prefill_way)(j->ask.prefill - 1) : way_named(c->set->prefill);
}

/* Every row of a scored prompt must bring its answer; the coordinator's own engine holds no adapters and no stand-ins, and has one path
 * for prompts. */
static bool must_be_pipeline(const coordinator *c, const job *j)
{
    return j->ask.kind == 1 || j->ask.lora[0] || j->prompt_path != c->prompt_path || route_stands_in_prompt(j);
}

static err_code check_prediction(const coordinator *c, const job *j, err *e)
{
    if (!c->can_predict)
        return err_set(e, ERR_CONFIG, "prefill %s: this cluster has no auxiliary model (--aux)", words[j->way]);
    if (j->way == WAY_PREDICT && j->kv.lossy)
        return err_set(e, ERR_INPUT, "prefill predict: KV policy %s would pack or evict predicted rows; hybrid replaces them first", j->kv.name);
    return ERR_OK;
}

err_code predict_fix(coordinator *c, job *j, bool has_log, err *e)
{
    const event *v = log_find(&j->log, EVENT_PREFILL);
    if (v) return follow(c, j, v, e);
    j->way = must_be_pipeline(c, j) ? WAY_PIPELINE : wanted(c, j);
    if (j->way < WAY_PREDICT) return ERR_OK;
    err_code rc = check_prediction(c, j, e);
    j->sinks = PREDICT_SINKS;
    j->newest = (uint32_t)c->set->predict_newest;
    /* an exact way, then or now: a log that says nothing, a prompt that comes from a file, one that is hardly longer than its ends, or one whose
     * layers a router has to see */
    if (rc || has_log || j->ask.cache[0] || j->route_due || j->tokens.n <= j->sinks + j->newest) {
        j->way = WAY_PIPELINE;
        if (j->why[0]) snprintf(j->why, sizeof j->why, "exact: this prompt cannot be predicted");
        return rc;
    }
    snprintf(j->aux, sizeof j->aux, "%s", c->predict.aux);
    return log_it(c, j, e);
}
