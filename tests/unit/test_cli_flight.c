#include "core/clock.h"
#include "ops/cli/cluster.h"
#include "ops/cli/describe.h"
#include "ops/cli/flight.h"
#include "ops/cli/signals.h"
#include "proto/finish.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Jobs on their way, against a coordinator that is a thread of the test: answers out of order, failures, cancelling. */

typedef struct {
    hub *hub;
    link_t *link;
    pthread_t thread;
    char dir[64];
    uint64_t jobs, cancelled;
    unsigned most, live;         /* jobs accepted and not done */
    bool mute;                   /* accept, and then say nothing until cancelled */
    _Atomic bool stop;
} fake;

static void reply(fake *f, const link_id *to, const message *m, const view *frames)
{
    err e;
    err_code rc = link_send(f->link, to, m, frames, 1000, &e);
    cr_expect(rc == ERR_OK || rc == ERR_GONE, "%s", e.text); /* a client may leave before it has heard everything */
}

static void say_done(fake *f, const link_id *to, uint64_t job, finish_reason why, err_code code, const char *words)
{
    message m = msg_init(MSG_DONE);
    view frames[MSG_FRAMES_MAX] = { { words, strlen(words) } };
    m.done = (msg_done){ .job = job, .finish = why, .last = true, .tokens = code ? 0 : 1, .prompt_tokens = 3, .code = code };
    reply(f, to, &m, frames);
    f->live--;
}

/* One token whose id is the length of the prompt; a prompt that begins with '!' fails. */
static void say_answer(fake *f, const link_id *to, uint64_t job, const text *prompt)
{
    message m = msg_init(MSG_TOKEN);
    token_rec t = { .id = (uint32_t)prompt->len, .logprob = -1 };
    view frames[3] = { { &t, sizeof t }, { 0 }, { prompt->ptr, prompt->len } };
    if (prompt->ptr[0] == '!') {
        say_done(f, to, job, FINISH_ERROR, ERR_INPUT, "not this one");
        return;
    }
    m.token = (msg_token){ .job = job, .n = 1 };
    reply(f, to, &m, frames);
    reply(f, to, &m, frames); /* a stream that resumes may repeat itself */
    say_done(f, to, job, FINISH_STOP, ERR_OK, "");
}

static void on_submit(fake *f, packet *p, text *held, link_id *held_from, uint64_t *held_job)
{
    message m = msg_init(MSG_ACCEPTED);
    text prompt = { 0 };
    if (!text_add(&prompt, p->frame[SUBMIT_PROMPT].ptr, p->frame[SUBMIT_PROMPT].len)) abort();
    if (prompt.ptr[0] == '?') { /* refused at the door */
        m = msg_init(MSG_FAIL);
        m.fail = (msg_fail){ .code = ERR_FULL, .ref = p->head.submit.ref, .text = "the queue is full" };
        reply(f, &p->from, &m, NULL);
        text_free(&prompt);
        return;
    }
    m.accepted = (msg_accepted){ .ref = p->head.submit.ref, .job = ++f->jobs };
    reply(f, &p->from, &m, NULL);
    if (++f->live > f->most) f->most = f->live;
    if (f->mute || !held->len) { /* hold every other one back, so that answers overtake each other */
        text_free(held);
        *held = prompt;
        *held_from = p->from;
        *held_job = f->jobs;
        return;
    }
    say_answer(f, &p->from, f->jobs, &prompt);
    say_answer(f, held_from, *held_job, held);
    text_free(&prompt);
    text_free(held);
}

static void *serve(void *arg)
{
    fake *f = arg;
    packet p = { 0 };
    err e;
    text held = { 0 };
    link_id from = { 0 };
    uint64_t held_job = 0;
    while (!f->stop) {
        err_code rc = link_recv(f->link, &p, 20, &e);
        if (rc == ERR_OK && p.head.type == MSG_SUBMIT) on_submit(f, &p, &held, &from, &held_job);
        if (rc == ERR_OK && p.head.type == MSG_CANCEL) {
            f->cancelled++;
            say_done(f, &p.from, p.head.cancel.job, FINISH_CANCELLED, ERR_OK, "");
        }
        if (rc == ERR_TIMEOUT && held.len && !f->mute) { /* an odd one is left */
            say_answer(f, &from, held_job, &held);
            text_free(&held);
        }
    }
    text_free(&held);
    packet_done(&p);
    return NULL;
}

