#include "coordinator/back_off.h"
#include "core/log.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const event *find(const job *j, uint32_t index)
{
    for (uint32_t i = 0; i < j->log.n; i++)
        if (j->log.at[i].kind == EVENT_BACK_OFF && j->log.at[i].choice == index) return &j->log.at[i];
    return NULL;
}

uint32_t back_off_at(const job *j, uint32_t index)
{
    const event *v = find(j, index);
    return v ? v->row : 0;
}

/* NULL: nothing is wrong. A loop counts under every rule. */
static const char *trouble(const job *j, const alarm_series *seen, char why[static 80])
{
    const alarm_kind kinds[] = { (alarm_kind)(j->back - 1), ALARM_LOOP };
    const double limits[] = { j->alarm, SKIP_LOOP };
    for (int i = 0; i < 2; i++) {
        double score = alarm_score(seen, kinds[i]);
        if (score < limits[i]) continue;
        snprintf(why, 80, "%s %.6g of %.6g", alarm_name(kinds[i]), score, limits[i]);
        return why;
    }
    return NULL;
}

/* All rows again, without a mask. */
static void turn_back(session *s)
{
    *s->mask = mask_none(s->mask->n);
    s->cursor = 0;
    s->slide = s->tell = s->exact = s->unmasked = true;
    s->held = false;
    s->state = SESSION_PROMPT;
}

void back_off_token(coordinator *c, session *s, const session_answer *a)
{
    char why[80];
    job *j = s->job;
    if (!j->back || !s->mask || s->unmasked || s->state == SESSION_OVER) return;
    float margin = a->row->n_candidates > 1 ? a->cand[0].logit - a->cand[1].logit : 0;
    alarm_push(&s->seen, a->row->entropy, margin, s->tokens.id[s->tokens.n - 1]);
    if (!log_find_at(&j->log, EVENT_BACK_OFF, s->index, s->made)) {
        if (!trouble(j, &s->seen, why)) return;
        if (!log_add(&j->log, s->index, s->made, EVENT_BACK_OFF, (view){ why, strlen(why) })) {
            job_fail(c, j, &(err){ ERR_NOMEM, "out of memory for the log" });
            return;
        }
        LOG(LOG_INFO, "BACK-OFF", "job=%" PRIu64 " choice=%u tokens=%u why=\"%s\"", j->id, s->index, s->made, why);
    }
    turn_back(s);
}
