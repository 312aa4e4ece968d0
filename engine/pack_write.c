/* Makes a file of packed weights: what is in it, its key, its bytes. Refuses to know where the file lies. */
#include "core/pool.h"
#include "engine/pack_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    SAMPLE = 4096,               /* bytes hashed at the beginning, the middle and the end of a tensor */
    WINDOW = 32 << 20,           /* bytes packed between two writes, at least a group */
};

bool pack_wants(const gguf *g, const gguf_tensor *t, wtype *type)
{
    if (t->n_dims != 2 || !wtype_from_ggml(t->type, type) || t->dim[0] % wtypes[*type].block || !t->dim[1]) return false;
    if (t->dim[0] > UINT32_MAX / 2 || t->dim[1] > UINT32_MAX / 2) return false;
    return strcmp(t->name, "token_embd.weight") || !gguf_tensor_find(g, "output.weight");
}

/* ---- the key ---- */

static err_code hash_sample(XXH3_state_t *h, const gguf *g, uint64_t at, uint64_t n, err *e)
{
    gguf_range r;
    err_code rc = gguf_map(g, at, n, &r, e);
    if (rc) return rc;
    XXH3_128bits_update(h, r.data, n);
    gguf_unmap(&r);
    return ERR_OK;
}

static err_code hash_tensor(XXH3_state_t *h, const gguf *g, const gguf_tensor *t, err *e)
{
    uint64_t n = t->bytes < SAMPLE ? t->bytes : SAMPLE;
    err_code rc = ERR_OK;
    for (uint64_t i = 0; n && !rc && i < 3; i++) rc = hash_sample(h, g, t->offset + (t->bytes - n) / 2 * i, n, e);
    return rc;
}

/* Sizes and times: a file that was changed in place has another time, even where no sample lies. */
static err_code hash_parts(XXH3_state_t *h, const gguf *g, err *e)
{
    for (uint32_t i = 0; i < gguf_n_parts(g); i++) {
        struct stat st;
        if (stat(gguf_part_path(g, i), &st)) return err_set(e, ERR_IO, "%s: %s", gguf_part_path(g, i), strerror(errno));
        int64_t v[3] = { st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec };
        XXH3_128bits_update(h, v, sizeof v);
    }
    return ERR_OK;
}

err_code pack_key(const gguf *g, uint8_t key[16], err *e)
{
    XXH3_state_t *h = XXH3_createState();
    if (!h) return err_set(e, ERR_NOMEM, "out of memory");
    XXH3_128bits_reset(h);
    uint32_t version = PACKED_VERSION;
    XXH3_128bits_update(h, &version, sizeof version);
    XXH3_128bits_update(h, gguf_digest(g), strlen(gguf_digest(g)));
    err_code rc = hash_parts(h, g, e);
    wtype t;
    for (uint64_t i = 0; !rc && i < gguf_n_tensors(g); i++)
        if (pack_wants(g, gguf_tensor_at(g, i), &t)) rc = hash_tensor(h, g, gguf_tensor_at(g, i), e);
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits_digest(h));
    memcpy(key, c.digest, sizeof c.digest);
    XXH3_freeState(h);
    return rc;
}

/* ---- the bytes ---- */

static uint64_t page_up(uint64_t n) { return (n + PACK_PAGE - 1) / PACK_PAGE * PACK_PAGE; }

/* The table, offsets and all; hashes are still 0. *end: bytes of the file. */
static uint32_t lay_out(const gguf *g, pack_tensor *to, uint64_t *end)
{
    uint32_t n = 0;
    wtype t;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) n += pack_wants(g, gguf_tensor_at(g, i), &t);
    *end = page_up(sizeof(pack_head) + (uint64_t)n * sizeof *to);
    n = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *from = gguf_tensor_at(g, i);
        if (!pack_wants(g, from, &t)) continue;
        uint64_t bytes = packed_bytes(t, from->dim[1], (uint32_t)from->dim[0]);
        if (to) {
            to[n] = (pack_tensor){ .type = from->type, .n_in = (uint32_t)from->dim[0], .n_out = from->dim[1], .bytes = bytes };
            to[n].offset = *end;
            memcpy(to[n].name, from->name, sizeof to[n].name);
        }
        n++;
        *end += page_up(bytes);
    }
    return n;
}

