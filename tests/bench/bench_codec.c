/* What a header costs: nanoseconds to encode one and to decode and check it again, and its bytes, for the messages that come
 * often. Prints a table; checks only that what was decoded is what was encoded. */
#include "core/clock.h"
#include "proto/message.h"
#include <stdio.h>
#include <string.h>

enum { TIMES = 20000, RUNS = 7 };

static message sample(msg_type t)
{
    message m = msg_init(t);
    switch (t) {
    case MSG_STEP: m.step = (msg_step){ .epoch = 70001, .step = 123456, .n_rows = 16, .n_ops = 16, .n_hops = 4, .hop = 1, .n_hidden = 16, .dim = 2048, .top = 64 }; break;
    case MSG_RESULT: m.result = (msg_result){ .epoch = 70001, .step = 123456, .n_rows = 16, .n_cands = 1024, .vocab = 32000, .dim = 2048 }; break;
    case MSG_TOKEN: m.token = (msg_token){ .job = 4711, .offset = 100, .n = 1 }; break;
    case MSG_SUBMIT: m.submit.ref = 7; m.submit.n_tokens = 512; snprintf(m.submit.custom_id, sizeof m.submit.custom_id, "request-7"); break;
    case MSG_PING: m.ping.nonce = 99; break;
    case MSG_STATS: m.stats.busy_ns = 1234567890123; m.stats.steps = 4567; break;
    default: break;
    }
    return m;
}

static int bench(msg_type t)
{
    static message out;
    message m = sample(t);
    uint8_t buf[MSG_HEADER_MAX];
    size_t n = 0;
    double enc = 1e18, dec = 1e18;
    err e;
    for (int r = 0; r < RUNS; r++) {
        uint64_t at = clock_ns();
        for (int i = 0; i < TIMES; i++) n = sizeof buf, msg_encode(&m, buf, &n, &e);
        uint64_t mid = clock_ns();
        for (int i = 0; i < TIMES; i++) msg_decode(&out, buf, n, &e);
        uint64_t end = clock_ns();
        if ((double)(mid - at) / TIMES < enc) enc = (double)(mid - at) / TIMES;
        if ((double)(end - mid) / TIMES < dec) dec = (double)(end - mid) / TIMES;
    }
    uint8_t again[MSG_HEADER_MAX];
    size_t k = sizeof again;
    if (msg_encode(&out, again, &k, &e) || k != n || memcmp(buf, again, n)) return fprintf(stderr, "%s came back changed\n", msg_name(t)), 1;
    printf("%-8s %8zu %12.0f %12.0f\n", msg_name(t), n, enc, dec);
    return 0;
}

int main(void)
{
    static const msg_type types[] = { MSG_STEP, MSG_RESULT, MSG_TOKEN, MSG_SUBMIT, MSG_PING, MSG_STATS };
    int bad = 0;
    printf("%-8s %8s %12s %12s\n", "message", "bytes", "encode ns", "decode ns");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) bad |= bench(types[i]);
    return bad;
}
