/* The door of engine/pack.h: finds the file of a model or makes it, checks it, maps tensors out of it. */
#include "core/log.h"
#include "engine/pack_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

struct pack_file {
    int fd;
    text path;
    pack_head head;
    pack_tensor *tensor;         /* [head.count] */
};

/* ---- reading ---- */

static bool read_all(int fd, void *p, size_t n, uint64_t at)
{
    for (size_t k = 0; k < n;) {
        ssize_t got = pread(fd, (char *)p + k, n - k, (off_t)(at + k));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        k += (size_t)got;
    }
    return true;
}

/* Everything that a product will rely on; the weights themselves are checked when they are mapped. */
static bool sound_tensor(const pack_tensor *t, uint64_t bytes)
{
    wtype type;
    if (!memchr(t->name, 0, sizeof t->name) || !wtype_from_ggml(t->type, &type)) return false;
    if (!t->n_out || !t->n_in || t->n_out > UINT32_MAX / 2 || t->n_in > UINT32_MAX / 2) return false;
    if (t->n_in % wtypes[type].block) return false;
    return t->bytes == packed_bytes(type, t->n_out, t->n_in) && t->offset % PACK_PAGE == 0 && t->offset <= bytes
           && t->bytes <= bytes - t->offset;
}

static const char *read_table(pack_file *p, const uint8_t key[16])
{
    struct stat st;
    pack_head *h = &p->head;
    if (fstat(p->fd, &st) || !read_all(p->fd, h, sizeof *h, 0)) return "it is cut short";
    if (memcmp(h->magic, PACK_MAGIC, sizeof h->magic) || h->layout != PACKED_VERSION || memcmp(h->key, key, sizeof h->key))
        return "its header is not that of this model";
    if (!h->count || h->count > PACK_TENSORS_MAX || h->bytes != (uint64_t)st.st_size) return "it is cut short";
    size_t bytes = h->count * sizeof *p->tensor;
    p->tensor = malloc(bytes);
    if (!p->tensor || !read_all(p->fd, p->tensor, bytes, sizeof *h)) return "its table cannot be read";
    if (XXH3_64bits(p->tensor, bytes) != h->hash) return "its table is damaged";
    for (uint32_t i = 0; i < h->count; i++)
        if (!sound_tensor(&p->tensor[i], h->bytes)) return "its table is damaged";
    return NULL;
}

void pack_close(pack_file **pp)
{
    pack_file *p = *pp;
    if (!p) return;
    if (p->fd >= 0) close(p->fd);
    text_free(&p->path);
    free(p->tensor);
    free(p);
    *pp = NULL;
}

/* A worker in its sandbox removes nothing: it leaves a damaged file with a time that no other has, for the next start. */
static const struct timespec damaged_time[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };

static bool was_found_damaged(const pack_file *p)
{
    struct stat st;
    return !fstat(p->fd, &st) && st.st_mtim.tv_sec == 1 && !st.st_mtim.tv_nsec;
}

static void discard(const pack_file *p)
{
    if (unlink(p->path.ptr) && futimens(p->fd, damaged_time))
        LOG(LOG_WARN, "PACK-STAYS", "file=%s why=\"%s\"", p->path.ptr, strerror(errno));
}

/* The file as it is, or NULL; a damaged one is removed. */
static pack_file *read_file(const char *path, const uint8_t key[16])
{
    pack_file *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    const char *why = p->fd < 0 ? "" : was_found_damaged(p) ? "a tensor's hash was wrong" : read_table(p, key);
    if (why && p->fd >= 0) {
        LOG(LOG_WARN, "PACK-DAMAGED", "file=%s why=\"%s\"", path, why);
        unlink(path);
    }
    if (why || !text_adds(&p->path, path)) {
        pack_close(&p);
        return NULL;
    }
    struct timespec now[2] = { { .tv_nsec = UTIME_NOW }, { .tv_nsec = UTIME_NOW } };
    if (futimens(p->fd, now))                              /* costs only the order of removal */
        LOG(LOG_DEBUG, "PACK-TIME", "file=%s why=\"%s\"", path, strerror(errno));
    return p;
}

