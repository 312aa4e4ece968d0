#include "tests/support_programs.h"
#include "core/clock.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char mark[64], place[96];
static pid_t owner;

static void nap(void) { nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL); }

double programs_patience(void)
{
#if defined(__SANITIZE_THREAD__)
    return 15;
#elif defined(__SANITIZE_ADDRESS__)
    return 6;
#else
    return 1;
#endif
}

static uint64_t deadline(double seconds) { return clock_ns() + (uint64_t)(seconds * programs_patience() * 1e9); }

/* ---- the place and the mark */
static void kill_rest(void);

void programs_begin(void)
{
    const char *folder = support_tmpdir();
    if (!folder) abort();
    snprintf(mark, sizeof mark, "SLUICE_TEST_MARK=%d.%llu", (int)getpid(), (unsigned long long)clock_ns());
    snprintf(place, sizeof place, "%s/run", folder);
    if (mkdir(place, 0700) && errno != EEXIST) abort();
    setenv("SLUICE_TEST_MARK", strchr(mark, '=') + 1, 1);
    setenv("XDG_RUNTIME_DIR", place, 1);
    setenv("TMPDIR", place, 1);
    if (owner != getpid()) atexit(kill_rest);
    owner = getpid();
}

const char *programs_place(void) { return place; }

const char *programs_file(const char *name)
{
    static char slot[8][128];
    static unsigned next;
    char *s = slot[next++ % 8];
    if (snprintf(s, sizeof slot[0], "%s/%s", support_tmpdir(), name) >= (int)sizeof slot[0]) abort();
    return s;
}

static bool has_mark(pid_t pid)
{
    char path[64];
    text env = { 0 };
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    bool yes = !text_read_file(&env, path, 1 << 20, NULL) && env.len && memmem(env.ptr, env.len, mark, strlen(mark) + 1);
    text_free(&env);
    return yes;
}

static void add_words(text *who, pid_t pid)
{
    char path[64];
    text words = { 0 };
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    text_read_file(&words, path, 1 << 16, NULL);
    for (size_t i = 0; i + 1 < words.len; i++)
        if (!words.ptr[i]) words.ptr[i] = ' ';
    text_addf(who, "%d %s\n", (int)pid, words.len ? words.ptr : "?");
    text_free(&words);
}

static uint32_t each_marked(text *who, int sig)
{
    uint32_t n = 0;
    struct dirent *f;
    DIR *d = opendir("/proc");
    while (d && (f = readdir(d))) {
        pid_t pid = (pid_t)atoi(f->d_name);
        if (pid <= 1 || pid == getpid() || !has_mark(pid)) continue;
        n++;
        if (who) add_words(who, pid);
        if (sig) kill(pid, sig);
    }
    if (d) closedir(d);
    return n;
}

uint32_t programs_alive(text *who) { return each_marked(who, 0); }

static void kill_rest(void)
{
    if (getpid() != owner) return;
    for (int i = 0; i < 50 && each_marked(NULL, SIGKILL); i++) nap();
}

static uint32_t list_place(text *what)
{
    uint32_t n = 0;
    struct dirent *f;
    DIR *d = opendir(place);
    while (d && (f = readdir(d))) {
        if (!strcmp(f->d_name, ".") || !strcmp(f->d_name, "..")) continue;
        n++;
        if (what) text_addf(what, "%s/%s\n", place, f->d_name);
    }
    if (d) closedir(d);
    return n;
}

static bool gone(double seconds, bool files)
{
    uint64_t end = deadline(seconds);
    while (programs_alive(NULL) || (files && list_place(NULL))) {
        if (clock_ns() > end) {
            text left = { 0 };
            programs_alive(&left);
            if (files) list_place(&left);
            printf("# left behind:\n%s", left.len ? left.ptr : "(gone just now)\n");
            fflush(stdout);
            text_free(&left);
            return false;
        }
        nap();
    }
    return true;
}

bool programs_gone(double seconds) { return gone(seconds, true); }
bool programs_ended(double seconds) { return gone(seconds, false); }

