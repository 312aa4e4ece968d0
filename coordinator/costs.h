#ifndef COORDINATOR_COSTS_H
#define COORDINATOR_COSTS_H
/* What the parts of a model cost on this kind of machine: microseconds a layer, the head, the embedding and a hop take, by
 * the number of rows and the number of threads. Made by measuring (measure.h) or read from a file; plan.h splits by it and
 * simulate.h foretells with it. Pure data; any thread. */
#include "core/buf.h"
#include "engine/model.h"
#include <jansson.h>

#define COSTS_ROWS_MAX 16u
#define COSTS_TEAMS_MAX 8u

typedef struct { uint32_t n; double at[COSTS_ROWS_MAX]; } cost_line;   /* for rows[i] of the table */

typedef struct {
    uint32_t threads;               /* of the stage that was measured */
    uint32_t crowd;                 /* so many of them at once filled the machine; 1: one fills it */
    cost_line layer, head;          /* the mean layer, the head: the others idle */
    cost_line layer_crowded, head_crowded;     /* while all of the crowd worked: they share memory's bandwidth */
} cost_team;

typedef struct {
    char digest[33];
    uint32_t L, D, cpus;
    uint32_t n_rows, rows[COSTS_ROWS_MAX];     /* ascending, rows[0] = 1 */
    uint32_t n_teams;
    cost_team team[COSTS_TEAMS_MAX];           /* descending threads */
    double weight[MODEL_MAX_LAYERS];           /* of layer l: its bytes over those of the mean layer */
    uint64_t layer_bytes[MODEL_MAX_LAYERS], embed_bytes, head_bytes, kv_row_bytes;   /* kv_row_bytes: of a row in one layer */
    double attend_us;               /* one row of one layer for each row of its context, one thread */
    double embed_us;                /* one row */
    double hop_us, hop_us_mb;       /* a message from one process of this host to another; and for each 10^6 bytes of it */
    double turn_us, turn_row_us;    /* the coordinator: from a RESULT to the next STEP, and for each row of it */
} costs;

/* Between the rows that were measured linear, beyond the last in proportion. */
double cost_at(const costs *c, const cost_line *l, double rows);
/* The team with so many threads; the one with fewest when none has so few, the nearest below otherwise. */
const cost_team *cost_team_of(const costs *c, uint32_t threads);
/* Sizes of a model's parts: digest, L, D, weight, bytes. */
err_code costs_of_model(costs *c, const gguf *g, const model_shape *s, err *e);
/* A new reference, NULL: out of memory. */
json_t *costs_json(const costs *c);
/* Every number is checked: kinds, ranges, lengths. ERR_CONFIG names what is wrong. */
err_code costs_read(costs *c, const json_t *o, err *e);
#endif
