#ifndef TESTS_FAULTS_BLOWS_H
#define TESTS_FAULTS_BLOWS_H
/* Blows by a seeded schedule: what is hit, in which phase, how hard; whether it hit anything; how long until tokens came again.
 * Knows nothing of answers. One thread. */
#include "tests/faults/desk.h"
#include "tests/faults/stand.h"

/* A row: X(NAME, "what", of 1000 blows, needs: 0 nothing, 1 the proxy, 2 the disk, 3 time name spaces) */
#define BLOW_MAP(X) \
    X(KILL_STAGE, "kill stage", 170, 0) X(KILL_TWO, "kill two stages", 30, 0) X(STOP_STAGE, "stop stage, go on", 110, 0) X(HANG_STAGE, "hang stage", 25, 0) \
    X(KILL_RAG, "kill rag", 40, 0) X(STOP_RAG, "stop rag, go on", 30, 0) X(KILL_COORDINATOR, "kill coordinator", 60, 0) \
    X(STOP_COORDINATOR, "stop coordinator, go on", 55, 0) X(KILL_CLIENT, "kill client", 40, 0) X(STOP_CLIENT, "stop client, go on", 30, 0) \
    X(FRAME, "frame", 340, 1) X(DISK_FULL, "disk full", 25, 2) X(READ_ONLY, "journal read-only at restart", 10, 2) \
    X(CLOCK_JUMP, "wall clock jumps", 25, 1) X(TIME_SPACE, "restart, other monotonic clock", 10, 3)
typedef enum {
#define X(N, n, w, needs) BLOW_##N,
    BLOW_MAP(X)
#undef X
    BLOWS
} blow_kind;

typedef struct {
    uint32_t hit[BLOWS][PHASES], frame[FRAMES][LANES];  /* counted */
    uint32_t missed;            /* fell into nothing, and do not count */
    uint32_t skipped[BLOWS];    /* not allowed here */
    uint32_t victims, victim_changed;   /* clients that were stopped and went on; whose answer was another one */
    uint32_t hung, stray;
    double *recovery[3];        /* s: death, silence, coordinator */
    size_t n_recovery[3];
} blow_count;

typedef struct blows blows;
blows *blows_open(stand *s, desk *d, uint64_t seed, const work_answer *want, uint32_t n);
void blows_close(blows **b);
/* Do the next one, with everything that belongs to it; jobs go on all the time (up to number `until`). false: the cluster is
 * beyond help (said why). */
bool blows_next(blows *b, uint32_t until);
uint32_t blows_counted(const blows *b);
const blow_count *blows_counts(const blows *b);
void blows_print(const blows *b);
#endif
