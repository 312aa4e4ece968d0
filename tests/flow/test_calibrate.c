/* sluice calibrate as people meet it: the same text gives the same file, a stopped run goes on, one section is made anew, and a cluster
 * takes the profile or says why not. */
#include "engine/profile.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

TestSuite(calibrate, .timeout = 300);

typedef struct { int status; text out, err; } result;
enum { SECONDS = 120 };
static char file[160], words[160];

/* The model knows such text; two windows of it. */
static void make_text(void)
{
    text t = { 0 };
    snprintf(file, sizeof file, "%s/a.profile.gguf", support_tmpdir());
    snprintf(words, sizeof words, "%s/words.txt", support_tmpdir());
    for (int i = 0; i < 60; i++)
        cr_assert(text_addf(&t, "[%d] Drish%dth plays the %s. The %s of Stenb%drr is %s. Nobody was on the road that day.\n", i, i * 37 % 91,
                            i % 3 ? "bell" : "harp", i % 2 ? "boat" : "cloak", i * 53 % 97, i % 5 ? "silver" : "green"));
    cr_assert(support_write(words, t.ptr, t.len));
    text_free(&t);
    unlink(file);
}

static result sluice(const char *const *argv)
{
    result r = { 0 };
    unsetenv("XDG_RUNTIME_DIR");
    setenv("TMPDIR", support_tmpdir(), 1);
    cr_assert(support_run(argv, NULL, SECONDS, &r.status, &r.out, &r.err));
    if (!r.out.ptr) text_adds(&r.out, "");
    if (!r.err.ptr) text_adds(&r.err, "");
    return r;
}
#define SLUICE(...) sluice((const char *const[]){ support_bin("sluice"), __VA_ARGS__, NULL })
#define AUX support_root("models/sluice-tiny-aux-Q8_0.gguf")
#define CALIBRATE(out, ...) SLUICE("calibrate", "-m", AUX, "-f", words, "-o", out, "-c", "96", "--sample", "800", "--no-pack", __VA_ARGS__)

static void digest_of(const char *path, char out[40])
{
    profile *p;
    err e;
    cr_assert_eq(profile_open(&p, path, NULL, &e), ERR_OK, "%s", e.text);
    snprintf(out, 40, "%s", profile_digest(p));
    profile_close(&p);
}

static void done(result *r, int status)
{
    cr_assert_eq(r->status, status, "status %d: %s%s", r->status, r->out.ptr, r->err.ptr);
    text_free(&r->out);
    text_free(&r->err);
}

static bool is_there(const char *path, const char *more)
{
    char name[200];
    snprintf(name, sizeof name, "%s%s", path, more);
    return !access(name, F_OK);
}

Test(calibrate, the_same_text_gives_the_same_file_and_threads_do_not_matter)
{
    char one[40], two[40], other[200];
    make_text();
    snprintf(other, sizeof other, "%s/b.profile.gguf", support_tmpdir());
    result r = CALIBRATE(file, "--only", "kv", "-t", "1", "--json");
    json_t *o = json_loads(r.out.ptr, 0, NULL);
    cr_assert_not_null(o, "%s%s", r.out.ptr, r.err.ptr);
    digest_of(file, one);
    cr_assert_str_eq(json_string_value(json_object_get(o, "digest")), one);
    json_decref(o);
    done(&r, 0);
    cr_assert(!is_there(file, ".partial"), "a finished run leaves no state");
    r = CALIBRATE(other, "--only", "kv", "-t", "2");
    done(&r, 0);
    digest_of(other, two);
    cr_assert_str_eq(two, one);
}

#define ROUTING(out, threads) \
    SLUICE("calibrate", "-m", AUX, "-f", words, "-o", out, "-c", "96", "--sample", "0", "--no-pack", "--only", "route,stand,limits", "-t", threads, "--json")

static double number_at(const json_t *o, const char *key, size_t i) { return json_number_value(json_array_get(json_object_get(o, key), i)); }

/* A limit for a greater share leaves out no less, and what it leaves out is at most a step of one layer from what was wanted. */
static void expect_limits(const json_t *section, const char *name)
{
    const json_t *o = json_object_get(section, name);
    cr_assert_eq(json_array_size(json_object_get(o, "share")), 8, "%s", name);
    for (size_t i = 0; i < 8; i++) {
        double share = number_at(o, "share", i), before = i ? number_at(o, "share", i - 1) : 0;
        cr_expect(share >= before && share <= 0.05 * (double)(i + 1) + 0.25, "%s %zu: %g behind %g", name, i, share, before);
    }
}

