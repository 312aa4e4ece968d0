#include "coordinator/prefill_choice.h"
#include <stdio.h>

static uint32_t length_of(uint32_t rows)
{
    uint32_t n = 0;
    while (n + 1 < PREFILL_LENGTHS && rows >> (n + 1)) n++;
    return n;
}

void prefill_cost_note(prefill_cost *c, uint32_t rows, uint64_t ns)
{
    if (!rows) return;
    double *at = &c->row_ns[length_of(rows)], is = (double)ns / rows;
    *at = *at > 0 ? *at + (is - *at) / 4 : is;
}

double prefill_cost_of(const prefill_cost *c, uint32_t rows)
{
    uint32_t here = length_of(rows);
    for (uint32_t d = 0; d < PREFILL_LENGTHS; d++) {
        if (here + d < PREFILL_LENGTHS && c->row_ns[here + d] > 0) return c->row_ns[here + d] * rows;
        if (d <= here && c->row_ns[here - d] > 0) return c->row_ns[here - d] * rows;
    }
    return 0;
}

double prefill_quality(const prefill_question *q)
{
    uint32_t own = q->own < q->rows ? q->own : q->rows;
    return q->rows ? (own + (q->rows - own) * q->explained) / q->rows : 1;
}

bool prefill_predicts(const prefill_question *q, char why[PREFILL_WHY + 1])
{
    double exact = prefill_cost_of(q->exact, q->rows) / 1e6, sooner = prefill_cost_of(q->predicted, q->rows) / 1e6, good = prefill_quality(q);
    bool yes = false;
    if (good < q->least) snprintf(why, PREFILL_WHY + 1, "exact: predicted rows have quality %.2f, %.2f is wanted", good, q->least);
    else if (!(exact > 0)) snprintf(why, PREFILL_WHY + 1, "exact: no prompt has been measured yet");
    else if (q->limit_ms && exact <= (double)q->limit_ms)
        snprintf(why, PREFILL_WHY + 1, "exact: takes about %.0f ms, %llu are allowed", exact, (unsigned long long)q->limit_ms);
    else if (sooner >= exact) snprintf(why, PREFILL_WHY + 1, "exact: takes about %.0f ms, predicted %.0f", exact, sooner);
    else {
        yes = true;
        if (sooner > 0) snprintf(why, PREFILL_WHY + 1, "predicted: about %.0f ms, exact %.0f; quality %.2f", sooner, exact, good);
        else snprintf(why, PREFILL_WHY + 1, "predicted: exact takes about %.0f ms, no prediction has been measured yet; quality %.2f", exact, good);
    }
    return yes;
}
