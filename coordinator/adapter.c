/* The look at an adapter file when a job asks for it. It keeps digests only and loads no weights. */
#include "coordinator/adapter.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static adapter_seen seen_of(const struct stat *st)
{
    return (adapter_seen){ .dev = st->st_dev, .ino = st->st_ino, .size = (uint64_t)st->st_size, .changed = st->st_mtim };
}

static const adapter_seen *find(const adapter_list *l, const adapter_seen *s)
{
    for (size_t i = 0; i < sizeof l->at / sizeof *l->at; i++) {
        const adapter_seen *a = &l->at[i];
        if (a->digest[0] && a->dev == s->dev && a->ino == s->ino && a->size == s->size && a->changed.tv_sec == s->changed.tv_sec
            && a->changed.tv_nsec == s->changed.tv_nsec)
            return a;
    }
    return NULL;
}

/* All of the file is checked and hashed; nothing of it stays. */
static err_code read_file(const char *path, const model_shape *s, char digest[static 33], err *e)
{
    gguf *g;
    lora *l;
    err_code rc = gguf_open(&g, path, e);
    if (rc) return rc;
    rc = lora_open(&l, g, s, (shard){ 0 }, e);
    if (!rc) rc = lora_digest(g, digest, e);
    lora_close(&l);
    gguf_close(&g);
    return rc;
}

err_code adapter_check(adapter_list *l, const model_shape *s, msg_submit *ask, err *e)
{
    struct stat st;
    if (!ask->lora[0]) return ERR_OK;
    if (ask->lora[0] != '/') return err_set(e, ERR_INPUT, "adapter \"%s\": not an absolute path", ask->lora);
    if (stat(ask->lora, &st)) return err_set(e, ERR_IO, "adapter %s: %s", ask->lora, strerror(errno));
    adapter_seen now = seen_of(&st);
    const adapter_seen *had = find(l, &now);
    if (!had) {
        err_code rc = read_file(ask->lora, s, now.digest, e);
        if (rc) return err_wrap(e, "adapter");
        l->at[l->next] = now;
        had = &l->at[l->next];
        l->next = (l->next + 1) % (sizeof l->at / sizeof *l->at);
    }
    if (ask->lora_digest[0] && strcmp(ask->lora_digest, had->digest))
        return err_set(e, ERR_INPUT, "adapter %s: digest %s is wanted, the file has %s", ask->lora, ask->lora_digest, had->digest);
    snprintf(ask->lora_digest, sizeof ask->lora_digest, "%s", had->digest);
    return ERR_OK;
}