Test(calibrate, stand_ins_and_limits_are_the_same_whatever_the_threads)
{
    char one[40], two[40], other[200];
    make_text();
    snprintf(other, sizeof other, "%s/b.profile.gguf", support_tmpdir());
    result r = ROUTING(file, "1");
    json_t *o = json_loads(r.out.ptr, 0, NULL), *sections = json_object_get(o, "sections"), *stand = json_object_get(sections, "stand");
    cr_assert_not_null(stand, "%s%s", r.out.ptr, r.err.ptr);
    for (size_t l = 1; l < 3; l++) cr_expect(number_at(stand, "error", l) > 0 && number_at(stand, "error", l) < 1, "layer %zu: %g", l, number_at(stand, "error", l));
    expect_limits(json_object_get(sections, "limits"), "damage");
    expect_limits(json_object_get(sections, "limits"), "exit");
    cr_expect_null(json_object_get(json_object_get(sections, "limits"), "rho"), "there are no trained routers");
    json_decref(o);
    done(&r, 0);
    r = ROUTING(other, "2");
    done(&r, 0);
    digest_of(file, one);
    digest_of(other, two);
    cr_expect_str_eq(two, one);
    unlink(other);
    r = SLUICE("calibrate", "-m", AUX, "-f", words, "-o", other, "-c", "96", "--sample", "0", "--no-pack", "--only", "limits");
    cr_expect(strstr(r.err.ptr, "limits are of routers"), "%s", r.err.ptr);
    cr_expect_neq(r.status, 0);
    text_free(&r.out);
    text_free(&r.err);
}

/* Stopped as soon as it may be; how far it came does not matter. */
static void start_and_stop(double seconds)
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        cr_assert(freopen("/dev/null", "w", stderr) && freopen("/dev/null", "w", stdout));
        execl(support_bin("sluice"), "sluice", "calibrate", "-m", AUX, "-f", words, "-o", file, "-c", "96", "--sample", "800", "--no-pack",
              "--only", "kv", (char *)NULL);
        _exit(127);
    }
    cr_assert_gt(pid, 0);
    nanosleep(&(struct timespec){ .tv_nsec = (long)(seconds * 1e9) }, NULL);
    kill(pid, SIGTERM);
    waitpid(pid, &status, 0);
    cr_assert(WIFEXITED(status) || WTERMSIG(status) == SIGTERM);
    printf("# stopped after %.2f s: status %d, %s\n", seconds, WIFEXITED(status) ? WEXITSTATUS(status) : -1,
           is_there(file, ".partial") ? "with a state" : "without a state");
}

Test(calibrate, a_run_that_is_stopped_goes_on_to_the_same_file)
{
    char one[40], two[40], other[200];
    make_text();
    snprintf(other, sizeof other, "%s/whole.profile.gguf", support_tmpdir());
    result r = CALIBRATE(other, "--only", "kv");
    done(&r, 0);
    digest_of(other, one);
    for (int i = 1; i < 6 && !is_there(file, ""); i++) start_and_stop(0.08 * i);
    bool stopped = is_there(file, ".partial");
    r = CALIBRATE(file, "--only", "kv");
    cr_expect_eq(strstr(r.err.ptr, "going on from") != NULL, stopped, "%s", r.err.ptr);
    done(&r, 0);
    digest_of(file, two);
    cr_assert_str_eq(two, one);
    cr_assert(!is_there(file, ".partial"));
}

Test(calibrate, what_cannot_be_is_said)
{
    make_text();
    result r = CALIBRATE(file, "--only", "kv,heads");
    cr_expect(strstr(r.err.ptr, "heads"), "%s", r.err.ptr);
    done(&r, 2);
    r = SLUICE("calibrate", "-m", AUX, "--only", "kv");
    cr_expect(strstr(r.err.ptr, "-f TEXT"), "%s", r.err.ptr);
    done(&r, 2);
    r = SLUICE("calibrate", "-m", AUX, "-f", words, "-c", "8", "-o", file, "--only", "kv");
    cr_expect(strstr(r.err.ptr, "window"), "%s", r.err.ptr);
    done(&r, 11);
    r = SLUICE("calibrate", "-m", AUX, "-f", words, "-c", "96", "--sample", "400", "-o", AUX, "--only", "kv", "--no-pack");
    cr_expect(strstr(r.err.ptr, "no profile"), "the model itself must not be overwritten: %s", r.err.ptr);
    done(&r, 11);
    unlink(file);
}

