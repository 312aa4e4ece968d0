#include "tests/faults/blows.h"
#include "core/clock.h"
#include "core/rng.h"
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AIM_S 1.5               /* so long is waited for the phase that is wanted */
#define PATIENCE_S 60.0         /* no word for so long while jobs are open: hung */
#define SLOW_S 1.0              /* a recovery that is worth a look at the log */
#define AWAY_NS 1500000000u     /* a look at the jobs takes no longer, unless we were stopped */
#define GAP_MS 120              /* up to so long between two blows */

struct blows {
    stand *s;
    desk *d;
    uint64_t seed, at;
    const work_answer *want;
    uint32_t n, until;
    uint64_t t_word, away, away_before; /* ns in which the rig itself was stopped; of them before the last word */
    bool draining, broken;
    blow_count count;
};

static const struct { const char *name; uint32_t share, needs; } kinds[] = {
#define X(N, n, w, needs) { n, w, needs },
    BLOW_MAP(X)
#undef X
};
static const char *const phases[] = {
#define X(N, n) n,
    PHASE_MAP(X)
#undef X
};
static const char *const frames[] = {
#define X(N, n) n,
    FRAME_MAP(X)
#undef X
};
static const char *const lanes[] = {
#define X(N, n) n,
    LANE_MAP(X)
#undef X
};

static uint64_t roll(blows *b, uint64_t below) { return rng_u64(b->seed, b->at++) % below; }
static uint64_t after(double s) { return clock_ns() + (uint64_t)(s * programs_patience() * 1e9); }

/* ---- looking ------------------------------------------------------------------------------------------------------- */

static phase phase_now(const blows *b)
{
    const observed *o = b->s->o;
    bool prefill = atomic_load(&o->prefill) || atomic_load(&o->pushes), decode = atomic_load(&o->decode);
    if (b->draining) return prefill || decode ? PHASE_DRAIN : PHASE_IDLE;
    if (atomic_load(&o->loading)) return PHASE_LOAD;
    if (prefill) return PHASE_PREFILL;
    if (decode) return PHASE_DECODE;
    return atomic_load(&o->queries) ? PHASE_RETRIEVE : PHASE_IDLE;
}

/* Somebody may stop all of us for a while, the rig included: what was timed over that is worth nothing. */
static void live(blows *b, int ms)
{
    uint64_t t = clock_ns();
    desk_tick(b->d, ms, b->until);
    if (clock_ns() - t > AWAY_NS) b->away += clock_ns() - t;
}

static void live_for(blows *b, uint64_t ms)
{
    for (uint64_t end = clock_ns() + ms * 1000000; clock_ns() < end;) live(b, 2);
}

/* Nothing moves any more: say what is open. */
static bool hangs(blows *b)
{
    uint64_t word = desk_counts(b->d)->t_word;
    if (word != b->t_word) b->t_word = word, b->away_before = b->away;
    if (!desk_open_jobs(b->d) || clock_ns() - word < (uint64_t)(PATIENCE_S * programs_patience() * 1e9) + b->away - b->away_before) return false;
    printf("# HUNG: no word for %.0f s\n", PATIENCE_S * programs_patience());
    b->count.hung++;
    desk_print(b->d);
    stand_print_log(b->s);
    b->broken = true;
    return true;
}

static bool wait_phase(blows *b, phase want)
{
    for (uint64_t end = after(AIM_S); clock_ns() < end;) {
        if (phase_now(b) == want) return true;
        live(b, 0);
        if (hangs(b)) return false;
    }
    return phase_now(b) != PHASE_IDLE;
}

static bool count(blows *b, blow_kind k, phase before)
{
    if (before == PHASE_IDLE) return b->count.missed++, false;
    b->count.hit[k][before]++;
    return true;
}

static void note_recovery(blows *b, int what, double s)
{
    double *more = realloc(b->count.recovery[what], (b->count.n_recovery[what] + 1) * sizeof *more);
    if (!more) abort();
    b->count.recovery[what] = more;
    more[b->count.n_recovery[what]++] = s;
}

/* From `since` to the first token under a newer plan than `epoch`. */
static void recover(blows *b, int what, uint64_t since, uint32_t epoch)
{
    observed *o = b->s->o;
    uint64_t away = b->away;
    for (uint64_t end = after(PATIENCE_S); clock_ns() < end && !b->broken;) {
        if (atomic_load(&o->served) != epoch && atomic_load(&o->served) == atomic_load(&o->epoch) && atomic_load(&o->t_served) > since) {
            if (b->away != away) return;
            double s = (double)(atomic_load(&o->t_served) - since) / 1e9;
            note_recovery(b, what, s);
            if (s > SLOW_S && what == 0) printf("# slow: %.3f s from a death to the next token\n", s), stand_print_log(b->s);
            return;
        }
        if (!stand_alive(b->s) || hangs(b)) return;
        if (!desk_open_jobs(b->d)) return; /* nobody waits for a token */
        live(b, 1);
    }
}

