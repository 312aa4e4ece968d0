/* The workers that this coordinator starts itself: their arguments, when a dead one is started again, what its status says, and what it
 * leaves in the file system. Does not know stages, plans or sessions: what a death means is fleet.c's business. */
#include "coordinator/coordinator.h"
#include "coordinator/spawn.h"
#include "core/clock.h"
#include "core/log.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BACKOFF_NS 50000000u  /* first wait before a dead child is started again; doubles with every death in a row ... */
#define QUICK_NS 1000000000u  /* ... that came so soon after it was ready */
#define CRASH_NS_S 60u        /* --crash-loop deaths of one child within a minute are a crash loop */
#define CRASH_NS (CRASH_NS_S * 1000000000ull)
#define STOP_MS 3000          /* a child gets this long between SIGTERM and SIGKILL */

/* ---- starting -------------------------------------------------------------------------------------------------------- */

/* The i-th of a list with separators; "" when there is none, the only one for every i when there is just one. */
static void nth(const char *list, char sep, uint32_t i, char *out, size_t cap)
{
    const char *at = list ? list : "";
    if (!strchr(at, sep)) i = 0;
    for (; i && at; i--) at = strchr(at, sep) ? strchr(at, sep) + 1 : NULL;
    snprintf(out, cap, "%.*s", at ? (int)strcspn(at, (char[]){ sep, 0 }) : 0, at ? at : "");
}

typedef struct { string_list l; bool ok; } args;
static void arg(args *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void arg(args *a, const char *fmt, ...)
{
    char word[4096];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(word, sizeof word, fmt, ap);
    va_end(ap);
    a->ok = a->ok && n >= 0 && (size_t)n < sizeof word && string_list_add(&a->l, word);
}

static void common_args(coordinator *c, args *a, const member *m)
{
    arg(a, "--connect=%s", link_addr(c->control));
    arg(a, "--name=%s", m->name);
    arg(a, "--cookie=%" PRIu64, (uint64_t)(m - c->member) + 1);
    arg(a, "--die-with-parent");
    if (c->set->log_level) arg(a, "--log-level=%s", c->set->log_level);
    if (c->set->no_sandbox) arg(a, "--no-sandbox");
}

static err_code start_child(coordinator *c, member *m, const char *program, args *a, const char *env, err *e)
{
    char path[4096];
    err_code rc = a->ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory, or an argument of %s is too long", program);
    if (!rc) rc = spawn_find(c->set->bin_dir, program, path, sizeof path, e);
    if (!rc) rc = spawn_child(path, &a->l, env, &m->pid, e);
    string_list_free(&a->l);
    if (!rc) LOG(LOG_INFO, "CHILD-START", "name=%s pid=%d", m->name, (int)m->pid);
    return rc;
}

static err_code start_stage(coordinator *c, member *m, err *e)
{
    const settings *s = c->set;
    uint32_t i = m->slot;
    char bind[256], use[32], env[64];
    nth(s->bind, ';', i, bind, sizeof bind);
    nth(s->stage_isa, ',', i, use, sizeof use);
    snprintf(env, sizeof env, "SLUICE_ISA=%s", use);
    args a = { .ok = true };
    common_args(c, &a, m);
    arg(&a, "--model=%s", gguf_path(c->file));
    arg(&a, "--profile=%s", c->profile ? profile_file(c->profile) : "none");
    arg(&a, "--share=%u/%" PRIu64, i, s->stages);
    arg(&a, "--threads=%" PRIu64, s->threads);
    if (s->no_pack) arg(&a, "--no-pack");
    if (s->pack_dir) arg(&a, "--pack-dir=%s", s->pack_dir);
    arg(&a, "--pack-cap=%" PRIu64, s->pack_cap);
    if (bind[0]) arg(&a, "--bind=%s", bind);
    if (!s->listen) arg(&a, "--data-dir=%s", c->dir);
    else arg(&a, "--address=%s", c->host);
    if (s->listen && hub_has_keys(c->hub)) arg(&a, "--server-key=%s", hub_key(c->hub)); /* its own pair it makes itself */
    if (s->insecure) arg(&a, "--insecure");
    if (s->trace) arg(&a, "--trace=%s.stage-%u", s->trace, i);
    return start_child(c, m, "sluice-stage", &a, use[0] ? env : NULL, e);
}

static err_code start_rag(coordinator *c, member *m, err *e)
{
    args a = { .ok = true };
    common_args(c, &a, m);
    arg(&a, "--rag=%s", c->set->rag);
    arg(&a, "--rag-min-share=%.17g", c->set->rag_min_share);
    return start_child(c, m, "sluice-rag", &a, NULL, e);
}

err_code child_start(coordinator *c, member *m, err *e)
{
    m->t_again = m->progress = 0;
    return m->rag ? start_rag(c, m, e) : start_stage(c, m, e);
}

/* ---- again ----------------------------------------------------------------------------------------------------------- */

void child_again_later(coordinator *c, member *m, const err *why)
{
    uint64_t now = clock_ns();
    uint32_t loop = (uint32_t)c->set->crash_loop;
    uint64_t first = loop && m->deaths + 1 >= loop ? loop == 1 ? now : m->t_died[(m->deaths + 1 - loop) % CRASH_MAX] : 0;
    m->t_died[m->deaths++ % CRASH_MAX] = now;
    if (first && now - first < CRASH_NS) { /* so many deaths in so short a time: starting it again does not help */
        err e = *why;
        err_wrap(&e, "%s died %u times within %u s", m->name, loop, CRASH_NS_S);
        coordinator_fail(c, &e);
        return;
    }
    m->quick = m->t_ready && now - m->t_ready > QUICK_NS ? 0 : m->quick + 1;
    m->t_ready = 0;
    m->t_again = now + (BACKOFF_NS << (m->quick > 7 ? 6 : m->quick ? m->quick - 1 : 0)); /* 0.05 s, 0.1 s, ... 3.2 s */
}

void children_start_due(coordinator *c)
{
    err e;
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].t_again && clock_ns() >= c->member[i].t_again && child_start(c, &c->member[i], &e)) coordinator_fail(c, &e);
}

