#ifndef COORDINATOR_SESSION_LOG_H
#define COORDINATOR_SESSION_LOG_H
/* The log of a job: events at rows, in the order in which they came to be (coordinator/events.def lists the kinds). It holds
 * what cannot be computed again from the job as it was submitted; tokens can, so they are not in it. Pure data: the journal
 * makes it durable, record.c holds back tokens until it is. Main thread only. */
#include "core/buf.h"

typedef enum {
#define EVENT(NAME, id, name, duty, payload, what) EVENT_##NAME = id,
#include "coordinator/events.def"
} event_kind;

typedef struct {
    uint32_t choice, row;       /* of the first row it is about */
    event_kind kind;
    text payload;
} event;

typedef struct {
    event *at;                  /* [n] */
    uint32_t n, cap;
    uint32_t durable;           /* the first so many are in the journal */
} session_log;

/* Copies the payload. false: out of memory. */
bool log_add(session_log *l, uint32_t choice, uint32_t row, event_kind kind, view payload);
void log_free(session_log *l);
/* A copy of the events that a rerun follows; noted ones stay behind. */
bool log_copy_followed(session_log *to, const session_log *from);
/* The first event of a kind, NULL when there is none. */
const event *log_find(const session_log *l, event_kind kind);
/* The one of a choice at a row. */
const event *log_find_at(const session_log *l, event_kind kind, uint32_t choice, uint32_t row);
/* Its name; NULL for a number that no kind has. */
const char *event_name(uint32_t kind);
bool event_is_text(uint32_t kind);

/* Payload of EVENT_PATH: "path=i8b32 kv=f16 ctx=2048 rope=short", and " prompt=bf16amx" where prompt rows have another path. */
typedef struct { uint32_t path, prompt, kv, n_ctx; bool rope_long; } log_path;
bool log_add_path(session_log *l, const log_path *p);
/* ERR_ABSENT: the log has none; ERR_INPUT quotes one that cannot be read. */
err_code log_read_path(const session_log *l, log_path *out, err *e);
#endif