/* ---- processes ----------------------------------------------------------------------------------------------------- */

static pid_t stage_pid(blows *b, uint64_t i)
{
    char name[16];
    snprintf(name, sizeof name, "stage-%u", (unsigned)(i % STAND_STAGES));
    for (uint64_t end = after(3); clock_ns() < end; live(b, 1)) {
        pid_t pid = stand_pid(b->s, name);
        if (pid) return pid;
    }
    return 0;
}

/* Dead, so what was on its way no longer is. */
static void strike(blows *b, pid_t pid)
{
    if (pid > 1 && !kill(pid, SIGKILL) && !b->draining) atomic_store(&b->s->o->loading, 1);
}

static bool again(blows *b, const char *time_offset)
{
    text why = { 0 };
    b->s->time_offset = time_offset;
    b->draining = false;
    bool ok = stand_up(b->s, 0, &why);
    b->s->time_offset = NULL;
    if (!ok) printf("# the cluster does not start again: %s\n", why.len ? why.ptr : ""), stand_print_log(b->s), b->broken = true;
    text_free(&why);
    if (ok) desk_connect(b->d);
    return ok;
}

static bool bury(blows *b)
{
    desk_disconnect(b->d);
    if (stand_buried(b->s)) return true;
    b->count.stray++;
    b->broken = true;
    return false;
}

/* For a blow that is to fall into the loading of a plan: another stage dies first. */
static void make_load(blows *b, uint64_t other)
{
    strike(b, stage_pid(b, other));
    live_for(b, roll(b, 90));
}

/* ---- blows --------------------------------------------------------------------------------------------------------- */

static bool kill_stages(blows *b, blow_kind k, phase want)
{
    uint64_t i = roll(b, STAND_STAGES), two = 1 + roll(b, STAND_STAGES - 1);
    if (want == PHASE_LOAD) make_load(b, i + 1);
    pid_t pid = stage_pid(b, i), other = k == BLOW_KILL_TWO ? stage_pid(b, i + two) : 0;
    if (!wait_phase(b, want) || !pid) return b->count.missed++, !b->broken;
    uint32_t epoch = atomic_load(&b->s->o->epoch);
    phase before = phase_now(b);
    uint64_t t = clock_ns();
    strike(b, pid);
    if (other) strike(b, other);
    count(b, k, before);
    if (!b->draining) recover(b, 0, t, epoch);
    return !b->broken;
}

static bool stop_stage(blows *b, blow_kind k, phase want)
{
    uint64_t i = roll(b, STAND_STAGES), ms = 20 + roll(b, roll(b, 3) ? 300 : 1200);
    if (want == PHASE_LOAD) make_load(b, i + 1);
    pid_t pid = stage_pid(b, i);
    if (!wait_phase(b, want) || !pid) return b->count.missed++, !b->broken;
    phase before = phase_now(b);
    uint32_t epoch = atomic_load(&b->s->o->epoch);
    uint64_t t = clock_ns(), away = b->away;
    if (kill(pid, SIGSTOP)) return b->count.missed++, true;
    count(b, k, before);
    if (k == BLOW_STOP_STAGE || b->draining) {
        live_for(b, ms);
        kill(pid, SIGCONT);
        return true;
    }
    for (uint64_t end = after(20); !kill(pid, 0) && clock_ns() < end && stand_alive(b->s);) live(b, 5); /* until it is replaced */
    if (!kill(pid, SIGCONT) && b->away != away) return b->count.hit[k][before] -= before != PHASE_IDLE, b->count.missed++, true; /* who let us go on let it go on, too */
    if (!kill(pid, SIGCONT)) printf("# stage %d hung and was not replaced\n", (int)pid), b->count.hung++;
    recover(b, 1, t, epoch);
    return !b->broken;
}

static bool hit_rag(blows *b, blow_kind k, phase want)
{
    pid_t pid = stand_pid(b->s, "rag");
    uint64_t ms = 20 + roll(b, 600);
    if (!wait_phase(b, want) || !pid) return b->count.missed++, !b->broken;
    phase before = phase_now(b);
    if (kill(pid, k == BLOW_KILL_RAG ? SIGKILL : SIGSTOP)) return b->count.missed++, true;
    count(b, k, before);
    if (k == BLOW_KILL_RAG) return true;
    live_for(b, ms);
    kill(pid, SIGCONT);
    return true;
}

