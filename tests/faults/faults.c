/* The fault rig: jobs once undisturbed, then again under blows; every answer must be the same, none lost, none twice, nothing left.
 *   EVENTS=1000 JOBS=2000 SEED=N faults     one line "FAULTS ..." at the end, exit status 0 when all is well */
#include "core/clock.h"
#include "tests/faults/blows.h"
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WINDOW 12u              /* jobs under way */

typedef struct { uint64_t seed; uint32_t events, jobs; const char *model; bool rag; } plan;
typedef struct { uint64_t lost, twice, changed, hung, leaked; } verdict;

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *s = getenv(name);
    return s && *s ? strtoull(s, NULL, 10) : otherwise;
}

/* ---- undisturbed --------------------------------------------------------------------------------------------------- */

static work_answer *undisturbed(stand *s, const plan *p)
{
    uint64_t t = clock_ns();
    if (!stand_up(s, 0, NULL)) return NULL;
    desk *d = desk_open(s->dir, p->seed, WINDOW, p->rag, NULL, p->jobs);
    desk_connect(d);
    while (desk_counts(d)->over < p->jobs && clock_ns() - desk_counts(d)->t_word < 60000000000u) desk_tick(d, 20, p->jobs);
    bool ok = desk_counts(d)->over == p->jobs && !desk_counts(d)->lost;
    printf("# undisturbed: %" PRIu64 " jobs, %" PRIu64 " tokens in %.1f s\n", desk_counts(d)->over, desk_counts(d)->tokens, (double)(clock_ns() - t) / 1e9);
    work_answer *a = desk_answers(d);
    uint32_t bad = 0;
    for (uint32_t i = 0; i < p->jobs; i++) bad += a[i].code != 0;
    if (bad) printf("# %u undisturbed jobs end with an error\n", bad);
    desk_close(&d);
    if (!stand_down(s)) ok = false;
    unlink(s->journal);
    return ok ? a : NULL;
}

/* ---- what must be true afterwards ---------------------------------------------------------------------------------- */

static uint64_t leaks_of(const stand *s)
{
    uint64_t leaked = 0;
    standing c = { .pid = s->coordinator };
    snprintf(c.dir, sizeof c.dir, "%s", s->dir);
    for (int i = 0; i < 100; i++) {   /* the last DROP may be on its way */
        json_t *o = standing_status(&c);
        leaked = (uint64_t)json_number_at(o, "sessions");
        for (unsigned k = 0; k < STAND_STAGES; k++) {
            char path[48];
            snprintf(path, sizeof path, "stages.%u.sessions", k);
            leaked += (uint64_t)json_number_at(o, path);
            snprintf(path, sizeof path, "stages.%u.kv_pages", k);
            leaked += (uint64_t)json_number_at(o, path);
        }
        json_decref(o);
        if (!leaked) return 0;
        usleep(50000);
    }
    printf("# LEAKED: %" PRIu64 " sessions and pages are in use when no job runs\n", leaked);
    return leaked;
}

static int64_t ask_journal(sqlite3 *db, const char *sql, uint64_t id)
{
    sqlite3_stmt *q;
    int64_t n = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL)) return -1;
    sqlite3_bind_int64(q, 1, (sqlite3_int64)id);
    if (sqlite3_step(q) == SQLITE_ROW) n = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    return n;
}

/* Every acknowledged id is there, once, with its end. */
static void check_journal(const stand *s, const desk *d, verdict *v)
{
    sqlite3 *db;
    size_t n;
    const uint64_t *id = desk_ids(d, &n);
    if (sqlite3_open_v2(s->journal, &db, SQLITE_OPEN_READWRITE, NULL)) {
        printf("# the journal cannot be read: %s\n", sqlite3_errmsg(db));
        v->lost++;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t there = ask_journal(db, "SELECT count(*) FROM job WHERE id=?1", id[i]), done = ask_journal(db, "SELECT count(*) FROM job WHERE id=?1 AND state<>0", id[i]);
        for (size_t k = 0; k < i; k++) v->twice += id[k] == id[i];
        if (there == 1 && done == 1) continue;
        printf("# journal: job %" PRIu64 " is there %" PRId64 " times, ended %" PRId64 " times\n", id[i], there, done);
        if (there > 1) v->twice++;
        else v->lost++;
    }
    int64_t open = ask_journal(db, "SELECT count(*) FROM job WHERE state=0 AND ?1=0", 0);
    if (open) printf("# journal: %" PRId64 " jobs have no end\n", open), v->lost += (uint64_t)open;
    /* a submission that was refused and sent again must not have been recorded the first time */
    int64_t twice = ask_journal(db, "SELECT count(*) FROM (SELECT substr(custom_id, 1, instr(custom_id, '.') - 1) AS n FROM job"
                                    " WHERE custom_id LIKE 'j%.%' AND ?1=0 GROUP BY n HAVING count(*) > 1)", 0);
    if (twice) printf("# journal: %" PRId64 " jobs are recorded twice\n", twice), v->twice += (uint64_t)twice;
    printf("# journal: %zu acknowledged jobs, %" PRId64 " records\n", n, ask_journal(db, "SELECT count(*) FROM job WHERE ?1=0", 0));
    sqlite3_close(db);
}

