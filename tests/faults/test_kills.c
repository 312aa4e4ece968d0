/* kill -9 of the coordinator, again and again, at random moments of every phase of its life. Every job that was acknowledged
 * must end exactly once, with the tokens, log-probabilities and text of a run that nobody disturbed; a job that was sent but not
 * acknowledged may be there or not, but not twice, and with the right text.
 * KILLS_N: how many (8); TEST_SEED repeats a run. `make kills N=200` is the long one. */
#include "core/clock.h"
#include "ops/cli/compare.h"
#include "ops/cli/flight.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECONDS 600                    /* for anything that should take a moment: other people use this machine too */
enum { BURST = 4, BACKLOG = 12 };      /* jobs a round; unfinished ones, each of which begins anew after a kill */

TestSuite(kills, .timeout = 7200);

/* ---- kinds of job -------------------------------------------------------------------------------------------------- */

enum { SHORT, LONG_PROMPT, LONG_ANSWER, CHOICES, RETRIEVAL, SLIDING, KINDS };
static const struct { const char *prompt; uint32_t tokens, n, logprobs; bool rag, slide; } kinds[KINDS] = {
    [SHORT] = { "Once upon a time", 5, 1, 0, false, false },
    [LONG_PROMPT] = { NULL, 20, 1, 1, false, false },
    [LONG_ANSWER] = { "The old house", 200, 1, 2, false, false },
    [CHOICES] = { "A cat", 40, 3, 0, false, false },
    [RETRIEVAL] = { "Question: What is the favourite food of Tuvorfilvi?", 20, 1, 1, true, false },
    [SLIDING] = { "A dog", 400, 1, 0, false, true },
};

static const char *long_prompt(void)
{
    static const char *const word[] = { "the", "cat", "sat", "on", "a", "mat", "and", "saw", "red", "river", "near", "old", "house", "with", "many", "birds" };
    static text t;
    for (unsigned i = 0; !t.len || i < 200; i++) text_addf(&t, "%s%s", i ? " " : "", word[support_draw(1, i, 16)]);
    return t.ptr;
}

static const char *prompt_of(unsigned kind)
{
    static const char *p;
    if (!p) p = long_prompt();
    return kinds[kind].prompt ? kinds[kind].prompt : p;
}

/* ---- the world --------------------------------------------------------------------------------------------------------- */

typedef enum { P_START, P_SUBMIT, P_PREFILL, P_DECODE, P_END, P_DRAIN, P_IDLE, PHASES } phase;
static const char *const phase_names[] = { "start", "submit", "prefill", "decode", "end", "drain", "idle" };

typedef struct { uint64_t id, ended; unsigned kind; } receipt;       /* ended: ms, 0: not seen */
typedef struct { uint64_t ref; unsigned kind; } pending;

typedef struct {
    uint64_t seed, draws;
    standing c;
    settings own;                      /* of our connection: the defaults */
    client *cl;
    answer want[KINDS];
    receipt *got;                      /* [n] acknowledged */
    size_t n, cap;
    pending sent[BURST];               /* not acknowledged yet */
    size_t n_sent, sequence, unacknowledged;
    uint64_t follow;                   /* the job whose tokens are heard */
    uint64_t heard;                    /* tokens of it */
    bool over;                         /* it has its DONE */
    unsigned kills[PHASES], aimed[PHASES], restarts;
} world;

static uint64_t roll(world *w, uint64_t below) { return support_draw(w->seed, w->draws++, below); }

static const char *const *options(void)
{
    static char model[512], corpus[512];
    static const char *words[] = { "-m", model, "--stages", "2", "--ctx", "360", "--chunk", "32", "--keep-jobs", "1000000", "--log-level", "info", "--rag", corpus, NULL };
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
    snprintf(corpus, sizeof corpus, "%s", support_root("configs/demo/corpus"));
    return words;
}

