/* Hosts that are network namespaces, joined by a bridge over veth pairs: real tcp with keys, links that go down in the middle of a
 * job and come up again, a third host that takes the place of one that cannot be reached. The same bits as one local process. */
#include "core/clock.h"
#include "tests/support_keys.h"
#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SECONDS = 90, HOSTS = 3 };
#define PREFIX "sluicetest-"
#define WORKERS "tcp://10.77.0.1:7711"
#define CLIENTS "tcp://10.77.0.1:7712"

static char model[512], list[160], dir[128], ns[HOSTS][48];   /* host 0: the coordinator's */
static key_owner key[HOSTS], person;
static program up, worker[HOSTS];
static bool made;

/* ---- hosts --------------------------------------------------------------------------------------------------------- */

static bool ip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static bool ip(const char *fmt, ...)
{
    char line[256], *word[32] = { NULL }, *save = NULL;
    size_t n = 0;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    for (char *w = strtok_r(line, " ", &save); w && n < 31; w = strtok_r(NULL, " ", &save)) word[n++] = w;
    ran r = program_run(-1, 20, NULL, (const char *const *)word);
    bool ok = r.status == 0;
    if (!ok) printf("# %s %s %s: %s\n", word[0], word[1] ? word[1] : "", word[2] ? word[2] : "", ran_errs(&r));
    ran_free(&r);
    return ok;
}

/* A run that crashed may have left its hosts. */
static void remove_stale(void)
{
    struct dirent *f;
    DIR *d = opendir("/run/netns");
    while (d && (f = readdir(d))) {
        pid_t pid = strncmp(f->d_name, PREFIX, strlen(PREFIX)) ? 0 : (pid_t)atoi(f->d_name + strlen(PREFIX));
        if (pid > 1 && pid != getpid() && kill(pid, 0) && errno == ESRCH) ip("ip netns del %s", f->d_name);
    }
    if (d) closedir(d);
}

static void remove_hosts(void)
{
    if (!made) return;
    made = false;
    for (int i = HOSTS; i-- > 0;) ip("ip netns del %s", ns[i]);
}

/* Host 0 holds the bridge; host i > 0 hangs on it by the pair (portI, eth0). */
static bool add_host(int i)
{
    if (!ip("ip netns add %s", ns[i]) || !ip("ip -n %s link set lo up", ns[i])) return false;
    if (!i)
        return ip("ip -n %s link add br0 type bridge", ns[0]) && ip("ip -n %s addr add 10.77.0.1/24 dev br0", ns[0]) && ip("ip -n %s link set br0 up", ns[0]);
    return ip("ip -n %s link add port%d type veth peer name eth0 netns %s", ns[0], i, ns[i]) && ip("ip -n %s link set port%d master br0 up", ns[0], i)
           && ip("ip -n %s addr add 10.77.0.%d/24 dev eth0", ns[i], i + 1) && ip("ip -n %s link set eth0 up", ns[i]);
}

static bool add_hosts(void)
{
    made = true;
    atexit(remove_hosts);
    for (int i = 0; i < HOSTS; i++) snprintf(ns[i], sizeof ns[i], PREFIX "%d-%c", (int)getpid(), 'a' + i);
    for (int i = 0; i < HOSTS; i++)
        if (!add_host(i)) return false;
    return true;
}

static void link_of(int i, const char *state) { cr_assert(ip("ip -n %s link set port%d %s", ns[0], i, state)); }

/* argv of a command on host i; static. */
static const char *const *on(int i, const char *const argv[])
{
    static const char *words[64];
    size_t n = 0;
    for (const char *const *w = (const char *const[]){ "ip", "netns", "exec", ns[i], NULL }; *w; w++) words[n++] = *w;
    for (; *argv && n < 63; argv++) words[n++] = *argv;
    words[n] = NULL;
    return words;
}

static void begin(void)
{
    programs_begin();
    snprintf(model, sizeof model, "%s", support_root("models/sluice-tiny-Q8_0.gguf"));
    snprintf(list, sizeof list, "%s/allow", support_tmpdir());
    snprintf(dir, sizeof dir, "%s/hosts", programs_place());
}

static void finish(void)
{
    remove_hosts();
}

TestSuite(namespaces, .init = begin, .fini = finish, .timeout = 900);