static uint64_t left_behind(stand *s)
{
    stand_end(s);
    bool clean = programs_ended(5);
    char path[200];
    snprintf(path, sizeof path, "%s/log", s->dir);
    unlink(path);
    return !clean + !run_dir_clean(s->dir);
}

/* ---- the run ------------------------------------------------------------------------------------------------------- */

static bool disturb(stand *s, desk *d, blows *b, const plan *p)
{
    uint64_t t = clock_ns(), said = t;
    while (blows_counted(b) < p->events || desk_counts(d)->over < p->jobs) {
        if (!blows_next(b, UINT32_MAX)) return false;
        if (!stand_alive(s)) return printf("# the coordinator is gone\n"), stand_print_log(s), false;
        if (clock_ns() - said < 20000000000u) continue;
        said = clock_ns();
        printf("# %5.0f s: %u events, %" PRIu64 " jobs\n", (double)(said - t) / 1e9, blows_counted(b), desk_counts(d)->over);
        fflush(stdout);
    }
    uint64_t end = clock_ns() + 60000000000u;
    atomic_store(&s->o->fault, FRAME_NONE);
    while (desk_open_jobs(d) && clock_ns() < end) desk_tick(d, 20, 0);
    if (desk_open_jobs(d)) desk_print(d), stand_print_log(s);
    return !desk_open_jobs(d);
}

static int judge(const plan *p, const desk *d, const blows *b, verdict *v, double seconds)
{
    const desk_count *c = desk_counts(d);
    const blow_count *k = blows_counts(b);
    v->lost += c->lost;
    v->twice += c->twice;
    v->changed += c->changed + c->failed + k->victim_changed;
    v->hung += k->hung;
    v->leaked += k->stray;
    uint32_t skipped = 0;
    for (int i = 0; i < BLOWS; i++) skipped += k->skipped[i];
    blows_print(b);
    printf("# %" PRIu64 " tokens; %" PRIu64 " cancelled, %" PRIu64 " times refused and sent again, %" PRIu64 " fetches, %" PRIu64 " acknowledgements found later; "
           "%u blows fell into nothing and do not count\n", c->tokens, c->cancelled, c->refused, c->fetched, c->adopted, k->missed);
    bool enough = blows_counted(b) >= p->events && c->over >= p->jobs;
    bool good = enough && !v->lost && !v->twice && !v->changed && !v->hung && !v->leaked;
    printf("FAULTS seed %" PRIu64 ": %u events, %" PRIu64 " jobs, 3 stages, %.0f s: lost %" PRIu64 ", recorded twice %" PRIu64 ", changed %" PRIu64 ", hung %" PRIu64
           ", leaked %" PRIu64 ", skipped %u: %s\n", p->seed, blows_counted(b), c->over, seconds, v->lost, v->twice, v->changed, v->hung, v->leaked, skipped,
           good ? "good" : "BAD");
    return good ? 0 : 1;
}

int main(void)
{
    plan p = { .events = (uint32_t)number("EVENTS", 1000), .jobs = (uint32_t)number("JOBS", 2000), .rag = number("RAG", 1) };
    stand s;
    verdict v = { 0 };
    const char *seed = getenv("SEED");
    if (seed && *seed) setenv("TEST_SEED", seed, 1);
    p.seed = support_seed();
    const char *model = getenv("MODEL");
    p.model = strdup(model && *model ? model : support_root("models/sluice-tiny-aux-Q8_0.gguf"));
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!stand_begin(&s, p.model, p.rag, true)) return printf("FAULTS: the rig does not start\n"), 2;
    if (!s.mounted) printf("# no file system of our own here: full disk, read-only journal and other clocks are counted SKIP\n");
    work_answer *want = undisturbed(&s, &p);
    if (!want || !stand_up(&s, 0, NULL)) return stand_print_log(&s), printf("FAULTS: the undisturbed run fails\n"), 2;
    uint64_t t = clock_ns();
    desk *d = desk_open(s.dir, p.seed, WINDOW, p.rag, want, p.jobs);
    blows *b = blows_open(&s, d, p.seed, want, p.jobs);
    desk_connect(d);
    if (!disturb(&s, d, b, &p)) v.hung++;
    else v.leaked = leaks_of(&s);
    if (!stand_down(&s)) v.leaked++;
    check_journal(&s, d, &v);
    v.leaked += left_behind(&s);
    int rc = judge(&p, d, b, &v, (double)(clock_ns() - t) / 1e9);
    blows_close(&b);
    desk_close(&d);
    for (uint32_t i = 0; i < p.jobs; i++) work_free(&want[i]);
    free(want);
    return rc;
}