static bool stop_coordinator(blows *b, blow_kind k, phase want)
{
    uint64_t ms = 20 + roll(b, roll(b, 4) ? 400 : 2600);
    if (want == PHASE_LOAD) make_load(b, roll(b, STAND_STAGES));
    if (!wait_phase(b, want)) return b->count.missed++, !b->broken;
    phase before = phase_now(b);
    if (kill(b->s->coordinator, SIGSTOP)) return b->count.missed++, true;
    count(b, k, before);
    live_for(b, ms);
    kill(b->s->coordinator, SIGCONT);
    return true;
}

/* While the journal cannot be written a start must fail and say so. */
static bool start_read_only(blows *b)
{
    text why = { 0 };
    bool ok = stand_journal_read_only(b->s, true) && stand_up(b->s, 1, &why);
    if (ok && (!why.len || !strstr(why.ptr, "journal"))) printf("# a read-only journal is not named: %s\n", why.len ? why.ptr : ""), ok = false;
    if (!stand_journal_read_only(b->s, false)) ok = false;
    if (!ok) printf("# a start with a read-only journal went wrong: %s\n", why.len ? why.ptr : ""), b->broken = true;
    text_free(&why);
    return ok;
}

static bool kill_coordinator(blows *b, blow_kind k, phase want)
{
    static const char *const offsets[] = { "100000", "31536000", "50" };
    const char *offset = k == BLOW_TIME_SPACE ? offsets[roll(b, 3)] : NULL;
    if (want == PHASE_LOAD) make_load(b, roll(b, STAND_STAGES));
    if (!wait_phase(b, want)) return b->count.missed++, !b->broken;
    phase before = phase_now(b);
    uint32_t epoch = atomic_load(&b->s->o->epoch);
    uint64_t t = clock_ns();
    kill(b->s->coordinator, SIGKILL);
    count(b, k, before);
    if (!bury(b) || (k == BLOW_READ_ONLY && !start_read_only(b)) || !again(b, offset)) return false;
    recover(b, 2, t, epoch);
    return !b->broken;
}

/* A client of the command line, with a job of its own. */
static bool hit_client(blows *b, blow_kind k, phase want)
{
    char tokens[8], seed[8];
    unsigned number = (unsigned)roll(b, 1000);
    program p, q;
    snprintf(tokens, sizeof tokens, "%u", 100 + number % 200);
    snprintf(seed, sizeof seed, "%u", number);
    const char *const *argv = SLUICE("submit", "--dir", b->s->dir, "--json", "-p", "Once upon a time", "-n", tokens, "--seed", seed, "--temp", "0.9", "--ignore-eos");
    if (!program_start(&p, "client", argv)) return false;
    live_for(b, 30 + roll(b, 150));
    if (!wait_phase(b, want)) return b->count.missed++, !b->broken;
    phase before = phase_now(b);
    bool there = program_wait(&p, -1, 0) == SUPPORT_TIMEOUT && !kill(p.pid, k == BLOW_KILL_CLIENT ? SIGKILL : SIGSTOP);
    if (there) count(b, k, before);
    else b->count.missed++;
    live_for(b, 20 + roll(b, 500));
    if (k == BLOW_STOP_CLIENT && there) kill(p.pid, SIGCONT);
    for (uint64_t end = after(30); program_wait(&p, -1, 0) == SUPPORT_TIMEOUT && clock_ns() < end;) live(b, 2);
    if (k == BLOW_KILL_CLIENT || !there) return true;
    if (!program_start(&q, "client-again", argv)) return false; /* the same words once more, nobody stopped */
    for (uint64_t end = after(30); program_wait(&q, -1, 0) == SUPPORT_TIMEOUT && clock_ns() < end;) live(b, 2);
    json_t *one = json_load_file(p.out, 0, NULL), *two = json_load_file(q.out, 0, NULL);
    b->count.victims++;
    if (p.status || q.status || !one || !json_equal(json_object_get(one, "tokens"), json_object_get(two, "tokens"))) {
        printf("# a client that was stopped for a while: status %d and %d, or other tokens\n", p.status, q.status);
        b->count.victim_changed++;
    }
    json_decref(one);
    json_decref(two);
    return true;
}