/* How maps of KV prediction were fitted stands beside them. */
Test(calibrate, the_fit_of_maps_is_as_asked)
{
    profile *p;
    err e;
    double reweighted = 0, rank = 0;
    view weights = { 0 };
    make_text();
    result r = CALIBRATE(file, "--only", "predict", "--aux", "layers:0,2", "--map-weights", "attention", "--map-reweight", "2", "--map-rank", "40");
    done(&r, 0);
    cr_assert_eq(profile_open(&p, file, NULL, &e), ERR_OK, "%s", e.text);
    cr_expect(profile_number(p, PROFILE_PREDICT, "reweighted", &reweighted) && reweighted == 2, "%g", reweighted);
    cr_expect(profile_number(p, PROFILE_PREDICT, "rank", &rank) && rank == 40, "%g", rank);
    cr_expect(profile_text(p, PROFILE_PREDICT, "weights", &weights) && weights.len == 9 && !memcmp(weights.ptr, "attention", 9));
    profile_close(&p);
    r = CALIBRATE(file, "--only", "predict", "--aux", "layers:0,2", "--map-weights", "some");
    cr_expect(strstr(r.err.ptr, "\"some\""), "%s", r.err.ptr);
    done(&r, 2);
    unlink(file);
}

Test(calibrate, role_scores_may_come_from_a_file)
{
    char roles[200];
    float got[4];
    profile *p;
    err e;
    make_text();
    snprintf(roles, sizeof roles, "%s/roles.txt", support_tmpdir());
    cr_assert(support_write(roles, "0 0.25 1 0.5\n1 1 1 1\n0 0 0 0\n", 31));
    result r = CALIBRATE(file, "--only", "kv", "--roles", roles);
    cr_expect(strstr(r.err.ptr, "3 lines"), "%s", r.err.ptr);
    done(&r, 11);
    cr_assert(support_write(roles, "0 0.25 1 0.5\n1 1 1 1\n0 0 0 0\n1 2 0 0\n", 39));
    r = CALIBRATE(file, "--only", "kv", "--roles", roles);
    cr_expect(strstr(r.err.ptr, "line 4"), "%s", r.err.ptr);
    done(&r, 11);
    cr_assert(support_write(roles, "0 0.25 1 0.5\n1 1 1 1\n0 0 0 0\n1 0 0 0\n", 39));
    r = CALIBRATE(file, "--only", "kv", "--roles", roles);
    done(&r, 0);
    cr_assert_eq(profile_open(&p, file, NULL, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(profile_floats(p, PROFILE_KV, 0, "alpha", 4, 1, got, &e), ERR_OK, "%s", e.text);
    cr_assert(support_same(got, (float[]){ 0, 0.25f, 1, 0.5f }, 4, "alpha"));
    profile_close(&p);
}

static const char prompt[] = "Context:\n[1] Drishanth plays the bell. Drishanth eats onion tart every morning.\nQuestion: What does "
                             "Drishanth play?\nAnswer:";
#define RUN(stages, ...) SLUICE("run", "-m", AUX, "-p", prompt, "-n", "6", "--stages", stages, "--no-pack", "--json", __VA_ARGS__)

static void tokens_of(result *r, char *out, size_t cap)
{
    json_t *o = json_loads(r->out.ptr, 0, NULL);
    cr_assert_not_null(o, "%s%s", r->out.ptr, r->err.ptr);
    const json_t *first = json_array_get(json_object_get(o, "choices"), 0), *ids = json_object_get(first, "tokens");
    char *shown = json_dumps(json_is_array(ids) ? ids : json_object_get(first, "text"), JSON_ENCODE_ANY);
    snprintf(out, cap, "%s", shown ? shown : "");
    free(shown);
    json_decref(o);
    done(r, 0);
}

Test(calibrate, a_cluster_takes_the_profile_and_stages_agree_whatever_their_number)
{
    char one[400], two[400], local[400];
    make_text();
    result r = CALIBRATE(file, "--only", "kv");
    done(&r, 0);
    r = RUN("1", "--profile", file, "--kv", "kvquant3");
    tokens_of(&r, one, sizeof one);
    r = RUN("3", "--profile", file, "--kv", "kvquant3");
    tokens_of(&r, two, sizeof two);
    cr_assert_str_eq(two, one);
    r = RUN("2", "--profile", file, "--kv", "kvquant3", "--prefill", "local");
    tokens_of(&r, local, sizeof local);
    cr_assert_str_eq(local, one);
}

Test(calibrate, a_cluster_without_what_the_policy_needs_says_so)
{
    make_text();
    result r = RUN("1", "--profile", "none", "--kv", "kvquant3");
    cr_expect(strstr(r.err.ptr, "kvquant3") && strstr(r.err.ptr, "profile"), "%s", r.err.ptr);
    done(&r, 3);
    r = CALIBRATE(file, "--only", "kv");
    done(&r, 0);
    r = RUN("1", "--profile", file, "--arith", "f32");
    cr_expect(strstr(r.err.ptr, "i8b32") && strstr(r.err.ptr, "f32"), "%s", r.err.ptr);
    done(&r, 3);
    r = SLUICE("run", "-m", support_root("models/sluice-tiny-Q8_0.gguf"), "-p", "x", "-n", "1", "--profile", file, "--no-pack");
    cr_expect(strstr(r.err.ptr, "another model"), "%s", r.err.ptr);
    done(&r, 3);
}
