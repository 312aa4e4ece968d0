#ifndef TESTS_FAULTS_OBSERVED_H
#define TESTS_FAULTS_OBSERVED_H
/* One page of memory that the driver, the proxy and the shim in every program share: orders for the proxy and what it sees.
 * Only atomics: the readers are other processes. */
#include <stdatomic.h>
#include <stdint.h>

/* What is going on when a blow falls. IDLE does not count. */
#define PHASE_MAP(X) X(IDLE, "idle") X(LOAD, "load") X(PREFILL, "prefill") X(DECODE, "decode") X(RETRIEVE, "retrieve") X(DRAIN, "drain")
typedef enum {
#define X(N, n) PHASE_##N,
    PHASE_MAP(X)
#undef X
    PHASES
} phase;

#define FRAME_MAP(X) X(NONE, "none") X(DELAY, "delay") X(DROP, "drop") X(TRUNCATE, "truncate") X(SHORTEN, "shorten") X(DOUBLE, "double") \
    X(REORDER, "reorder") X(CORRUPT, "corrupt") X(CUT, "cut")
typedef enum {
#define X(N, n) FRAME_##N,
    FRAME_MAP(X)
#undef X
    FRAMES
} frame_fault;

#define LANE_MAP(X) X(FIRST, "first hop") X(HOP, "next hop") X(RESULT, "result") X(BULK, "bulk") X(CONTROL, "control")
typedef enum {
#define X(N, n) LANE_##N,
    LANE_MAP(X)
#undef X
    LANES
} fault_lane;

typedef struct {
    _Atomic int64_t clock_ns;           /* the wall clock of every program is off by so much */
    /* an order: the next fitting message suffers it; the proxy then clears `fault` and says when */
    _Atomic uint32_t fault, lane, want; /* want: the phase the message must belong to, IDLE: any */
    _Atomic uint64_t draw;              /* random bits for it */
    _Atomic uint32_t hit_phase;
    _Atomic uint64_t hits;
    /* what the proxy sees */
    _Atomic uint32_t prefill, decode;   /* STEPs on their way, by kind */
    _Atomic uint32_t pushes;            /* KV_PUSH since the last KV_DONE */
    _Atomic uint32_t queries;           /* QUERYs without PASSAGES */
    _Atomic uint32_t loading;           /* a plan was sent out and no token went through all stages yet; the driver sets it with a blow */
    _Atomic uint32_t epoch;             /* newest plan */
    _Atomic uint64_t steps, messages, connections;
    _Atomic uint64_t t_served;          /* CLOCK_MONOTONIC ns of the first RESULT of a job ... */
    _Atomic uint32_t served;            /* ... under this epoch */
} observed;
#endif
