/* The soak: mixed load with cancels for MINUTES, a death a minute, and the resident memory of every process a few times a
 * minute. Flat means: of processes that live through it, and of each role at equal age, growth below 2 % after a warm-up.
 *   MINUTES=30 SEED=N soak FILE.csv */
#include "core/clock.h"
#include "core/rng.h"
#include "tests/faults/desk.h"
#include "tests/faults/stand.h"
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WINDOW 16u
#define JOBS 400u               /* different ones; they come again and again */
#define EVERY_S 5.0             /* between two samples */
#define AWAY_NS 1500000000u     /* a look at the jobs takes no longer, unless we were stopped */
#define LIMIT 0.02              /* growth that is still flat */
#define ROLES (STAND_STAGES + 2)

typedef struct { double t, age; uint64_t kb; uint32_t role, life; } sample;
typedef struct { sample *at; size_t n; } samples;
typedef struct { stand s; desk *d; samples all; pid_t pid[ROLES]; uint64_t born[ROLES]; uint32_t life[ROLES]; uint64_t t0; double ran; bool silent; uint32_t deaths; } soak;

static const char *const roles[ROLES] = { "coordinator", "stage-0", "stage-1", "stage-2", "rag" };

static double seconds(uint64_t from) { return (double)(clock_ns() - from) / 1e9; }

static void look(soak *k)
{
    for (uint32_t r = 0; r < ROLES; r++) {
        pid_t pid = r ? stand_pid(&k->s, roles[r]) : k->s.coordinator;
        if (!pid) continue;
        if (pid != k->pid[r]) k->pid[r] = pid, k->born[r] = clock_ns(), k->life[r]++;
        sample *more = realloc(k->all.at, (k->all.n + 1) * sizeof *more);
        if (!more) abort();
        k->all.at = more;
        more[k->all.n++] = (sample){ seconds(k->t0), seconds(k->born[r]), process_rss_kb(pid), r, k->life[r] };
    }
}

static void write_csv(const soak *k, const char *path)
{
    FILE *f = fopen(path, "we");
    if (!f) return;
    fprintf(f, "seconds,role,life,age,rss_kb\n");
    for (size_t i = 0; i < k->all.n; i++) {
        const sample *s = &k->all.at[i];
        fprintf(f, "%.1f,%s,%u,%.1f,%" PRIu64 "\n", s->t, roles[s->role], s->life, s->age, s->kb);
    }
    fclose(f);
}

/* ---- flat? --------------------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Median (top: the greatest) of a role's samples with from <= t < to and age in [age0, age1), of one life (0: all); 0: there is none. */
static uint64_t middle(const soak *k, bool top, uint32_t role, uint32_t life, double from, double to, double age0, double age1)
{
    uint64_t *v = malloc((k->all.n + 1) * sizeof *v), m = 0;
    size_t n = 0;
    for (size_t i = 0; v && i < k->all.n; i++) {
        const sample *s = &k->all.at[i];
        if (s->role == role && (!life || s->life == life) && s->t >= from && s->t < to && s->age >= age0 && s->age < age1) v[n++] = s->kb;
    }
    if (n) qsort(v, n, sizeof *v, ascending), m = v[top ? n - 1 : n / 2];
    free(v);
    return m;
}

static bool line(const char *what, const char *role, uint64_t before, uint64_t behind, bool *flat)
{
    if (!before || !behind) return false;
    double grown = (double)behind / (double)before - 1;
    bool good = grown < LIMIT;
    printf("  %-28s %-12s %9" PRIu64 " KB %9" PRIu64 " KB  %+6.2f %%  %s\n", what, role, before, behind, 100 * grown, good ? "flat" : "GROWS");
    *flat = *flat && good;
    return true;
}

/* The first third warms up; then the first and the last sixth of the time are compared. Of short lives the greatest: how much KV a
 * young stage holds follows what the machine let it do, and a leak raises what it holds at most. */
static bool judge(const soak *k, double all)
{
    bool flat = true;
    double warm = all / 3, part = all / 6;
    printf("  %-28s %-12s %12s %12s\n", "", "", "before", "at the end");
    for (uint32_t r = 0; r < ROLES; r++)
        if (k->life[r] == 1) line("lives through it", roles[r], middle(k, false, r, 1, warm, warm + part, 0, 1e9), middle(k, false, r, 1, all - part, 1e9, 0, 1e9), &flat);
    for (uint32_t r = 1; r < ROLES; r++)
        for (double age = 30; age < 200 && k->life[r] > 1; age *= 2) {
            char what[40];
            snprintf(what, sizeof what, "%.0f to %.0f s old", age, age * 1.5);
            line(what, roles[r], middle(k, true, r, 0, warm, warm + 2 * part, age, age * 1.5), middle(k, true, r, 0, all - 2 * part, 1e9, age, age * 1.5), &flat);
        }
    return flat;
}

/* ---- the run ------------------------------------------------------------------------------------------------------- */