/* ---- ends ------------------------------------------------------------------------------------------------------------ */

/* A killed child leaves its ipc sockets behind. */
static void unlink_sockets(const coordinator *c, const member *m, pid_t pid)
{
    char path[256];
    for (int i = 0; i < 2; i++) { /* one that died before it said where they are */
        snprintf(path, sizeof path, "%s/%s.%d.%s", c->dir, m->name, (int)pid, i ? "bulk" : "data");
        unlink(path);
    }
    if (!strncmp(m->hello.data_addr, "ipc://", 6)) unlink(m->hello.data_addr + 6);
    if (!strncmp(m->hello.bulk_addr, "ipc://", 6)) unlink(m->hello.bulk_addr + 6);
}

static err_code code_of_status(int status)
{
    for (int c = ERR_OK + 1; WIFEXITED(status) && c < ERR_COUNT; c++)
        if (err_exit_status((err_code)c) == WEXITSTATUS(status)) return (err_code)c;
    return ERR_GONE;
}

void children_reap(coordinator *c)
{
    int status;
    pid_t pid;
    char how[64];
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (uint32_t i = 0; i < c->n_members; i++) {
            member *m = &c->member[i];
            if (m->pid != pid) continue;
            m->pid = 0;
            unlink_sockets(c, m, pid);
            spawn_status_text(status, how, sizeof how);
            err e;
            err_code code = code_of_status(status); /* a child that could not start says why on stderr, and by its status */
            if (code == ERR_GONE) err_set(&e, code, "%s (pid %d) %s", m->name, (int)pid, how);
            else err_set(&e, code, "%s (pid %d) %s: %s (its own message says more)", m->name, (int)pid, how, err_name(code));
            fleet_lost(c, m, &e);
        }
}

void children_stop(coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].pid) spawn_stop(c->member[i].pid, STOP_MS), unlink_sockets(c, &c->member[i], c->member[i].pid);
}