static bool spoil_frame(blows *b, blow_kind k, phase want)
{
    static const uint32_t of_data[] = { FRAME_DELAY, FRAME_DROP, FRAME_TRUNCATE, FRAME_SHORTEN, FRAME_DOUBLE, FRAME_REORDER, FRAME_CORRUPT, FRAME_CUT };
    observed *o = b->s->o;
    uint32_t lane = (uint32_t[]){ LANE_FIRST, LANE_HOP, LANE_HOP, LANE_HOP, LANE_RESULT, LANE_RESULT, LANE_BULK, LANE_CONTROL }[roll(b, 8)];
    uint32_t fault = of_data[roll(b, 8)];
    if (lane == LANE_CONTROL && fault != FRAME_DELAY) fault = fault % 2 ? FRAME_CUT : FRAME_TRUNCATE; /* a stream socket loses nothing in its middle */
    if (lane == LANE_BULK) want = PHASE_PREFILL;
    if (want == PHASE_LOAD) make_load(b, roll(b, STAND_STAGES));
    uint64_t hits = atomic_load(&o->hits), draw = rng_u64(b->seed + 1, b->at++);
    atomic_store(&o->draw, draw);
    atomic_store(&o->lane, lane);
    atomic_store(&o->want, b->draining ? PHASE_IDLE : want);
    atomic_store(&o->fault, fault);
    uint64_t end = after(lane == LANE_BULK ? 3 : AIM_S);
    while (atomic_load(&o->hits) == hits && clock_ns() < end && !hangs(b)) live(b, 1);
    atomic_store(&o->fault, FRAME_NONE);
    if (atomic_load(&o->hits) == hits) return b->count.missed++, !b->broken;
    count(b, k, b->draining ? PHASE_DRAIN : (phase)atomic_load(&o->hit_phase));
    b->count.frame[fault][lane]++;
    return !b->broken;
}

static bool disk_full(blows *b, blow_kind k, phase want)
{
    if (!wait_phase(b, want)) return b->count.missed++, !b->broken;
    phase before = phase_now(b);
    if (!stand_fill_disk(b->s)) return b->count.missed++, true;
    count(b, k, before);
    live_for(b, 50 + roll(b, 700));
    stand_free_disk(b->s);
    return true;
}

static bool clock_jump(blows *b, blow_kind k, phase want)
{
    static const int64_t by[] = { 3600, -3600, 86400, -86400, 31536000, -2, 2, 0 };
    if (!wait_phase(b, want)) return b->count.missed++, !b->broken;
    phase before = phase_now(b);
    atomic_store(&b->s->o->clock_ns, by[roll(b, 8)] * 1000000000);
    count(b, k, before);
    live_for(b, 20 + roll(b, 200));
    return true;
}

/* ---- the schedule -------------------------------------------------------------------------------------------------- */

static bool allowed(const blows *b, blow_kind k)
{
    if (kinds[k].needs == 1) return b->s->proxy > 0;
    if (kinds[k].needs == 2) return b->s->mounted;
    if (kinds[k].needs == 3) return b->s->mounted && !access("/proc/self/ns/time", F_OK);
    return !(k == BLOW_KILL_RAG || k == BLOW_STOP_RAG) || b->s->rag;
}

static blow_kind draw_kind(blows *b)
{
    uint32_t at = (uint32_t)roll(b, 1000);
    for (int k = 0; k < BLOWS; k++) {
        if (at < kinds[k].share) return (blow_kind)k;
        at -= kinds[k].share;
    }
    return BLOW_KILL_STAGE;
}

static bool fall(blows *b, blow_kind k, phase want)
{
    switch (k) {
    case BLOW_KILL_STAGE:
    case BLOW_KILL_TWO: return kill_stages(b, k, want);
    case BLOW_STOP_STAGE:
    case BLOW_HANG_STAGE: return stop_stage(b, k, want);
    case BLOW_KILL_RAG:
    case BLOW_STOP_RAG: return hit_rag(b, k, want);
    case BLOW_STOP_COORDINATOR: return stop_coordinator(b, k, want);
    case BLOW_KILL_COORDINATOR:
    case BLOW_READ_ONLY:
    case BLOW_TIME_SPACE: return kill_coordinator(b, k, want);
    case BLOW_KILL_CLIENT:
    case BLOW_STOP_CLIENT: return hit_client(b, k, want);
    case BLOW_FRAME: return spoil_frame(b, k, want);
    case BLOW_DISK_FULL: return disk_full(b, k, want);
    case BLOW_CLOCK_JUMP: return clock_jump(b, k, want);
    case BLOWS: break;
    }
    return true;
}

