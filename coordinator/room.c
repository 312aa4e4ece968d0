#include "coordinator/room.h"
#include "kvstore/format.h"

#define BYTES_A_TOKEN 3u        /* of a prompt that is not tokenized yet: text has more, so the guess is on the safe side */

static uint64_t pages(uint64_t rows) { return (rows + KV_PAGE_ROWS - 1) / KV_PAGE_ROWS * KV_PAGE_ROWS; }

static uint64_t prompt_rows(const coordinator *c, const job *j)
{
    if (j->tokens.n) return j->tokens.n;
    uint64_t rag = j->ask.rag ? j->ask.rag_tokens ? j->ask.rag_tokens : c->set->rag_tokens : 0;
    return job_prompt(j).len / BYTES_A_TOKEN + 1 + rag;
}

uint64_t room_rows(const coordinator *c, const job *j)
{
    const kv_policy *policy = j->state == JOB_RUNNING || j->ask.kv[0] ? &j->kv : &c->kv_policy;
    uint64_t prompt = prompt_rows(c, j), answer = j->ask.kind ? 0 : j->ask.max_tokens;
    if (policy->lossy && answer > 2 * KV_INTERVAL) answer = 2 * KV_INTERVAL;
    uint64_t first = prompt + answer < c->n_ctx ? prompt + answer : c->n_ctx;
    uint64_t more = answer < c->n_ctx ? answer : c->n_ctx;      /* a fork shares the prompt but for its last page */
    return pages(first) + (j->n_choices - 1) * (pages(more) + KV_PAGE_ROWS);
}

bool room_for(const coordinator *c, const job *j)
{
    uint64_t budget = c->set->kv_mem << 20, rows = room_rows(c, j);
    bool alone = true;
    for (const job *k = c->jobs.head; k; k = k->next)
        if (k != j && (k->n_open || k->state == JOB_RUNNING || k->state == JOB_RETRIEVING)) rows += room_rows(c, k), alone = false;
    if (!budget || alone) return true;
    for (uint32_t i = 0; i < c->n_stages; i++) {
        uint64_t row = c->by_stage[i] ? c->by_stage[i]->took.kv_row_bytes : 0;
        if (row && rows > budget / row) return false;
    }
    return true;
}
