#ifndef TESTS_FAULTS_DESK_H
#define TESTS_FAULTS_DESK_H
/* The client of the rig: keeps a window of jobs under way, comes back when the coordinator was away, and sees to it that every
 * acknowledged job ends exactly once. Knows nothing of blows. One thread. */
#include "proto/link.h"
#include "tests/faults/work.h"

typedef struct desk desk;

typedef struct {                /* counts so far */
    uint64_t over, tokens;      /* jobs that ended; tokens that came */
    uint64_t lost;              /* acknowledged and then unknown to the cluster */
    uint64_t changed;           /* another answer than undisturbed */
    uint64_t failed;            /* ended with an error that the undisturbed run has not */
    uint64_t twice;             /* two ends of one job, or two jobs of one submission */
    uint64_t cancelled, refused, fetched, adopted;
    uint64_t t_word;            /* when anything was heard last */
} desk_count;

/* Jobs 0, 1, ... of the seed. want: [n] answers of the undisturbed run by number modulo n; NULL: this is that run, and they are
 * kept (desk_answer). */
desk *desk_open(const char *dir, uint64_t seed, uint32_t window, bool rag, const work_answer *want, uint32_t n);
void desk_close(desk **d);
/* The coordinator is there (again): connect, ask what it knows, fetch what is under way. */
void desk_connect(desk *d);
void desk_disconnect(desk *d);
/* Hear what came within timeout_ms, then fill the window up to job number `until`. */
void desk_tick(desk *d, int timeout_ms, uint32_t until);
uint32_t desk_open_jobs(const desk *d);
const desk_count *desk_counts(const desk *d);
/* Give away the answers of the undisturbed run: [n]. */
work_answer *desk_answers(desk *d);
/* The ids that were acknowledged, in any order. */
const uint64_t *desk_ids(const desk *d, size_t *n);
/* Print jobs that are under way, for a run that hangs. */
void desk_print(const desk *d);
#endif