/* `sluice down` while jobs run, and the blow falls into the drain. The next coordinator goes on with what is left. */
static bool in_drain(blows *b, blow_kind k)
{
    program down;
    for (int i = 0; i < 200 && desk_open_jobs(b->d) < 6; i++) live(b, 2);
    if (!program_start(&down, "down", SLUICE("down", "--dir", b->s->dir))) return false;
    live_for(b, 15 + roll(b, 60));
    b->draining = true;
    bool ok = fall(b, k, PHASE_DRAIN);
    for (uint64_t end = after(PATIENCE_S); ok && b->draining && stand_alive(b->s) && clock_ns() < end;) live(b, 5);
    if (ok && b->draining && stand_alive(b->s)) printf("# HUNG: the drain does not end\n"), b->count.hung++, stand_print_log(b->s), ok = false;
    program_wait(&down, -1, 20);
    if (!ok || !b->draining) return ok; /* a killed coordinator is up again */
    return bury(b) && again(b, NULL);
}

static bool fits_drain(blow_kind k)
{
    return k == BLOW_KILL_STAGE || k == BLOW_STOP_STAGE || k == BLOW_FRAME || k == BLOW_KILL_COORDINATOR || k == BLOW_STOP_COORDINATOR;
}

bool blows_next(blows *b, uint32_t until)
{
    blow_kind k = draw_kind(b);
    static const phase often[] = { PHASE_DECODE, PHASE_DECODE, PHASE_DECODE, PHASE_PREFILL, PHASE_PREFILL, PHASE_LOAD };
    phase want = often[roll(b, 6)];
    bool drain = !roll(b, 12);
    b->until = until;
    live_for(b, roll(b, GAP_MS));
    if (!allowed(b, k)) return b->count.skipped[k]++, true;
    if ((k == BLOW_KILL_RAG || k == BLOW_STOP_RAG) && roll(b, 2)) want = PHASE_RETRIEVE;
    if (k == BLOW_HANG_STAGE && want == PHASE_LOAD) want = PHASE_DECODE;
    if ((k == BLOW_DISK_FULL || k == BLOW_CLOCK_JUMP || k == BLOW_KILL_CLIENT || k == BLOW_STOP_CLIENT) && want == PHASE_LOAD) want = PHASE_DECODE;
    if (drain && fits_drain(k)) return in_drain(b, k) && !b->broken;
    return fall(b, k, want) && !b->broken;
}

/* ---- looks --------------------------------------------------------------------------------------------------------- */

blows *blows_open(stand *s, desk *d, uint64_t seed, const work_answer *want, uint32_t n)
{
    blows *b = calloc(1, sizeof *b);
    if (!b) abort();
    *b = (blows){ .s = s, .d = d, .seed = seed, .want = want, .n = n };
    return b;
}

void blows_close(blows **b)
{
    for (int i = 0; i < 3; i++) free((*b)->count.recovery[i]);
    free(*b);
    *b = NULL;
}

const blow_count *blows_counts(const blows *b) { return &b->count; }

uint32_t blows_counted(const blows *b)
{
    uint32_t n = 0;
    for (int k = 0; k < BLOWS; k++)
        for (int p = 0; p < PHASES; p++) n += b->count.hit[k][p];
    return n;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

void blows_print(const blows *b)
{
    static const char *const what[] = { "a stage's death", "a stage's silence", "the coordinator's death" };
    printf("# %-32s", "blow");
    for (int p = PHASE_LOAD; p < PHASES; p++) printf(" %9s", phases[p]);
    printf(" %9s\n", "all");
    for (int k = 0; k < BLOWS; k++) {
        uint32_t sum = 0;
        printf("# %-32s", kinds[k].name);
        for (int p = PHASE_LOAD; p < PHASES; p++) sum += b->count.hit[k][p], printf(" %9u", b->count.hit[k][p]);
        printf(" %9u", sum);
        if (b->count.skipped[k]) printf("  SKIP %u", b->count.skipped[k]);
        printf("\n");
    }
    printf("# %-32s", "frames, by lane");
    for (int l = 0; l < LANES; l++) printf(" %9s", lanes[l]);
    printf("\n");
    for (int f = FRAME_DELAY; f < FRAMES; f++) {
        printf("#   %-30s", frames[f]);
        for (int l = 0; l < LANES; l++) printf(" %9u", b->count.frame[f][l]);
        printf("\n");
    }
    for (int i = 0; i < 3; i++) {
        size_t n = b->count.n_recovery[i];
        double *r = b->count.recovery[i];
        if (!n) continue;
        qsort(r, n, sizeof *r, ascending);
        printf("# from %s to the next token: p50 %.3f s, p99 %.3f s, worst %.3f s, of %zu\n", what[i], r[n / 2], r[n - 1 - n / 100], r[n - 1], n);
    }
    fflush(stdout);
}