static void up(world *w)
{
    err e;
    json_decref(w->c.status);
    cr_assert(standing_up(&w->c, "kills", options()));
    cr_assert_eq(client_open(&w->cl, &(settings){ 0 }, w->c.dir, &e), ERR_OK, "%s", e.text);
    w->restarts++;
}

static void kill_it(world *w, phase p)
{
    cr_assert_gt(w->c.pid, 1);
    cr_assert_eq(kill(w->c.pid, SIGKILL), 0);
    w->kills[p]++;
}

/* ---- messages ------------------------------------------------------------------------------------------------------- */

static message submit_of(unsigned kind)
{
    message m = msg_init(MSG_SUBMIT);
    msg_submit *s = &m.submit;
    s->max_tokens = kinds[kind].tokens;
    s->n = kinds[kind].n;
    s->logprobs = kinds[kind].logprobs;
    s->rag = kinds[kind].rag;
    s->full_policy = kinds[kind].slide;
    s->temperature = 0.9;
    s->seed = 7 + kind;
    s->ignore_eog = s->detach = true;
    return m;
}

static void send_job(world *w, unsigned kind)
{
    err e;
    message m = submit_of(kind);
    const char *p = prompt_of(kind);
    m.submit.ref = client_ref(w->cl);
    snprintf(m.submit.custom_id, sizeof m.submit.custom_id, "%zu-%u", w->sequence++, kind);
    cr_assert_eq(client_send(w->cl, &m, (view[4]){ { p, strlen(p) }, { "", 0 }, { "", 0 }, { "", 0 } }, &e), ERR_OK, "%s", e.text);
    w->sent[w->n_sent++] = (pending){ m.submit.ref, kind };
}

static void acknowledged(world *w, const msg_accepted *a)
{
    for (size_t i = 0; i < w->n_sent; i++) {
        if (w->sent[i].ref != a->ref) continue;
        if (w->n == w->cap) cr_assert_not_null(w->got = realloc(w->got, (w->cap = w->cap ? 2 * w->cap : 256) * sizeof *w->got));
        w->got[w->n++] = (receipt){ a->job, 0, w->sent[i].kind };
        w->sent[i] = w->sent[--w->n_sent];
        return;
    }
    cr_assert_fail("job %llu answers no SUBMIT", (unsigned long long)a->job);
}

static void hear(world *w, const packet *p)
{
    const message *m = &p->head;
    cr_assert_neq(m->type, MSG_FAIL, "%s", m->fail.text);
    if (m->type == MSG_ACCEPTED) acknowledged(w, &m->accepted);
    if (m->type == MSG_TOKEN && m->token.job == w->follow && !m->token.index) w->heard = m->token.offset + m->token.n;
    if (m->type == MSG_DONE && m->done.job == w->follow && m->done.last) w->over = true;
}

/* What comes within so many us; false: the coordinator is gone. */
static bool listen_for(world *w, uint64_t us)
{
    uint64_t end = clock_ns() + us * 1000;
    const packet *p;
    err e;
    for (;;) {
        int left = clock_left_ms(end);
        err_code rc = client_next(w->cl, left, false, &p, &e);
        if (rc == ERR_GONE) return false;
        if (rc == ERR_OK) hear(w, p);
        if (rc == ERR_TIMEOUT && !clock_left_ms(end)) return true;
    }
}

static void until_acknowledged(world *w)
{
    for (uint64_t end = clock_ns() + SECONDS * 1000000000ull; w->n_sent && clock_ns() < end;) cr_assert(listen_for(w, 500));
    cr_assert_eq(w->n_sent, 0, "%zu jobs were never acknowledged", w->n_sent);
}

static void follow(world *w, uint64_t id)
{
    err e;
    message m = msg_init(MSG_FETCH);
    m.fetch = (msg_fetch){ .ref = client_ref(w->cl), .job = id, .choice = 64 };
    w->follow = id;
    w->heard = 0;
    w->over = false;
    cr_assert_eq(client_send(w->cl, &m, NULL, &e), ERR_OK, "%s", e.text);
}

