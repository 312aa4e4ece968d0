#ifndef PROTO_TRACE_H
#define PROTO_TRACE_H
/* A file of every frame that went over the traced links of a process, with time and direction; read back to replay a run
 * without a network. Writing: any thread (locked). Reading: one thread. */
#include "proto/message.h"
typedef struct trace trace;
typedef struct trace_reader trace_reader;

/* Create (truncate) a trace file. ERR_IO quotes path and reason. */
err_code trace_open(trace **out, const char *path, err *e);
void trace_close(trace **t);
/* dir: 'S' sent, 'R' received. link: name of the link, at most 15 bytes. frames[0] is the encoded header. */
void trace_write(trace *t, char dir, const char *link, const view *frames, uint32_t n);

typedef struct {
    uint64_t t_ns;
    char dir, link[16];
    message head;
    view frame[MSG_FRAMES_MAX];     /* payload, valid until the next trace_next */
    uint32_t n_frames;
} trace_event;
err_code trace_read_open(trace_reader **out, const char *path, err *e);
/* false at the end, or with e->code set on a damaged file. */
bool trace_next(trace_reader *r, trace_event *ev, err *e);
void trace_read_close(trace_reader **r);
#endif
