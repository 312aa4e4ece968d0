/* The look at an adapter file when a job asks for it. It keeps digests only and loads no weights. */
#include "coordinator/adapter.h"
#include "core/log.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct task {
    uint64_t job;
    adapter_seen file;          /* as it was when it was asked about; the digest comes */
    err why;
    struct task *next;
    char path[];
} task;

struct adapter_thread {
    pthread_t thread;
    pthread_mutex_t lock;       /* guards what follows */
    pthread_cond_t more;
    task *todo, *done;          /* first come, first served */
    bool quit;
    /* the main thread's */
    uint32_t pending;
    /* both, and never changed */
    const model_shape *shape;
};

static adapter_seen seen_of(const struct stat *st)
{
    return (adapter_seen){ .dev = st->st_dev, .ino = st->st_ino, .size = (uint64_t)st->st_size, .changed = st->st_mtim };
}

static bool same_file(const adapter_seen *a, const adapter_seen *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static const adapter_seen *find(const adapter_list *l, const adapter_seen *s)
{
    for (size_t i = 0; i < sizeof l->at / sizeof *l->at; i++)
        if (l->at[i].digest[0] && same_file(&l->at[i], s)) return &l->at[i];
    return NULL;
}

/* ---- the thread ---------------------------------------------------------------------------------------------------- */

/* All of the file is checked and hashed; nothing of it stays. */
static err_code read_file(const char *path, const model_shape *s, char digest[static 33], err *e)
{
    gguf *g;
    lora *l;
    err_code rc = gguf_open(&g, path, e);
    if (!rc) {
        rc = lora_open(&l, g, s, (shard){ 0 }, e);
        if (!rc) rc = lora_digest(g, digest, e);
        lora_close(&l);
        gguf_close(&g);
    }
    return rc ? err_wrap(e, "adapter") : ERR_OK;
}

static void append(task **list, task *t)
{
    while (*list) list = &(*list)->next;
    *list = t;
    t->next = NULL;
}

static task *next_task(struct adapter_thread *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->quit && !a->todo) pthread_cond_wait(&a->more, &a->lock);
    task *t = a->quit ? NULL : a->todo;
    if (t) a->todo = t->next;
    pthread_mutex_unlock(&a->lock);
    return t;
}

static void *thread_main(void *arg)
{
    struct adapter_thread *a = arg;
    adapter_seen last = { 0 };  /* jobs of one batch ask for one file before the first answer is there */
    log_role("adapters", true);
    for (task *t; (t = next_task(a));) {
        if (last.digest[0] && same_file(&last, &t->file)) t->file = last;
        else if (!read_file(t->path, a->shape, t->file.digest, &t->why)) last = t->file;
        pthread_mutex_lock(&a->lock);
        append(&a->done, t);
        pthread_mutex_unlock(&a->lock);
    }
    return NULL;
}

/* ---- the main thread's side ------------------------------------------------------------------------------------------ */

static err_code start(adapter_list *l, err *e)
{
    struct adapter_thread *a = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_NOMEM, "out of memory");
    a->shape = l->shape;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->more, NULL);
    if (pthread_create(&a->thread, NULL, thread_main, a)) {
        free(a);
        return err_set(e, ERR_NOMEM, "cannot start the thread that reads adapters");
    }
    l->thread = a;
    return ERR_OK;
}

static err_code send_off(adapter_list *l, uint64_t job, const char *path, const adapter_seen *file, err *e)
{
    err_code rc = l->thread ? ERR_OK : start(l, e);
    task *t = rc ? NULL : calloc(1, sizeof *t + strlen(path) + 1);
    if (!t) return rc ? rc : err_set(e, ERR_NOMEM, "out of memory");
    t->job = job;
    t->file = *file;
    memcpy(t->path, path, strlen(path) + 1);
    struct adapter_thread *a = l->thread;
    pthread_mutex_lock(&a->lock);
    append(&a->todo, t);
    pthread_cond_signal(&a->more);
    pthread_mutex_unlock(&a->lock);
    a->pending++;
    return ERR_OK;
}

static void free_tasks(task *t)
{
    for (task *next; t; t = next) {
        next = t->next;
        free(t);
    }
}

void adapters_close(adapter_list *l)
{
    struct adapter_thread *a = l->thread;
    if (!a) return;
    pthread_mutex_lock(&a->lock);
    a->quit = true;
    pthread_cond_signal(&a->more);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    free_tasks(a->todo);
    free_tasks(a->done);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->more);
    free(a);
    l->thread = NULL;
}

err_code adapter_agree(msg_submit *ask, const char *digest, err *e)
{
    if (ask->lora_digest[0] && strcmp(ask->lora_digest, digest))
        return err_set(e, ERR_INPUT, "adapter %s: digest %s is wanted, the file has %s", ask->lora, ask->lora_digest, digest);
    snprintf(ask->lora_digest, sizeof ask->lora_digest, "%s", digest);
    return ERR_OK;
}

err_code adapter_check(adapter_list *l, uint64_t job, msg_submit *ask, bool *pending, err *e)
{
    struct stat st;
    *pending = false;
    if (!ask->lora[0]) return ERR_OK;
    if (ask->lora[0] != '/') return err_set(e, ERR_INPUT, "adapter \"%s\": not an absolute path", ask->lora);
    if (stat(ask->lora, &st)) return err_set(e, ERR_IO, "adapter %s: %s", ask->lora, strerror(errno));
    adapter_seen now = seen_of(&st);
    const adapter_seen *had = find(l, &now);
    if (had) return adapter_agree(ask, had->digest, e);
    *pending = true;
    return send_off(l, job, ask->lora, &now, e);
}

bool adapter_answer(adapter_list *l, uint64_t *job, char digest[static 33], err *why)
{
    struct adapter_thread *a = l->thread;
    if (!a || !a->pending) return false;
    pthread_mutex_lock(&a->lock);
    task *t = a->done;
    if (t) a->done = t->next;
    pthread_mutex_unlock(&a->lock);
    if (!t) return false;
    a->pending--;
    *job = t->job;
    *why = t->why;
    snprintf(digest, 33, "%s", t->file.digest);
    if (!t->why.code && !find(l, &t->file)) {
        l->at[l->next] = t->file;
        l->next = (l->next + 1) % (sizeof l->at / sizeof *l->at);
    }
    free(t);
    return true;
}

bool adapter_busy(const adapter_list *l) { return l->thread && l->thread->pending; }