/* ---- making ---- */

static err_code make_dirs(char *path, err *e)
{
    for (char *p = path + 1;; p++) {
        if (*p && *p != '/') continue;
        char was = *p;
        *p = 0;
        int bad = mkdir(path, 0700) && errno != EEXIST;
        if (bad) err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
        *p = was;
        if (bad) return ERR_IO;
        if (!was) return ERR_OK;
    }
}

static err_code write_file(const char *path, const gguf *g, const uint8_t key[16], uint32_t threads, const pack_meter *m, err *e)
{
    text tmp = { 0 };
    if (!text_addf(&tmp, "%s.new", path)) return err_set(e, ERR_NOMEM, "out of memory");
    unlink(tmp.ptr);                                       /* of a process that died; the lock is ours */
    int fd = open(tmp.ptr, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    err_code rc = fd < 0 ? err_set(e, ERR_IO, "%s", strerror(errno)) : pack_write(fd, g, key, threads, m, e);
    if (fd >= 0) close(fd);
    if (!rc && rename(tmp.ptr, path)) rc = err_set(e, ERR_IO, "%s", strerror(errno));
    if (rc) {
        if (fd >= 0) unlink(tmp.ptr);
        err_wrap(e, "%s", tmp.ptr);
    }
    text_free(&tmp);
    return rc;
}

/* Under the lock of this file: look again, since another process may have made it while we waited. */
static err_code make_locked(pack_file **out, const char *path, const char *dir, const gguf *g, const pack_options *o,
                            const uint8_t key[16], uint32_t threads, const pack_meter *m, err *e)
{
    *out = read_file(path, key);
    if (*out) return ERR_OK;
    err_code rc = pack_make_room(o, dir, pack_size(g), e);
    if (!rc) rc = write_file(path, g, key, threads, m, e);
    if (!rc && !(*out = read_file(path, key))) rc = err_set(e, ERR_IO, "%s: cannot be read after it was written", path);
    return rc;
}

/* Waits for whoever packs, and looks now and then whether it should still wait. */
static err_code wait_lock(int fd, const pack_meter *m, err *e)
{
    const struct timespec nap = { 0, 20000000 };
    while (flock(fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK && errno != EINTR) return err_set(e, ERR_IO, "%s", strerror(errno));
        if (m && m->fn && !m->fn(m->arg, 0, 0)) return err_set(e, ERR_GONE, "given up");
        nanosleep(&nap, NULL);
    }
    return ERR_OK;
}

static err_code take_lock(const char *path, const pack_meter *m, int *fd, err *e)
{
    text lock = { 0 };
    if (!text_addf(&lock, "%s.lock", path)) return err_set(e, ERR_NOMEM, "out of memory");
    *fd = open(lock.ptr, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    err_code rc = *fd < 0 ? err_set(e, ERR_IO, "%s", strerror(errno)) : wait_lock(*fd, m, e);
    if (rc) err_wrap(e, "%s", lock.ptr);
    text_free(&lock);
    return rc;
}

static err_code find_or_make(pack_file **out, const gguf *g, const pack_options *o, uint32_t threads, const pack_meter *m,
                             bool *made, err *e)
{
    uint8_t key[16];
    char name[40];
    text dir = { 0 }, path = { 0 };
    int lock = -1;
    *made = false;
    err_code rc = pack_key(g, key, e);
    for (int i = 0; i < 16; i++) snprintf(name + 2 * i, 3, "%02x", key[i]);
    if (!rc) rc = pack_dir(&dir, o, e);
    if (!rc && !text_addf(&path, "%s/%s%s", dir.ptr, name, PACK_SUFFIX)) rc = err_set(e, ERR_NOMEM, "out of memory");
    if (!rc && !(*out = read_file(path.ptr, key))) {
        *made = true;
        rc = make_dirs(dir.ptr, e);
        if (!rc) rc = take_lock(path.ptr, m, &lock, e);
        if (!rc) rc = make_locked(out, path.ptr, dir.ptr, g, o, key, threads, m, e);
    }
    if (lock >= 0) close(lock);
    text_free(&dir);
    text_free(&path);
    return rc;
}

pack_file *pack_open(const gguf *g, const pack_options *o, uint32_t threads, const pack_meter *m)
{
    pack_file *p = NULL;
    err e = { 0 };
    bool made;
    if (!o->on || !pack_size(g)) return NULL;
    if (!find_or_make(&p, g, o, threads, m, &made, &e)) return p;
    LOG(LOG_WARN, "PACK-NONE", "the weights are used as they are in %s: %s", gguf_path(g), e.text);
    return NULL;
}

/* Whole huge pages around a tensor that fills some, as far as the file goes: its neighbours' bytes are mapped too. That costs
 * no memory, but it counts as this process's, so small tensors are mapped as they lie. */
static gguf_range map_around(const pack_file *p, const pack_tensor *t)
{
    uint64_t step = t->bytes >= 2 * PACK_HUGE ? PACK_HUGE : PACK_PAGE;
    uint64_t lo = t->offset / step * step, hi = (t->offset + t->bytes + step - 1) / step * step;
    size_t n = (size_t)((hi < p->head.bytes ? hi : p->head.bytes) - lo);
    void *base = mmap(NULL, n, PROT_READ, MAP_SHARED, p->fd, (off_t)lo);
    if (base == MAP_FAILED) return (gguf_range){ 0 };
    madvise(base, n, MADV_HUGEPAGE);                  /* a wish: the kernel then reads, keeps and maps huge pages */
#ifdef MADV_POPULATE_READ
    madvise(base, n, MADV_POPULATE_READ);             /* one call instead of a fault every few pages; may fail */
#endif
    return (gguf_range){ base, n, (uint8_t *)base + (t->offset - lo) };
}

/* Map a tensor; false when it cannot be, or its bytes are not those that were written. */
static bool map_checked(const pack_file *p, const pack_tensor *t, gguf_range *r)
{
    *r = map_around(p, t);
    if (!r->base) return false;
    if (XXH3_64bits(r->data, t->bytes) == t->hash) return true;
    LOG(LOG_WARN, "PACK-DAMAGED", "file=%s tensor=%s: its hash is wrong, the weights are taken from the model file", p->path.ptr,
        t->name);
    discard(p);
    gguf_unmap(r);
    return false;
}

static bool all_right(const pack_file *p)
{
    for (uint32_t i = 0; i < p->head.count; i++) {
        gguf_range r;
        if (!map_checked(p, &p->tensor[i], &r)) return false;
        gguf_unmap(&r);
    }
    return true;
}

err_code pack_make(const gguf *g, const pack_options *o, bool check, uint32_t threads, const pack_meter *m, text *path, bool *made,
                   err *e)
{
    pack_file *p = NULL;
    text_clear(path);
    if (!pack_size(g)) return err_set(e, ERR_MODEL, "%s: has no matrix that could be packed", gguf_path(g));
    err_code rc = find_or_make(&p, g, o, threads, m, made, e);
    if (!rc && check && !*made && !all_right(p)) {
        pack_close(&p);
        rc = find_or_make(&p, g, o, threads, m, made, e);
    }
    if (!rc && !text_adds(path, p->path.ptr)) rc = err_set(e, ERR_NOMEM, "out of memory");
    pack_close(&p);
    return rc;
}

/* ---- tensors ---- */

static const pack_tensor *tensor_named(const pack_file *p, const char *name)
{
    for (uint32_t i = 0; i < p->head.count; i++)
        if (!strcmp(p->tensor[i].name, name)) return &p->tensor[i];
    return NULL;
}

bool pack_find(const pack_file *p, const char *name, wtype type, uint64_t n_out, uint64_t n_in, mat *w, gguf_range *r)
{
    const pack_tensor *t = p ? tensor_named(p, name) : NULL;
    if (!t || t->type != wtypes[type].ggml_id || t->n_out != n_out || t->n_in != n_in) return false;
    if (!map_checked(p, t, r)) return false;
    *w = (mat){ type, (uint32_t)n_out, (uint32_t)n_in, wtype_row_bytes(type, (uint32_t)n_in), r->data, true };
    return true;
}