/* ---- the cluster --------------------------------------------------------------------------------------------------- */

static json_t *status(void)
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("status", "--dir", dir, "--json"));
    json_t *o = r.status ? (ran_free(&r), NULL) : ran_json(&r);
    cr_assert(o);
    return o;
}

static int64_t number(const char *path)
{
    json_t *o = status();
    int64_t v = json_number_at(o, path);
    json_decref(o);
    return v;
}

static void print_logs(void)
{
    standing c = { 0 };
    snprintf(c.log, sizeof c.log, "%s/log", dir);
    snprintf(c.dir, sizeof c.dir, "%s", dir);
    standing_print_log(&c);
    for (int i = 1; i < HOSTS; i++) {
        text t = worker[i].pid ? program_errs(&worker[i]) : (text){ 0 };
        if (t.len) printf("# worker %d:\n%s\n", i, t.ptr);
        text_free(&t);
    }
    fflush(stdout);
}

/* Who computes stage 1: the number of its host, 0 when it is neither worker. */
static int second_stage(void)
{
    json_t *o = status();
    int host = 0;
    for (int i = 1; i < HOSTS; i++)
        if (worker[i].pid && json_number_at(o, "stages.1.pid") == worker[i].pid) host = i;
    json_decref(o);
    return host;
}

#define UNTIL(cond, what) do { \
    uint64_t end_ = clock_ns() + (uint64_t)(SECONDS * programs_patience() * 1e9); \
    while (!(cond) && clock_ns() < end_) nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL); \
    if (!(cond)) { \
        json_t *o_ = status(); \
        char *s_ = json_dumps(o_, JSON_COMPACT); \
        print_logs(); \
        cr_assert(false, "%s; status %s", what, s_); \
    } \
} while (0)

static void start_worker(int i)
{
    char name[16];
    snprintf(name, sizeof name, "worker-%d", i);
    cr_assert(program_start(&worker[i], name, on(i, SLUICE("worker", "--connect", WORKERS, "-m", model, "--name", name, "--key", key[i].file, "--server-key",
                                                           key[0].pub))));
}

#define STORY "-p", "The old house", "-n", "500", "--ignore-eos", "--temp", "0.9", "--seed", "7", "--logprobs", "2", "--json"

/* Text, tokens and log-probabilities. */
static char *essence(json_t *o)
{
    json_t *e = json_object();
    static const char *const keys[] = { "text", "tokens", "logprobs", "finish_reason" };
    cr_assert(o && *json_string_at(o, "text"));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (json_object_get(o, keys[i])) json_object_set(e, keys[i], json_object_get(o, keys[i]));
    char *s = json_dumps(e, JSON_SORT_KEYS | JSON_COMPACT);
    json_decref(e);
    json_decref(o);
    return s;
}

static char *local_answer(void)
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("run", "-m", model, "--stages", "1", STORY));
    cr_assert_eq(r.status, 0);
    return essence(ran_json(&r));
}

/* From another host, with a person's key. */
#define ASK(i) on(i, SLUICE("submit", "--connect", CLIENTS, "--key", person.file, "--server-key", key[0].key, STORY))

static program ask_from(int i)
{
    program p;
    int64_t rows = number("pump.decode_rows");
    cr_assert(program_start(&p, "ask", ASK(i)));
    UNTIL(number("pump.decode_rows") > rows + 20, "the job does not begin");
    return p;
}

static void answered(program *p, const char *want, const char *what)
{
    cr_assert_eq(program_wait(p, 0, SECONDS), 0, "%s", what);
    char *got = essence(json_load_file(p->out, 0, NULL));
    cr_expect_str_eq(got, want, "%s: other tokens or log-probabilities", what);
    free(got);
}

static void go_up(void)
{
    static const char *const names[HOSTS] = { "coordinator", "b", "c" };
    for (int i = 0; i < HOSTS; i++) key[i] = key_owner_make(names[i]);
    person = key_owner_make("person");
    key_list_write(list, (const key_entry[]){ { "stage", &key[1] }, { "stage", &key[2] }, { "client", &person }, { 0 } });
    cr_assert(program_start(&up, "up", on(0, SLUICE("up", "--dir", dir, "-m", model, "--stages", "1", "--join", "1", "--listen", WORKERS, "--listen-clients",
                                                    CLIENTS, "--key", key[0].file, "--allow", list, "--stage-timeout", "3"))));
    start_worker(1);
    cr_assert_eq(program_wait(&up, 0, SECONDS), 0);
}

