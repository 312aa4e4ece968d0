/* Trace files: what is written comes back; damaged ones are refused with the place, and never crash. */
#include "core/clock.h"
#include "core/rng.h"
#include "proto/link.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK(call) do { err_code rc_ = (call); cr_assert_eq(rc_, ERR_OK, "%s: %s", #call, e.text); } while (0)

typedef struct { char dir[32], file[64]; } place;

static place make_place(void)
{
    place p = { .dir = "/tmp/traceXXXXXX" };
    cr_assert(mkdtemp(p.dir));
    snprintf(p.file, sizeof p.file, "%s/t.trace", p.dir);
    return p;
}

static void drop_place(const place *p)
{
    unlink(p->file);
    cr_assert_eq(rmdir(p->dir), 0);
}

static message query(uint64_t id)
{
    message m = msg_init(MSG_QUERY);
    m.query.id = id;
    return m;
}

static void write_query(trace *t, uint64_t id, const char *words)
{
    uint8_t head[MSG_HEADER_MAX];
    size_t n = sizeof head;
    message m = query(id);
    cr_assert_eq(msg_encode(&m, head, &n, NULL), ERR_OK);
    trace_write(t, id & 1 ? 'S' : 'R', "a link with a long name", (view[]){ { head, n }, { words, strlen(words) } }, 2);
}

static void write_file(const char *path, uint64_t events)
{
    err e = { 0 };
    trace *t;
    OK(trace_open(&t, path, &e));
    for (uint64_t i = 1; i <= events; i++) write_query(t, i, i % 3 ? "some words" : "");
    trace_close(&t);
    cr_assert_null(t);
}

Test(trace, what_is_written_comes_back_in_order)
{
    place at = make_place();
    err e = { 0 };
    write_file(at.file, 100);
    trace_reader *r;
    trace_event ev;
    OK(trace_read_open(&r, at.file, &e));
    uint64_t last = 0;
    for (uint64_t i = 1; i <= 100; i++) {
        cr_assert(trace_next(r, &ev, &e), "%s", e.text);
        cr_assert(ev.head.type == MSG_QUERY && ev.head.query.id == i && ev.dir == (i & 1 ? 'S' : 'R') && ev.t_ns >= last);
        cr_assert_str_eq(ev.link, "a link with a l");
        cr_assert(ev.n_frames == 1 && ev.frame[0].len == (i % 3 ? 10u : 0u));
        if (i % 3) cr_assert(!memcmp(ev.frame[0].ptr, "some words", 10));
        last = ev.t_ns;
    }
    cr_assert_not(trace_next(r, &ev, &e));
    cr_assert_eq(e.code, ERR_OK);
    trace_read_close(&r);
    drop_place(&at);
}

static void talk(link_t *a, link_t *b)
{
    err e = { 0 };
    message m = query(5);
    packet p = { 0 };
    OK(link_send(a, NULL, &m, &(view){ "what", 4 }, 1000, &e));
    OK(link_recv(b, &p, 1000, &e));
    packet_done(&p);
}

Test(trace, links_record_both_directions_until_told_to_stop)
{
    place at = make_place();
    err e = { 0 };
    hub *h;
    link_t *a, *b;
    trace *t;
    OK(hub_open(&h, &e));
    OK(link_bind(&b, h, LINK_PULL, LINK_CONTROL, "inproc://t", &e));
    OK(link_connect(&a, h, LINK_PUSH, LINK_CONTROL, "inproc://t", &e));
    OK(trace_open(&t, at.file, &e));
    link_trace(a, t, "out");
    link_trace(b, t, "in");
    talk(a, b);
    link_trace(a, NULL, NULL);
    talk(a, b);
    link_trace(b, NULL, NULL);
    talk(a, b);
    trace_close(&t);
    link_close(&a);
    link_close(&b);
    hub_close(&h);
    static const char *const want[] = { "out", "in", "in" };
    trace_reader *r;
    trace_event ev;
    OK(trace_read_open(&r, at.file, &e));
    for (int i = 0; i < 3; i++) {
        cr_assert(trace_next(r, &ev, &e), "%s", e.text);
        cr_assert_str_eq(ev.link, want[i]);
        cr_assert(ev.dir == (i ? 'R' : 'S') && ev.head.query.id == 5 && !memcmp(ev.frame[0].ptr, "what", 4));
    }
    cr_assert_not(trace_next(r, &ev, &e));
    trace_read_close(&r);
    drop_place(&at);
}

static void *write_many(void *t)
{
    for (uint64_t i = 1; i <= 500; i++) write_query(t, i, "from a thread");
    return NULL;
}