/* ---- one program */
const char *sanitizer_words(const char *s)
{
    static const char *const words[] = { "ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error: ", "WARNING: ThreadSanitizer",
                                         "UndefinedBehaviorSanitizer" };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const char *at = strstr(s, words[i]);
        if (at) return at;
    }
    return NULL;
}

static void say(const char *const argv[], int status, int want, const char *errs)
{
    printf("#");
    for (int i = 0; argv && argv[i]; i++) printf(" %.100s", argv[i]);
    printf(": status %d instead of %d, stderr:\n%s\n", status, want, errs);
    fflush(stdout);
}

const char *ran_out(const ran *r) { return r->out.len ? r->out.ptr : ""; }
const char *ran_errs(const ran *r) { return r->errs.len ? r->errs.ptr : ""; }

ran program_run(int want, double seconds, const char *in, const char *const argv[])
{
    ran r = { .status = -1 };
    support_run(argv, in, seconds * programs_patience(), &r.status, &r.out, &r.errs);
    if (sanitizer_words(ran_errs(&r))) r.status = PROGRAM_INSANE;
    if (r.status == PROGRAM_INSANE || (want >= 0 && r.status != want)) say(argv, r.status, want, ran_errs(&r));
    return r;
}

void ran_free(ran *r)
{
    text_free(&r->out);
    text_free(&r->errs);
    *r = (ran){ 0 };
}

json_t *ran_json(ran *r)
{
    json_error_t e;
    json_t *o = json_loadb(ran_out(r), r->out.len, JSON_DECODE_ANY, &e);
    if (!o) printf("# not JSON (%s): %.300s\n", e.text, ran_out(r)), fflush(stdout);
    ran_free(r);
    return o;
}

static _Noreturn void child(const program *p, const char *const argv[])
{
    int in = open("/dev/null", O_RDONLY | O_CLOEXEC), out = open(p->out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int errs = open(p->errs, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_APPEND, 0600);
    setpgid(0, 0);
    signal(SIGPIPE, SIG_DFL);
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(errs, 2) < 0) _exit(126);
    execvp(argv[0], (char *const *)argv);
    _exit(127);
}

bool program_start(program *p, const char *name, const char *const argv[])
{
    *p = (program){ .status = SUPPORT_TIMEOUT };
    snprintf(p->out, sizeof p->out, "%s/%s.out", support_tmpdir(), name);
    snprintf(p->errs, sizeof p->errs, "%s/%s.err", support_tmpdir(), name);
    unlink(p->out);
    fflush(NULL);
    p->pid = fork();
    if (p->pid == 0) child(p, argv);
    return p->pid > 0;
}

text program_errs(const program *p)
{
    text t = { 0 };
    text_read_file(&t, p->errs, 1 << 24, NULL);
    if (!t.len) text_adds(&t, "");
    return t;
}

static void take_status(program *p, int how)
{
    p->over = true;
    p->status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
    text errs = program_errs(p);
    if (sanitizer_words(errs.ptr)) p->status = PROGRAM_INSANE;
    text_free(&errs);
}

int program_wait(program *p, int want, double seconds)
{
    uint64_t end = deadline(seconds);
    int how;
    while (!p->over) {
        if (waitpid(p->pid, &how, WNOHANG) == p->pid) take_status(p, how);
        else if (clock_ns() > end) break;
        else nap();
    }
    text errs = program_errs(p);
    if (want >= 0 && p->status != want) say(NULL, p->status, want, errs.ptr);
    text_free(&errs);
    return p->status;
}

bool program_has_output(const program *p, double seconds)
{
    uint64_t end = deadline(seconds);
    struct stat st;
    while (stat(p->out, &st) || !st.st_size) {
        if (clock_ns() > end) return false;
        nap();
    }
    return true;
}

