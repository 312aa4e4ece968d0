#include "tests/faults/stand.h"
#include "core/clock.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DISK "size=96m"         /* room for the journal of a long run */

/* ---- surroundings -------------------------------------------------------------------------------------------------- */

/* A file system for the journal that nobody else sees. false: not allowed here. */
static bool own_disk(stand *s)
{
    if (mkdir(s->fs, 0700) || unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return false;
    return !mount("none", s->fs, "tmpfs", 0, DISK);
}

static bool share_page(stand *s, char path[static 128])
{
    snprintf(path, 128, "%s", programs_file("page"));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *s->o)) return false;
    s->o = mmap(NULL, sizeof *s->o, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return s->o != MAP_FAILED;
}

/* A sanitizer's library must come before ours. */
static void preload(text *out)
{
    text maps = { 0 };
    text_read_file(&maps, "/proc/self/maps", 1 << 22, NULL);
    static const char *const libs[] = { "/libasan.so", "/libtsan.so" };
    for (size_t i = 0; i < 2; i++) {
        const char *at = maps.len ? strstr(maps.ptr, libs[i]) : NULL, *from = at;
        while (from && from > maps.ptr && from[-1] != ' ') from--;
        if (at) text_addf(out, "%.*s:", (int)strcspn(from, "\n"), from);
    }
    text_adds(out, support_bin("tests/faults/shim.so"));
    text_free(&maps);
}

static bool start_proxy(stand *s, const char *page)
{
    snprintf(s->proxy_at, sizeof s->proxy_at, "%s", programs_file("proxy"));
    fflush(NULL);
    s->proxy = fork();
    if (!s->proxy) {
        execl(support_bin("tests/faults/proxy"), "proxy", s->proxy_at, page, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 500 && access(s->proxy_at, F_OK); i++) usleep(10000);
    text words = { 0 };
    preload(&words);
    setenv("SLUICE_FAULT_PAGE", page, 1);
    setenv("SLUICE_FAULT_PROXY", s->proxy_at, 1);
    setenv("LD_PRELOAD", words.ptr, 1);
    text_free(&words);
    return s->proxy > 0 && !access(s->proxy_at, F_OK);
}

bool stand_begin(stand *s, const char *model, bool rag, bool proxied)
{
    char page[128];
    *s = (stand){ .model = model, .rag = rag, .keep = proxied ? "1000000" : "500" };
    programs_begin();
    snprintf(s->dir, sizeof s->dir, "%s/c", programs_place());
    snprintf(s->fs, sizeof s->fs, "%s", programs_file("disk"));
    snprintf(s->log, sizeof s->log, "%s", programs_file("log"));
    s->mounted = own_disk(s);
    if (s->mounted) snprintf(s->journal, sizeof s->journal, "%s/journal.db", s->fs);
    else snprintf(s->journal, sizeof s->journal, "%s", programs_file("journal.db"));
    return share_page(s, page) && (!proxied || start_proxy(s, page));
}

void stand_end(stand *s)
{
    int how;
    if (s->proxy > 0) kill(s->proxy, SIGTERM), waitpid(s->proxy, &how, 0);
    unsetenv("LD_PRELOAD");
    if (s->mounted) umount2(s->fs, MNT_DETACH);
}

/* ---- the cluster --------------------------------------------------------------------------------------------------- */

/* The log of the one before would be overwritten: its words are kept. */
static void keep_log(stand *s)
{
    char path[200];
    text t = { 0 };
    snprintf(path, sizeof path, "%s/log", s->dir);
    FILE *f = fopen(s->log, "ae");
    if (f && !text_read_file(&t, path, 1 << 28, NULL) && t.len) fwrite(t.ptr, 1, t.len, f);
    if (f) fclose(f);
    text_free(&t);
    unlink(path);
}

bool stand_up(stand *s, int want, text *why)
{
    const char *argv[48], *patience = getenv("STAGE_TIMEOUT"); /* a machine with much else to do is not silent, it is slow */
    size_t n = 0;
    if (!patience || !*patience) patience = "2";
    if (s->time_offset) {
        const char *const ns[] = { "unshare", "--time", "--monotonic", s->time_offset, "--boottime", s->time_offset };
        for (size_t i = 0; i < 6; i++) argv[n++] = ns[i];
    }
    const char *const up[] = { support_bin("sluice"), "up", "--dir", s->dir, "--json", "-m", s->model, "--ctx", "1024", "--stages", "3", "--journal", s->journal,
                               "--stage-timeout", patience, "--crash-loop", "0", "--keep-jobs", s->keep, "--start-timeout", "120" };
    for (size_t i = 0; i < sizeof up / sizeof *up; i++) argv[n++] = up[i];
    if (s->rag) argv[n++] = "--rag", argv[n++] = support_root("configs/demo/corpus");
    argv[n] = NULL;
    keep_log(s);
    if (s->o) atomic_store(&s->o->loading, 1);
    ran r = program_run(want, 150, NULL, argv);
    bool ok = want ? r.status > 0 && r.status < 128 : r.status == 0;
    if (why) text_adds(why, ran_errs(&r));
    if (!ok || want) return ran_free(&r), ok;
    json_t *o = ran_json(&r);
    s->coordinator = (pid_t)json_number_at(o, "pid");
    json_decref(o);
    s->ups++;
    return s->coordinator > 1;
}

bool stand_alive(const stand *s) { return s->coordinator > 1 && !kill(s->coordinator, 0); }

static bool is_named(pid_t pid, const char *name)
{
    char path[64], want[64];
    text words = { 0 };
    bool yes = false;
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    snprintf(want, sizeof want, "--name=%s", name);
    if (!text_read_file(&words, path, 1 << 16, NULL))
        for (size_t i = 0; i < words.len && !yes; i += strlen(words.ptr + i) + 1) yes = !strcmp(words.ptr + i, want);
    text_free(&words);
    return yes;
}

pid_t stand_pid(const stand *s, const char *name)
{
    char path[96];
    text list = { 0 };
    pid_t found = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)s->coordinator, (int)s->coordinator);
    text_read_file(&list, path, 1 << 16, NULL);
    for (char *at = list.len ? list.ptr : NULL, *end; at && *at && !found; at = end) {
        pid_t pid = (pid_t)strtol(at, &end, 10);
        if (end == at) break;
        if (is_named(pid, name)) found = pid;
    }
    text_free(&list);
    return found;
}