Test(trace, threads_may_write_into_one_file)
{
    place at = make_place();
    err e = { 0 };
    trace *t;
    OK(trace_open(&t, at.file, &e));
    pthread_t th[3];
    for (int i = 0; i < 3; i++) pthread_create(&th[i], NULL, write_many, t);
    for (int i = 0; i < 3; i++) pthread_join(th[i], NULL);
    trace_close(&t);
    trace_reader *r;
    trace_event ev;
    uint64_t n = 0, last = 0;
    OK(trace_read_open(&r, at.file, &e));
    for (; trace_next(r, &ev, &e); n++, last = ev.t_ns) cr_assert_geq(ev.t_ns, last);
    cr_assert_eq(e.code, ERR_OK, "%s", e.text);
    cr_assert_eq(n, 1500);
    trace_read_close(&r);
    drop_place(&at);
}

Test(trace, files_that_are_no_traces_are_refused)
{
    place at = make_place();
    err e = { 0 };
    trace_reader *r = (trace_reader *)1;
    trace *t;
    cr_assert_eq(trace_read_open(&r, at.file, &e), ERR_IO);
    cr_assert(!r && strstr(e.text, at.file), "%s", e.text);
    cr_assert_eq(trace_read_open(&r, at.dir, &e), ERR_INPUT);
    cr_assert_eq(trace_open(&t, at.dir, &e), ERR_IO);
    cr_assert(!t && strstr(e.text, at.dir), "%s", e.text);
    FILE *f = fopen(at.file, "w");
    fputs("SLUTRACE\x02\0\0\0\0\0\0\0", f);
    fclose(f);
    cr_assert_eq(trace_read_open(&r, at.file, &e), ERR_INPUT);
    drop_place(&at);
}

static void store(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    cr_assert(f && (!n || fwrite(p, n, 1, f) == 1) && !fclose(f));
}

/* Read to the end; true when the file was whole. Every byte of every event is looked at, for the address sanitizer. */
static bool read_all(const char *path, uint64_t *events)
{
    err e = { 0 };
    trace_reader *r;
    trace_event ev;
    volatile uint8_t sum = 0;
    *events = 0;
    if (trace_read_open(&r, path, &e)) return false;
    for (; trace_next(r, &ev, &e); ++*events)
        for (uint32_t i = 0; i < ev.n_frames; i++)
            for (size_t k = 0; k < ev.frame[i].len; k++) sum = (uint8_t)(sum + ((const uint8_t *)ev.frame[i].ptr)[k]);
    if (e.code) cr_assert(strstr(e.text, "byte"), "\"%s\" does not say where", e.text);
    trace_read_close(&r);
    return e.code == ERR_OK;
}

Test(trace, every_truncation_gives_the_whole_events_and_then_an_error)
{
    place at = make_place();
    err e = { 0 };
    text all = { 0 };
    write_file(at.file, 4);
    OK(text_read_file(&all, at.file, 1u << 20, &e));
    uint64_t n, whole = 0, most = 0;
    for (size_t cut = 0; cut <= all.len; cut++) {
        store(at.file, all.ptr, cut);
        whole += read_all(at.file, &n);
        cr_assert_geq(n, most);
        most = n;
    }
    cr_assert_eq(whole, 5, "only the five borders between records are whole files");
    cr_assert_eq(most, 4);
    text_free(&all);
    drop_place(&at);
}

Test(trace, random_damage_never_crashes_the_reader)
{
    const uint64_t seed = clock_ns();
    place at = make_place();
    err e = { 0 };
    text all = { 0 };
    write_file(at.file, 5);
    OK(text_read_file(&all, at.file, 1u << 20, &e));
    char *copy = malloc(all.len);
    uint64_t k = 0, whole = 0, n;
    fprintf(stderr, "# seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 3000; round++) {
        memcpy(copy, all.ptr, all.len);
        for (uint64_t edits = 1 + rng_u64(seed, k++) % 3; edits; edits--) {
            size_t i = rng_u64(seed, k++) % all.len;
            copy[i] = (char)(rng_u64(seed, k++) % 4 ? rng_u64(seed, k) : 0xff);
        }
        store(at.file, copy, all.len);
        whole += read_all(at.file, &n);
        cr_assert_leq(n, 5);
    }
    fprintf(stderr, "# 3000 damaged files, %llu still read whole (times, names and texts are free)\n", (unsigned long long)whole);
    cr_assert_lt(whole, 3000);
    free(copy);
    text_free(&all);
    drop_place(&at);
}