static void fake_open(fake *f, bool mute)
{
    err e;
    char addr[100];
    *f = (fake){ .dir = "/tmp/sluice-test-XXXXXX", .mute = mute };
    cr_assert_not_null(mkdtemp(f->dir));
    snprintf(addr, sizeof addr, "ipc://%s/client", f->dir);
    cr_assert_eq(hub_open(&f->hub, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(link_bind(&f->link, f->hub, LINK_ROUTER, LINK_CLIENT, addr, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(pthread_create(&f->thread, NULL, serve, f), 0);
}

static void fake_close(fake *f)
{
    char path[100];
    f->stop = true;
    pthread_join(f->thread, NULL);
    link_close(&f->link);
    hub_close(&f->hub);
    snprintf(path, sizeof path, "%s/client", f->dir);
    unlink(path);
    cr_expect_eq(rmdir(f->dir), 0);
}

typedef struct {
    size_t want, sent, done, events, failed, refused;
    bool bad;                  /* every third one fails, every fifth is refused */
    bool same;
    err_code stop_with;        /* the event callback returns this */
} asker;

static void prompt_of(const asker *a, size_t i, char out[32])
{
    const char *head = a->bad && i % 5 == 4 ? "?" : a->bad && i % 3 == 2 ? "!" : "";
    snprintf(out, 32, "%sprompt %zu", head, i);
}

static err_code next(void *me, request *out, bool *more, err *e)
{
    asker *a = me;
    char prompt[32];
    settings s;
    *more = a->sent < a->want;
    if (!*more) return ERR_OK;
    settings_init(&s, CMD_SUBMIT);
    err_code rc = request_init(out, &s, e);
    prompt_of(a, a->sent++, prompt);
    settings_free(&s);
    return rc ? rc : request_set_prompt(out, prompt, strlen(prompt), e);
}

static err_code event(void *me, size_t index, const answer *got, const packet *p, err *e)
{
    asker *a = me;
    (void)index, (void)got, (void)p;
    a->events++;
    return a->stop_with ? err_set(e, a->stop_with, "enough") : ERR_OK;
}

static err_code done(void *me, size_t index, answer *got, err *e)
{
    asker *a = me;
    char want[32];
    (void)e;
    a->done++;
    a->failed += got->fail.code == ERR_INPUT && !strcmp(got->fail.text, "not this one");
    a->refused += got->fail.code == ERR_FULL && !strcmp(got->fail.text, "the queue is full");
    prompt_of(a, index, want);
    if (got->fail.code == ERR_OK) a->same &= got->choice[0].n_tokens == 1 && !strcmp(got->choice[0].text.ptr, want);
    return ERR_OK;
}

static const flight_ops ops = { next, event, done };

Test(cli_flight, answers_that_overtake_each_other_reach_their_askers, .timeout = 30)
{
    fake f;
    client *c;
    err e;
    asker a = { .want = 51, .same = true };
    fake_open(&f, false);
    cr_assert_eq(client_open(&c, &(settings){ 0 }, f.dir, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(flight_run(c, 7, &ops, &a, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(a.done, 51);
    cr_expect_eq(a.events, 51, "a repeated token is no news");
    cr_expect(a.same);
    client_close(&c);
    fake_close(&f);
    cr_expect(f.most > 1 && f.most <= 7, "%u jobs at once", f.most);
}

Test(cli_flight, failed_and_refused_jobs_do_not_stop_the_others, .timeout = 30)
{
    fake f;
    client *c;
    err e;
    asker a = { .want = 30, .bad = true, .same = true };
    fake_open(&f, false);
    cr_assert_eq(client_open(&c, &(settings){ 0 }, f.dir, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(flight_run(c, 4, &ops, &a, &e), ERR_OK, "%s", e.text);
    cr_expect(a.done == 30 && a.refused == 6 && a.failed == 8 && a.same, "%zu %zu %zu", a.done, a.refused, a.failed);
    client_close(&c);
    fake_close(&f);
}

Test(cli_flight, an_error_of_the_asker_ends_the_flight, .timeout = 30)
{
    fake f;
    client *c;
    err e;
    asker a = { .want = 5, .stop_with = ERR_IO };
    fake_open(&f, false);
    cr_assert_eq(client_open(&c, &(settings){ 0 }, f.dir, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(flight_run(c, 2, &ops, &a, &e), ERR_IO);
    cr_expect_str_eq(e.text, "enough");
    client_close(&c);
    fake_close(&f);
}

static void *interrupt(void *arg)
{
    (void)arg;
    usleep(200000);
    kill(getpid(), SIGTERM);
    return NULL;
}

Test(cli_flight, a_signal_cancels_what_runs, .timeout = 30)
{
    fake f;
    client *c;
    err e;
    pthread_t t;
    asker a = { .want = 3 };
    signals_install();
    fake_open(&f, true);
    cr_assert_eq(client_open(&c, &(settings){ 0 }, f.dir, &e), ERR_OK, "%s", e.text);
    pthread_create(&t, NULL, interrupt, NULL);
    cr_expect_eq(flight_run(c, 8, &ops, &a, &e), ERR_CANCELLED);
    pthread_join(t, NULL);
    client_close(&c);
    fake_close(&f);
    cr_expect_eq(f.cancelled, 3);
    cr_expect_eq(f.live, 0);
    cr_expect_eq(signals_caught(), SIGTERM);
}

Test(cli_flight, a_directory_without_a_coordinator_is_told_so, .timeout = 30)
{
    client *c;
    err e;
    cr_expect_eq(client_open(&c, &(settings){ 0 }, "/tmp/sluice-nobody", &e), ERR_ABSENT);
    cr_expect_str_eq(e.text, "no cluster is up in /tmp/sluice-nobody (sluice up starts one)");
    cr_expect_null(c);
}

Test(cli_flight, a_coordinator_that_dies_is_noticed, .timeout = 30)
{
    fake f;
    client *c;
    err e;
    const packet *p;
    fake_open(&f, true);
    cr_assert_eq(client_open(&c, &(settings){ 0 }, f.dir, &e), ERR_OK, "%s", e.text);
    fake_close(&f);
    cr_expect_eq(client_next(c, 10000, false, &p, &e), ERR_GONE, "%s", e.text);
    client_close(&c);
}

Test(cli_flight, a_fresh_process_is_alive_and_a_reaped_one_is_not)
{
    cr_expect(client_pid_alive(getpid()));
    cr_expect_not(client_pid_alive(0x7ffffff0));
}

Test(cli_flight, the_notify_line_is_read)
{
    err e = { 0 };
    cr_expect_eq(cluster_read_line("READY {}\n", &e), ERR_OK);
    cr_expect_eq(cluster_read_line("ERROR 4 no such model\nmore", &e), ERR_MODEL);
    cr_expect_str_eq(e.text, "no such model");
    cr_expect_eq(cluster_read_line("ERROR 999 odd\n", &e), ERR_STATE);
    cr_expect_eq(cluster_read_line("ERROR x\n", &e), ERR_STATE);
    cr_expect_eq(cluster_read_line("hello\n", &e), ERR_PROTO);
}

Test(cli_flight, bytes_are_written_for_people)
{
    char b[16];
    cr_expect_str_eq(describe_bytes(0, b), "0 B");
    cr_expect_str_eq(describe_bytes(999, b), "999 B");
    cr_expect_str_eq(describe_bytes(1234, b), "1.2 KB");
    cr_expect_str_eq(describe_bytes(123456, b), "123 KB");
    cr_expect_str_eq(describe_bytes(UINT64_MAX, b), "18446744 TB");
}