bool stand_buried(stand *s)
{
    uint64_t end = clock_ns() + (uint64_t)(20e9 * programs_patience());
    for (;;) {
        text who = { 0 };
        programs_alive(&who);
        bool left = who.len && (strstr(who.ptr, "sluice-stage") || strstr(who.ptr, "sluice-rag") || strstr(who.ptr, "sluice-coordinator"));
        left = left || stand_alive(s); /* one that dies has no words any more, but its lock still */
        if (left && clock_ns() > end) printf("# left behind:\n%s", who.ptr);
        text_free(&who);
        if (!left) return s->coordinator = 0, true;
        if (clock_ns() > end) return false;
        usleep(5000);
    }
}

bool stand_down(stand *s)
{
    ran r = program_run(0, 120, NULL, SLUICE("down", "--dir", s->dir));
    bool ok = r.status == 0;
    ran_free(&r);
    return stand_buried(s) && ok;
}

/* ---- the disk ------------------------------------------------------------------------------------------------------ */

static const char *filler(const stand *s)
{
    static char path[160];
    snprintf(path, sizeof path, "%s/filler", s->fs);
    return path;
}

bool stand_fill_disk(const stand *s)
{
    static char block[1 << 16];
    int fd = open(filler(s), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    size_t n = sizeof block;
    if (fd < 0) return false;
    while (n) {
        ssize_t w = write(fd, block, n);
        if (w < 0 && errno != ENOSPC) break;
        if (w <= 0) n /= 2;
    }
    close(fd);
    return n == 0;
}

void stand_free_disk(const stand *s) { unlink(filler(s)); }

bool stand_journal_read_only(const stand *s, bool read_only)
{
    uint64_t end = clock_ns() + 5000000000u;
    int rc;
    while ((rc = mount("none", s->fs, NULL, MS_REMOUNT | (read_only ? MS_RDONLY : 0), DISK)) && errno == EBUSY && clock_ns() < end)
        usleep(10000); /* the kernel still closes files of the dead */
    if (rc) printf("# the journal's disk cannot be made %s: %s\n", read_only ? "read-only" : "writable", strerror(errno));
    return !rc;
}

void stand_print_log(const stand *s)
{
    char path[200];
    text t = { 0 };
    snprintf(path, sizeof path, "%s/log", s->dir);
    text_read_file(&t, s->log, 1 << 28, NULL);
    text_read_file(&t, path, 1 << 28, NULL);
    printf("# end of the log:\n%s\n", t.len > 3000 ? t.ptr + t.len - 3000 : t.len ? t.ptr : "");
    fflush(stdout);
    text_free(&t);
}
