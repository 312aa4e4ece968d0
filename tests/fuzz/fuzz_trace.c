/* Any bytes as a trace file, read to its end, and what was read written to another.
 * Parser: proto/trace.c */
#include "proto/trace.h"
#include "tests/fuzz/kit.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static void write_one(trace *t, uint32_t pick)
{
    static const msg_type types[] = { MSG_PING, MSG_READY, MSG_QUERY, MSG_DROP, MSG_BYE };
    static const char bytes[] = "what is asked";
    uint8_t head[MSG_HEADER_MAX];
    size_t n = sizeof head;
    message m = msg_init(types[pick % 5]);
    err e;
    if (m.type == MSG_READY) m.ready.epoch = 1;
    if (m.type == MSG_QUERY) m.query.max_passages = 1;
    if (msg_encode(&m, head, &n, &e)) return;
    view f[1 + MSG_FRAMES_MAX] = { { head, n }, { bytes, sizeof bytes } };
    trace_write(t, pick % 2 ? 'S' : 'R', "control", f, 1 + msg_frames(m.type));
}

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    const char *path = kit_path("trace");
    trace *t;
    err e;
    kit_must(trace_open(&t, path, &e), &e);
    for (uint32_t i = 0; i < pick % 5; i++) write_one(t, pick / 5 + i);
    trace_close(&t);
    return kit_read(path, out, max);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

static volatile uint8_t sink;

static void copy(trace *t, const trace_event *ev)
{
    uint8_t head[MSG_HEADER_MAX];
    view f[1 + MSG_FRAMES_MAX] = { { head, sizeof head } };
    err e;
    kit_must(msg_encode(&ev->head, head, &f[0].len, &e), &e);
    memcpy(f + 1, ev->frame, sizeof ev->frame);
    trace_write(t, ev->dir, ev->link, f, 1 + ev->n_frames);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    trace_reader *r;
    trace_event ev;
    err e = { 0 };
    err_code rc = trace_read_open(&r, kit_file(0, data, size), &e);
    kit_said(rc, &e);
    if (rc) return 0;
    trace *t;
    kit_must(trace_open(&t, kit_path("again"), &e), &e);
    while (trace_next(r, &ev, &e)) {
        copy(t, &ev);
        for (uint32_t i = 0; i < ev.n_frames; i++)
            if (ev.frame[i].len) sink = ((const uint8_t *)ev.frame[i].ptr)[ev.frame[i].len - 1];
    }
    trace_close(&t);
    kit_said(e.code, &e);
    trace_read_close(&r);
    return 0;
}