/* ---- clusters */
bool standing_up(standing *c, const char *name, const char *const options[])
{
    const char *argv[48] = { support_bin("sluice"), "up", "--dir", c->dir, "--json" };
    size_t n = 5;
    *c = (standing){ 0 };
    snprintf(c->dir, sizeof c->dir, "%s/%s", place, name);
    snprintf(c->log, sizeof c->log, "%s/%s.log", support_tmpdir(), name);
    for (size_t i = 0; options[i] && n < 47; i++) argv[n++] = options[i];
    ran r = program_run(0, 60, NULL, argv);
    if (r.status) return ran_free(&r), false;
    char log[160];
    snprintf(log, sizeof log, "%s/log", c->dir);
    unlink(c->log);
    bool ok = !link(log, c->log);      /* `down` takes the log away before we have read its end */
    c->status = ran_json(&r);
    c->pid = (pid_t)json_number_at(c->status, "pid");
    return ok && c->status && c->pid > 0;
}

json_t *standing_status(const standing *c)
{
    ran r = program_run(0, 20, NULL, SLUICE("status", "--dir", c->dir, "--json"));
    return r.status ? (ran_free(&r), NULL) : ran_json(&r);
}

int64_t standing_number(const standing *c, const char *path)
{
    json_t *o = standing_status(c);
    int64_t n = json_number_at(o, path);
    json_decref(o);
    return n;
}

void standing_print_log(const standing *c)
{
    text log = { 0 };
    text_read_file(&log, c->log, 1 << 26, NULL);
    printf("# end of the log of %s:\n%s\n", c->dir, log.len > 3000 ? log.ptr + log.len - 3000 : log.len ? log.ptr : "");
    fflush(stdout);
    text_free(&log);
}

static bool log_is_clean(const standing *c)
{
    text log = { 0 };
    text_read_file(&log, c->log, 1 << 24, NULL);
    bool clean = !log.len || !sanitizer_words(log.ptr);
    if (!clean) printf("# log of %s:\n%s\n", c->dir, log.ptr), fflush(stdout);
    text_free(&log);
    return clean;
}

/* The journal of jobs stays for the next `up` in a folder that the user named; so does the folder. */
bool run_dir_clean(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *f;
    bool clean = true;
    while (d && (f = readdir(d))) {
        if (!strcmp(f->d_name, ".") || !strcmp(f->d_name, "..")) continue;
        if (!strncmp(f->d_name, "journal.db", 10)) unlinkat(dirfd(d), f->d_name, 0);
        else printf("# left in %s: %s\n", dir, f->d_name), clean = false;
    }
    if (d) closedir(d);
    fflush(stdout);
    return clean && !rmdir(dir);
}

bool standing_down(standing *c)
{
    ran r = program_run(0, 60, NULL, SLUICE("down", "--dir", c->dir));
    bool ok = r.status == 0 && programs_ended(5) && run_dir_clean(c->dir) && log_is_clean(c);
    ran_free(&r);
    json_decref(c->status);
    c->status = NULL;
    return ok;
}

/* ---- small things */
uint16_t port_free(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof a;
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = s >= 0 && !bind(s, (struct sockaddr *)&a, sizeof a) && !getsockname(s, (struct sockaddr *)&a, &n);
    if (s >= 0) close(s);
    return ok ? ntohs(a.sin_port) : 0;
}

uint64_t process_rss_kb(pid_t pid)
{
    char path[64];
    unsigned long long total = 0, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    if (fscanf(f, "%llu %llu", &total, &resident) != 2) resident = 0;
    fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
}

static const json_t *at(const json_t *o, const char *path)
{
    char words[128], *save = NULL;
    snprintf(words, sizeof words, "%s", path);
    for (char *w = strtok_r(words, ".", &save); w && o; w = strtok_r(NULL, ".", &save))
        o = json_is_array(o) ? json_array_get(o, (size_t)atoi(w)) : json_object_get(o, w);
    return o;
}

int64_t json_number_at(const json_t *o, const char *path)
{
    const json_t *v = at(o, path);
    return json_is_number(v) ? (int64_t)json_number_value(v) : -1;
}

const char *json_string_at(const json_t *o, const char *path)
{
    const char *s = json_string_value(at(o, path));
    return s ? s : "";
}