/* ---- answers ------------------------------------------------------------------------------------------------------------ */

static err_code no_more(void *me, request *out, bool *more, err *e)
{
    (void)me, (void)out, (void)e;
    return *more = false, ERR_OK;
}

static err_code keep(void *me, size_t index, answer *a, err *e)
{
    (void)index, (void)e;
    *(answer *)me = *a;
    *a = (answer){ 0 };
    return ERR_OK;
}

static answer answer_of(world *w, uint64_t id)
{
    static const flight_ops ops = { no_more, NULL, keep };
    answer a = { 0 };
    err e;
    cr_assert_eq(flight_fetch(w->cl, &(flight_part){ .job = id }, &ops, &a, &e), ERR_OK, "job %llu: %s", (unsigned long long)id, e.text);
    return a;
}

/* false: it is lost or changed. */
static bool check_answer(world *w, uint64_t id, unsigned kind)
{
    answer a = answer_of(w, id);
    answer_diff d = answer_compare(&w->want[kind], &a, false);
    if (a.fail.code) printf("# job %llu failed: %s\n", (unsigned long long)id, a.fail.text);
    else if (d.kind) printf("# job %llu (kind %u) changed: choice %u token %zu: %s\n", (unsigned long long)id, kind, d.choice, d.token, diff_name(d.kind));
    bool ok = !a.fail.code && !d.kind;
    answer_free(&a);
    return ok;
}

static json_t *jobs_list(world *w)
{
    json_t *o;
    err e;
    cr_assert_eq(client_status(w->cl, 1, &o, &e), ERR_OK, "%s", e.text);
    return o;
}

static receipt *receipt_of(world *w, uint64_t id)
{
    size_t lo = 0, hi = w->n;           /* acknowledged in order of id */
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (w->got[mid].id < id) lo = mid + 1;
        else hi = mid;
    }
    return lo < w->n && w->got[lo].id == id ? &w->got[lo] : NULL;
}

