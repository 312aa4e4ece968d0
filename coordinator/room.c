#include "coordinator/room.h"
#include "coordinator/route.h"
#include "kvstore/format.h"
#include <string.h>

#define BYTES_A_TOKEN 3u        /* of a prompt that is not tokenized yet: text has more, so the guess is on the safe side */

static uint64_t pages(uint64_t rows) { return (rows + KV_PAGE_ROWS - 1) / KV_PAGE_ROWS * KV_PAGE_ROWS; }

static uint64_t prompt_rows(const coordinator *c, const job *j)
{
    if (j->tokens.n) return j->tokens.n;
    uint64_t rag = j->ask.rag ? j->ask.rag_tokens ? j->ask.rag_tokens : c->set->rag_tokens : 0;
    return job_prompt(j).len / BYTES_A_TOKEN + 1 + rag;
}

static bool may_refresh(const coordinator *c, const job *j)
{
    if (j->state == JOB_RUNNING || !c->can_predict) return j->way == WAY_HYBRID;
    return j->ask.prefill ? j->ask.prefill - 1 == WAY_HYBRID : c->set->prefill && !strcmp(c->set->prefill, "hybrid");
}

uint64_t room_rows(const coordinator *c, const job *j)
{
    const kv_policy *policy = j->state == JOB_RUNNING || j->ask.kv[0] ? &j->kv : &c->kv_policy;
    uint64_t prompt = prompt_rows(c, j), answer = j->ask.kind ? 0 : j->ask.max_tokens;
    if (policy->lossy && answer > 2 * KV_INTERVAL) answer = 2 * KV_INTERVAL;
    uint64_t first = prompt + answer < c->n_ctx ? prompt + answer : c->n_ctx;
    uint64_t more = answer < c->n_ctx ? answer : c->n_ctx;      /* a fork shares the prompt but for its last page */
    uint64_t all = pages(first) + (j->n_choices - 1) * (pages(more) + KV_PAGE_ROWS);
    return may_refresh(c, j) ? all + j->n_choices * pages(first) : all;      /* shadows */
}

/* KV bytes that a job may come to hold in a stage: of the layers that it does not leave out. */
static uint64_t room_bytes(const coordinator *c, const job *j, const member *m)
{
    uint32_t first = m->part.first, last = m->part.last, layers = last - first;
    uint64_t row = m->took.kv_row_bytes, rows = room_rows(c, j);
    if (layers) row = row / layers * route_layers(j, first, last);
    return row && rows > UINT64_MAX / 2 / row ? UINT64_MAX / 2 : rows * row;
}

static uint64_t plus(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

bool room_for(const coordinator *c, const job *j)
{
    uint64_t budget = c->set->kv_mem << 20;
    if (!budget) return true;
    for (uint32_t i = 0; i < c->n_stages; i++) {
        if (!c->by_stage[i]) continue;
        uint64_t bytes = room_bytes(c, j, c->by_stage[i]);
        bool alone = true;
        for (const job *k = c->jobs.head; k; k = k->next)
            if (k != j && (k->n_open || k->state == JOB_RUNNING || k->state == JOB_RETRIEVING))
                bytes = plus(bytes, room_bytes(c, k, c->by_stage[i])), alone = false;
        if (alone) return true;
        if (bytes > budget) return false;
    }
    return true;
}