uint64_t pack_size(const gguf *g)
{
    uint64_t end;
    uint32_t n = lay_out(g, NULL, &end);
    return n && n <= PACK_TENSORS_MAX ? end : 0;
}

/* The file from front to back, in writes that begin and end at whole huge pages: then the kernel keeps (Linux 6.16, ext4 and
 * others) and maps it in huge pages, and reading it takes a fraction of the TLB misses. */
typedef struct {
    int fd;
    uint8_t *buf;                /* [room] */
    size_t n, room;
    uint64_t at;                 /* place of buf[0] in the file */
} sink;

typedef struct {
    const gguf *g;
    pack_tensor *tensor;
    uint32_t n, at;              /* tensors; the one under way */
    uint32_t g0, g1;             /* its groups that are packed now */
    mat from;
    sink out;
    const pack_meter *meter;
    uint64_t done, total;
    atomic_int error;            /* errno of the first mapping that failed */
} writer;

static int write_all(int fd, const uint8_t *p, size_t n, uint64_t at)
{
    while (n) {
        ssize_t k = pwrite(fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return k ? errno : EIO;
        p += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
    return 0;
}

/* All whole huge pages go out (`end`: everything), the rest moves to the front. */
static err_code sink_flush(sink *s, bool end, err *e)
{
    uint64_t to = end ? s->at + s->n : (s->at + s->n) / PACK_HUGE * PACK_HUGE;
    if (to <= s->at) return ERR_OK;
    size_t k = (size_t)(to - s->at);
    int bad = write_all(s->fd, s->buf, k, s->at);
    if (bad) return err_set(e, ERR_IO, "%s", strerror(bad));
    memmove(s->buf, s->buf + k, s->n - k);
    s->n -= k;
    s->at = to;
    return ERR_OK;
}

/* Zeros up to place `to` of the file, which is less than a window away. */
static err_code sink_pad(sink *s, uint64_t to, err *e)
{
    err_code rc = to - s->at > s->room ? sink_flush(s, false, e) : ERR_OK;
    if (rc) return rc;
    memset(s->buf + s->n, 0, (size_t)(to - s->at) - s->n);
    s->n = (size_t)(to - s->at);
    return ERR_OK;
}

/* One thread's groups of those packed now. */
static void pack_part(void *arg, uint32_t tid, uint32_t threads)
{
    writer *w = arg;
    uint32_t lo, hi;
    pool_part(w->g1 - w->g0, 1, tid, threads, &lo, &hi);
    packed_make(&w->from, w->g0 + lo, w->g0 + hi, w->out.buf + w->out.n + lo * PACKED_GROUP * w->from.row_bytes);
}

static err_code pack_groups(writer *w, pool *team, err *e)
{
    size_t group = PACKED_GROUP * w->from.row_bytes;
    uint32_t groups = (w->from.n_out + PACKED_GROUP - 1) / PACKED_GROUP;
    err_code rc = ERR_OK;
    for (w->g0 = 0; !rc && w->g0 < groups; w->g0 = w->g1) {
        if (w->out.room - w->out.n < group) rc = sink_flush(&w->out, false, e);
        if (rc) break;
        uint64_t fit = (w->out.room - w->out.n) / group;
        w->g1 = groups - w->g0 < fit ? groups : w->g0 + (uint32_t)fit;
        pool_run(team, pack_part, w);
        w->out.n += (w->g1 - w->g0) * group;
    }
    return rc;
}

static err_code pack_one(writer *w, pool *team, err *e)
{
    pack_tensor *t = &w->tensor[w->at];
    const gguf_tensor *from = gguf_tensor_find(w->g, t->name);
    gguf_range r;
    wtype type;
    if (!wtype_from_ggml(t->type, &type)) return err_set(e, ERR_MODEL, "tensor %s has a type that cannot be packed", t->name);
    w->from = (mat){ .type = type, .n_out = (uint32_t)t->n_out, .n_in = t->n_in, .row_bytes = wtype_row_bytes(type, t->n_in) };
    if (from->bytes != w->from.row_bytes * t->n_out) return err_set(e, ERR_MODEL, "tensor %s has an odd size", t->name);
    err_code rc = gguf_map(w->g, from->offset, from->bytes, &r, e);
    if (rc) return rc;
    madvise(r.base, r.len, MADV_SEQUENTIAL);
    w->from.data = r.data;
    rc = sink_pad(&w->out, t->offset, e);
    if (!rc) rc = pack_groups(w, team, e);
    gguf_unmap(&r);
    if (rc) return rc;
    w->done += t->bytes;
    if (w->meter && w->meter->fn && !w->meter->fn(w->meter->arg, w->done, w->total)) return err_set(e, ERR_GONE, "given up");
    return ERR_OK;
}

/* Reads back what was written: the hashes are of the bytes that others will map. */
static void hash_part(void *arg, uint32_t tid, uint32_t threads)
{
    writer *w = arg;
    for (uint32_t i = tid; i < w->n; i += threads) {
        pack_tensor *t = &w->tensor[i];
        void *p = mmap(NULL, t->bytes, PROT_READ, MAP_SHARED, w->out.fd, (off_t)t->offset);
        if (p == MAP_FAILED) {
            w->error = errno;
            return;
        }
        t->hash = XXH3_64bits(p, t->bytes);
        munmap(p, t->bytes);
    }
}

static err_code write_head(writer *w, const uint8_t key[16], err *e)
{
    pack_head h = { .layout = PACKED_VERSION, .count = w->n, .bytes = w->total };
    memcpy(h.magic, PACK_MAGIC, sizeof h.magic);
    memcpy(h.key, key, sizeof h.key);
    h.hash = XXH3_64bits(w->tensor, w->n * sizeof *w->tensor);
    strncpy(h.model, gguf_path(w->g), sizeof h.model - 1);
    int bad = write_all(w->out.fd, (const uint8_t *)w->tensor, w->n * sizeof *w->tensor, sizeof h);
    if (!bad) bad = write_all(w->out.fd, (const uint8_t *)&h, sizeof h, 0);
    return bad ? err_set(e, ERR_IO, "%s", strerror(bad)) : ERR_OK;
}

/* A window, or the largest group of any tensor, behind less than a huge page that waits to be whole. */
static size_t window_size(const writer *w)
{
    size_t room = WINDOW;
    for (uint32_t i = 0; i < w->n; i++) {
        size_t group = w->tensor[i].bytes / ((w->tensor[i].n_out + PACKED_GROUP - 1) / PACKED_GROUP);
        room = group > room ? group : room;
    }
    return room + PACK_HUGE + PACK_PAGE;
}

static err_code write_tensors(writer *w, const uint8_t key[16], uint32_t threads, err *e)
{
    pool *team = NULL;
    w->out.room = window_size(w);
    w->out.buf = malloc(w->out.room);
    if (!w->out.buf) return err_set(e, ERR_NOMEM, "out of memory");
    err_code rc = pool_open(&team, threads, NULL, NULL, e);
    for (w->at = 0; !rc && w->at < w->n; w->at++) rc = pack_one(w, team, e);
    if (!rc) rc = sink_pad(&w->out, w->total, e);
    if (!rc) rc = sink_flush(&w->out, true, e);
    if (!rc) pool_run(team, hash_part, w);
    if (!rc && w->error) rc = err_set(e, ERR_IO, "%s", strerror(w->error));
    if (team) pool_close(&team);
    return rc ? rc : write_head(w, key, e);
}

err_code pack_write(int fd, const gguf *g, const uint8_t key[16], uint32_t threads, const pack_meter *m, err *e)
{
    writer w = { .out.fd = fd, .g = g, .meter = m, .total = pack_size(g) };
    /* All of the room at once: a full disk is known now, and a file without holes cannot fault later. */
    if (fallocate(fd, 0, 0, (off_t)w.total) && (errno != EOPNOTSUPP || ftruncate(fd, (off_t)w.total)))
        return err_set(e, ERR_IO, "%s", strerror(errno));
    w.tensor = calloc(lay_out(g, NULL, &w.total), sizeof *w.tensor);
    if (!w.tensor) return err_set(e, ERR_NOMEM, "out of memory");
    w.n = lay_out(g, w.tensor, &w.total);
    err_code rc = write_tensors(&w, key, threads ? threads : 1, e);
    free(w.out.buf);
    free(w.tensor);
    return rc;
}