static int by_id(const void *a, const void *b)
{
    const receipt *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* An end that was recorded never changes its moment: it was not recorded again. */
static void check_ends(world *w)
{
    json_t *o = jobs_list(w), *j;
    size_t i;
    qsort(w->got, w->n, sizeof *w->got, by_id);
    json_array_foreach(json_object_get(o, "jobs"), i, j) {
        receipt *r = receipt_of(w, (uint64_t)json_number_at(j, "id"));
        int64_t ended = json_number_at(j, "ended_ms");
        if (!r || ended <= 0) continue;
        cr_assert(!r->ended || r->ended == (uint64_t)ended, "job %llu ended twice", (unsigned long long)r->id);
        r->ended = (uint64_t)ended;
    }
    json_decref(o);
}

/* ---- blows ------------------------------------------------------------------------------------------------------------------ */

static uint64_t newest(const world *w) { return w->got[w->n - 1].id; }

/* Jobs of which the first one is good for the phase. */
static void burst(world *w, phase p)
{
    static const unsigned first[PHASES] = { [P_SUBMIT] = SHORT, [P_PREFILL] = LONG_PROMPT, [P_DECODE] = LONG_ANSWER, [P_END] = SHORT, [P_DRAIN] = LONG_ANSWER };
    send_job(w, first[p]);
    if (p != P_SUBMIT) until_acknowledged(w);
    if (p != P_SUBMIT) follow(w, newest(w));
    for (unsigned i = 1; i < BURST; i++) send_job(w, (unsigned)roll(w, KINDS));
    if (p != P_SUBMIT) until_acknowledged(w);
}

/* What there is to know when something does not come. */
static void print_state(world *w)
{
    json_t *o = standing_status(&w->c);
    char *words = o ? json_dumps(o, JSON_COMPACT) : NULL;
    printf("# %s\n", words ? words : "no status");
    free(words);
    json_decref(o);
    standing_print_log(&w->c);
}

static void wait_tokens(world *w, uint64_t n)
{
    uint64_t end = clock_ns() + SECONDS * 1000000000ull;
    while (w->heard < n && !w->over && clock_ns() < end) cr_assert(listen_for(w, 300));
    if (w->heard < n && !w->over) print_state(w);
    cr_assert(w->heard >= n || w->over, "job %llu has %llu tokens", (unsigned long long)w->follow, (unsigned long long)w->heard);
}

static void wait_over(world *w)
{
    uint64_t end = clock_ns() + SECONDS * 1000000000ull;
    while (!w->over && clock_ns() < end) cr_assert(listen_for(w, 300));
    if (!w->over) print_state(w);
    cr_assert(w->over, "job %llu does not end", (unsigned long long)w->follow);
}

static void say_stop(world *w)
{
    err e;
    message m = msg_init(MSG_STOP);
    cr_assert_eq(client_send(w->cl, &m, NULL, &e), ERR_OK, "%s", e.text);
}

/* Until the moment has come. Returns whether the job that is followed was where it should be. */
static bool aim(world *w, phase p)
{
    switch (p) {
    case P_SUBMIT: usleep((useconds_t)roll(w, 4000)); return w->n_sent > 0;
    case P_PREFILL: listen_for(w, roll(w, 6000)); return !w->heard && !w->over;
    case P_DECODE: wait_tokens(w, 1 + roll(w, 150)); return !w->over;
    case P_END: wait_over(w); usleep((useconds_t)roll(w, 3000)); return true;
    case P_DRAIN: say_stop(w); listen_for(w, roll(w, 40000)); return !w->over;
    default: wait_over(w); return true;
    }
}

/* A coordinator on its way: it writes its number early. */
static void kill_while_starting(world *w)
{
    program p;
    const char *argv[48] = { support_bin("sluice"), "up", "--dir", w->c.dir, "--json" };
    size_t n = 5;
    pid_t old = w->c.pid, now = old;
    for (const char *const *o = options(); *o; o++) argv[n++] = *o;
    cr_assert(program_start(&p, "starting", argv));
    uint64_t end = clock_ns() + SECONDS * 1000000000ull;
    while ((now == old || !now) && clock_ns() < end) now = client_read_pid(w->c.dir);
    usleep((useconds_t)roll(w, 120000));
    w->c.pid = now;
    kill_it(w, P_START);
    program_wait(&p, -1, SECONDS);
    w->aimed[P_START] += p.status != 0;  /* else it was ready already */
    cr_assert(programs_ended(20), "children stay when their coordinator is gone");
}

/* Kills come faster than long jobs end: now and then they get the time. */
static void drain_backlog(world *w)
{
    unsigned open = 0;
    for (size_t i = 0; i < w->n; i++) open += !w->got[i].ended;
    for (size_t i = 0; open > BACKLOG && i < w->n; i++)
        if (!w->got[i].ended) cr_expect(check_answer(w, w->got[i].id, w->got[i].kind));
    if (open > BACKLOG) check_ends(w);
}

static void one_kill(world *w, phase p)
{
    drain_backlog(w);
    if (p != P_START) {
        if (p == P_IDLE) follow(w, newest(w));
        else burst(w, p);
        bool there = aim(w, p);
        w->aimed[p] += there;
        kill_it(w, p);
        listen_for(w, 2000);               /* what was said before it died counts */
    }
    client_close(&w->cl);
    if (p == P_START) cr_assert_eq(kill(w->c.pid, SIGKILL), 0);
    cr_assert(programs_ended(20), "children stay when their coordinator is gone");
    w->unacknowledged += w->n_sent;
    w->n_sent = 0;
    if (p == P_START) kill_while_starting(w);
    up(w);
    check_ends(w);
    for (int i = 0; i < 2; i++) {          /* a look back changes nothing */
        const receipt *r = &w->got[roll(w, w->n)];
        if (r->ended) cr_expect(check_answer(w, r->id, r->kind));
    }
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------- */

static void undisturbed(world *w)
{
    for (unsigned k = 0; k < KINDS; k++) {
        send_job(w, k);
        until_acknowledged(w);
        w->want[k] = answer_of(w, newest(w));
        cr_assert_eq(w->want[k].fail.code, ERR_OK, "%s", w->want[k].fail.text);
        cr_assert_eq(w->want[k].choice[0].n_tokens, kinds[k].tokens);
        w->got[w->n - 1].ended = 0;
    }
    cr_assert_gt(w->want[SLIDING].choice[0].done.slides, 0);
    cr_assert_not_null(w->want[RETRIEVAL].passages);
}

typedef struct { unsigned lost, changed, twice, strangers; } verdict;

/* Jobs that are listed: each name once; those that were never acknowledged have the right text too. */
static void check_list(world *w, verdict *v)
{
    json_t *o = jobs_list(w), *j, *seen = json_object();
    size_t i;
    json_array_foreach(json_object_get(o, "jobs"), i, j) {
        const char *name = json_string_at(j, "custom_id"), *dash = strchr(name, '-');
        uint64_t id = (uint64_t)json_number_at(j, "id");
        v->twice += json_object_get(seen, name) != NULL;
        json_object_set_new(seen, name, json_true());
        if (receipt_of(w, id)) continue;
        v->strangers++;
        cr_assert_not_null(dash);
        v->changed += !check_answer(w, id, (unsigned)atoi(dash + 1));
    }
    json_decref(seen);
    json_decref(o);
}

static verdict judge(world *w)
{
    verdict v = { 0 };
    for (size_t i = 0; i < w->n; i++) v.changed += !check_answer(w, w->got[i].id, w->got[i].kind);
    check_ends(w);
    for (size_t i = 0; i < w->n; i++) v.lost += !w->got[i].ended;
    for (size_t i = 1; i < w->n; i++) v.twice += w->got[i].id == w->got[i - 1].id;
    check_list(w, &v);
    return v;
}

static void print(const world *w, const verdict *v, unsigned n)
{
    printf("# %u kills:", n);
    for (int p = 0; p < PHASES; p++) printf(" %s %u (%u in it)", phase_names[p], w->kills[p], w->aimed[p]);
    printf("\n# %zu jobs acknowledged, %zu sent and not acknowledged (%u of them recorded), %u restarts\n", w->n, w->unacknowledged, v->strangers, w->restarts - 1);
    printf("# lost %u, recorded twice %u, changed %u\n", v->lost, v->twice, v->changed);
    fflush(stdout);
}

static void end(world *w)
{
    client_close(&w->cl);
    cr_expect(standing_down(&w->c));
    for (unsigned k = 0; k < KINDS; k++) answer_free(&w->want[k]);
    settings_free(&w->own);
    free(w->got);
}

Test(kills, every_acknowledged_job_ends_once_with_its_own_text)
{
    const char *n_word = getenv("KILLS_N");
    unsigned n = n_word && *n_word ? (unsigned)atoi(n_word) : 8;
    world w = { .seed = support_seed() };
    programs_begin();
    settings_init(&w.own, CMD_SUBMIT);
    up(&w);
    undisturbed(&w);
    for (unsigned i = 0; i < n; i++) {
        one_kill(&w, (phase)((i + w.seed) % PHASES));
        if (i % 20 == 19) printf("# %u kills, %zu jobs\n", i + 1, w.n), fflush(stdout);
    }
    verdict v = judge(&w);
    print(&w, &v, n);
    cr_expect_eq(v.lost, 0);
    cr_expect_eq(v.twice, 0);
    cr_expect_eq(v.changed, 0);
    end(&w);
}