static work_answer *undisturbed(soak *k, uint64_t seed)
{
    if (!stand_up(&k->s, 0, NULL)) return NULL;
    desk *d = desk_open(k->s.dir, seed, WINDOW, true, NULL, JOBS);
    desk_connect(d);
    while (desk_counts(d)->over < JOBS && clock_ns() - desk_counts(d)->t_word < 120000000000u) desk_tick(d, 20, JOBS);
    bool ok = desk_counts(d)->over == JOBS;
    work_answer *a = desk_answers(d);
    desk_close(&d);
    ok = stand_down(&k->s) && ok;
    unlink(k->s.journal);
    return ok ? a : NULL;
}

/* Stages and the retrieval worker die in turn, stage 2 and the coordinator live. */
static void death(soak *k)
{
    static const uint32_t turn[] = { 1, 2, 1, 2, 4 };
    uint32_t r = turn[k->deaths++ % 5];
    pid_t pid = stand_pid(&k->s, roles[r]);
    if (pid) kill(pid, SIGKILL);
}

static void run(soak *k, double minutes)
{
    double next_look = 0, all = minutes * 60, every = all > 300 ? 60 : all / 3, next_death = every;
    double step = all > 300 ? EVERY_S : 2;
    uint64_t away = 0, word = 0;            /* since the last word: ns in which we were stopped ourselves */
    k->t0 = clock_ns();
    while (seconds(k->t0) < all && stand_alive(&k->s)) {
        uint64_t t = clock_ns();
        desk_tick(k->d, 20, UINT32_MAX);
        if (clock_ns() - t > AWAY_NS) away += clock_ns() - t;
        if (desk_counts(k->d)->t_word != word) word = desk_counts(k->d)->t_word, away = 0;
        if (seconds(k->t0) > next_look) look(k), next_look += step;
        if (seconds(k->t0) > next_death) death(k), next_death += every;
        if ((k->silent = clock_ns() - word > (uint64_t)(60e9 * programs_patience()) + away)) break;
    }
    k->ran = seconds(k->t0) / 60;
    uint64_t end = clock_ns() + (uint64_t)(30e9 * programs_patience());
    while (desk_open_jobs(k->d) && clock_ns() < end) desk_tick(k->d, 20, 0);
}

static int verdict(soak *k, double minutes, bool clean, uint64_t seed)
{
    const desk_count *c = desk_counts(k->d);
    bool answers = !c->lost && !c->twice && !c->changed && !c->failed && !desk_open_jobs(k->d) && !k->silent;
    bool plain = programs_patience() <= 1;      /* a sanitizer keeps freed memory: only its silence counts */
    bool flat = judge(k, minutes * 60) || !plain || minutes < 20;
    printf("SOAK seed %" PRIu64 ": %.2f minutes, %" PRIu64 " jobs, %" PRIu64 " tokens, %" PRIu64 " cancelled, %u deaths: lost %" PRIu64 ", twice %" PRIu64
           ", changed %" PRIu64 ", memory %s%s%s: %s\n", seed, k->ran, c->over, c->tokens, c->cancelled, k->deaths, c->lost, c->twice, c->changed + c->failed,
           !plain || minutes < 20 ? "not judged in this build or so short a time" : flat ? "flat" : "GROWS", clean ? "" : ", something stayed or a sanitizer spoke", k->silent ? ", then no word for a minute" : "",
           answers && flat && clean ? "good" : "BAD");
    return answers && flat && clean ? 0 : 1;
}

int main(int argc, char **argv)
{
    static soak k;
    const char *m = getenv("MINUTES"), *seed = getenv("SEED");
    double minutes = m && *m ? atof(m) : 30;
    if (argc != 2) return fprintf(stderr, "soak FILE.csv\n"), 2;
    if (seed && *seed) setenv("TEST_SEED", seed, 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    char *model = strdup(support_root("models/sluice-tiny-aux-Q8_0.gguf"));
    if (!stand_begin(&k.s, model, true, false)) return printf("SOAK: the rig does not start\n"), 2;
    uint64_t s = support_seed();
    work_answer *want = undisturbed(&k, s);
    if (!want || !stand_up(&k.s, 0, NULL)) return stand_print_log(&k.s), printf("SOAK: the undisturbed run fails\n"), 2;
    k.d = desk_open(k.s.dir, s, WINDOW, true, want, JOBS);
    desk_connect(k.d);
    run(&k, minutes);
    if (!stand_alive(&k.s) || desk_open_jobs(k.d)) desk_print(k.d), stand_print_log(&k.s);
    bool clean = stand_down(&k.s);
    stand_end(&k.s);
    text log = { 0 };
    char path[200];
    snprintf(path, sizeof path, "%s/log", k.s.dir);
    text_read_file(&log, path, 1 << 28, NULL);
    if (log.len && sanitizer_words(log.ptr)) clean = false, stand_print_log(&k.s);
    text_free(&log);
    write_csv(&k, argv[1]);
    int rc = verdict(&k, minutes, clean, s);
    desk_close(&k.d);
    for (uint32_t i = 0; i < JOBS; i++) work_free(&want[i]);
    free(want);
    free(k.all.at);
    free(model);
    return rc;
}
