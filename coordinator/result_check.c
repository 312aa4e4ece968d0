#include "coordinator/result_check.h"

/* Looks at shapes only: whether the numbers are right, nobody here can say. */

bool result_is_sound(const msg_result *m, const result_row *r, const candidate *cand, uint32_t V)
{
    uint64_t cands = 0;
    for (uint64_t i = 0; i < m->n_rows; i++) {
        cands += r[i].n_candidates;
        if (r[i].full != MSG_NO_ROW && r[i].full >= m->n_full) return false;
        if (r[i].status >= ERR_COUNT) return false;
    }
    for (uint64_t i = 0; i < m->n_cands; i++)
        if (cand[i].id >= V) return false;
    return cands == m->n_cands && (m->n_full == 0 || m->vocab == V);
}

static bool answers_row(const step_row *s, const result_row *r)
{
    if (r->status) return true;
    if (!s->want && s->target == MSG_NO_ROW) return false;
    return !!(s->want & WANT_CANDIDATES) == (r->n_candidates > 0) && !!(s->want & WANT_ROW) == (r->full != MSG_NO_ROW);
}

bool result_answers(const flight *f, const msg_result *m, const result_row *r)
{
    uint64_t k = 0;
    if (m->hop + 1 != f->n_hops || m->step_rows != f->n_rows) return false;
    for (uint32_t i = 0; i < f->n_rows; i++) {
        const step_row *s = &f->rows[i];
        bool here = k < m->n_rows && r[k].session == s->session && r[k].row == s->row;
        if (here && !answers_row(s, &r[k])) return false;
        if (!here && (s->want || s->target != MSG_NO_ROW)) return false;
        k += here;
    }
    return k == m->n_rows;
}