static void down(void)
{
    ran r = program_run(0, SECONDS, NULL, SLUICE("down", "--dir", dir));
    cr_assert_eq(r.status, 0);
    ran_free(&r);
    cr_expect(programs_ended(20));
    cr_expect(run_dir_clean(dir));
}

/* The job must still run when it strikes, and a plan must follow; whoever is cut off is not killed. */
static void cut_off(int i, program *p, int heir)
{
    int64_t epoch = number("epoch");
    uint64_t t = clock_ns();
    link_of(i, "down");
    UNTIL(number("epoch") > epoch, "nobody notices that a host is gone");
    UNTIL(second_stage() == heir, "the other host does not take over");
    cr_expect_not(p->over);
    printf("# host %c cut off, host %c took over after %.1f s\n", 'a' + i, 'a' + heir, (double)(clock_ns() - t) / 1e9);
}

static bool has_spare(void)
{
    json_t *o = status();
    bool yes = json_array_size(json_object_get(o, "spares")) > 0;
    json_decref(o);
    return yes;
}

Test(namespaces, hosts_compute_the_local_bits_over_a_partition_and_a_third_host_takes_over)
{
    if (geteuid()) cr_skip_test("network namespaces need root");
    remove_stale();
    if (!add_hosts()) cr_skip_test("no network namespaces here (ip netns)");
    char *want = local_answer();
    go_up();
    cr_expect_eq(second_stage(), 1);
    program p = ask_from(1);
    answered(&p, want, "two hosts");
    start_worker(2);
    UNTIL(has_spare(), "a third host does not join");

    p = ask_from(0);
    cut_off(1, &p, 2);
    answered(&p, want, "a partition");
    link_of(1, "up");
    UNTIL(has_spare(), "the host that was cut off does not come back");
    cr_expect_not(worker[1].over);

    p = ask_from(0);
    cut_off(2, &p, 1);
    answered(&p, want, "a partition of the third host");
    link_of(2, "up");
    UNTIL(has_spare(), "the third host does not come back");

    json_t *o = status();
    cr_expect(json_is_true(json_object_get(json_object_get(o, "trust"), "keys")));
    cr_expect_geq(json_number_at(o, "trust.accepted"), 6);
    cr_expect_eq(json_number_at(o, "trust.unknown"), 0);
    json_decref(o);
    free(want);
    down();
    for (int i = 1; i < HOSTS; i++) cr_expect_eq(program_wait(&worker[i], 0, 10), 0, "worker %d ends well with its cluster", i);
}

/* What the messages say cannot be read on the wire, and nothing listens in the clear. */
Test(namespaces, a_cluster_off_loopback_without_keys_does_not_start)
{
    if (geteuid()) cr_skip_test("network namespaces need root");
    remove_stale();
    if (!add_hosts()) cr_skip_test("no network namespaces here (ip netns)");
    ran r = program_run(3, SECONDS, NULL, on(0, SLUICE("up", "--dir", dir, "-m", model, "--stages", "1", "--listen-clients", CLIENTS)));
    cr_expect_eq(r.status, 3);
    cr_expect(strstr(ran_errs(&r), "refused: " CLIENTS " is not a loopback address and there are no keys"), "%s", ran_errs(&r));
    ran_free(&r);
    cr_assert(program_start(&up, "up", on(0, SLUICE("up", "--dir", dir, "-m", model, "--stages", "1", "--listen-clients", CLIENTS, "--insecure"))));
    cr_assert_eq(program_wait(&up, 0, SECONDS), 0, "--insecure is spelled out");
    r = program_run(3, SECONDS, NULL, on(1, SLUICE("submit", "--connect", CLIENTS, "-n", "4", "-p", "x")));
    cr_expect_eq(r.status, 3, "a client that does not say --insecure sends nothing in the clear");
    ran_free(&r);
    r = program_run(0, SECONDS, NULL, on(1, SLUICE("submit", "--connect", CLIENTS, "-n", "4", "-p", "x", "--insecure")));
    cr_expect_eq(r.status, 0);
    ran_free(&r);
    down();
}
