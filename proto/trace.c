/* Trace files: every message of the traced links, in order. Formats and reads; replays nothing, and a failing disk never
 * stops the run it records. */
#include "proto/trace.h"
#include "core/clock.h"
#include "core/log.h"
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TRACE_MAGIC "SLUTRACE"
#define TRACE_VERSION 2u
#define TRACE_PARTS (1 + MSG_FRAMES_MAX)
#define TRACE_BUFFER (1u << 16)   /* a step's small messages go out in one write */

typedef struct { char magic[8]; uint32_t version, spare; } file_head;
typedef struct {
    uint64_t t_ns;
    uint32_t sizes[TRACE_PARTS];   /* bytes of header and payload frames, which follow in this order; 0 behind the last */
    char dir;
    uint8_t n;
    uint16_t spare[3];
    char link[16];                 /* NUL-terminated */
} record_head;
_Static_assert(sizeof(file_head) == 16 && sizeof(record_head) == 56, "trace records have padding");

struct trace { pthread_mutex_t lock; FILE *file; bool failed; };
struct trace_reader { FILE *file; uint64_t at, size; text bytes; };   /* at: bytes read; bytes: the current record's */

/* ---- write ----------------------------------------------------------------------------------------------------- */

err_code trace_open(trace **out, const char *path, err *e)
{
    *out = NULL;
    trace *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NOMEM, "out of memory for a trace");
    file_head h = { .magic = TRACE_MAGIC, .version = TRACE_VERSION };
    t->file = fopen(path, "wbe");
    if (!t->file || setvbuf(t->file, NULL, _IOFBF, TRACE_BUFFER) || fwrite(&h, sizeof h, 1, t->file) != 1 || fflush(t->file)
        || pthread_mutex_init(&t->lock, NULL)) {
        err_set(e, ERR_IO, "cannot write trace %s: %s", path, strerror(errno));
        if (t->file) fclose(t->file);
        free(t);
        return ERR_IO;
    }
    *out = t;
    return ERR_OK;
}

static void fail(trace *t)
{
    if (!t->failed) LOG(LOG_ERROR, "TRACE-FAILED", "reason=\"%s\" the trace ends here", strerror(errno));
    t->failed = true;
}

void trace_close(trace **t)
{
    if (!*t) return;
    if (fclose((*t)->file)) fail(*t);
    pthread_mutex_destroy(&(*t)->lock);
    free(*t);
    *t = NULL;
}

static bool fill_head(record_head *h, char dir, const char *link, const view *frames, uint32_t n)
{
    if (n < 1 || n > TRACE_PARTS) return false;
    *h = (record_head){ .t_ns = clock_ns(), .dir = dir, .n = (uint8_t)n };
    memcpy(h->link, link, strnlen(link, sizeof h->link - 1));
    for (uint32_t i = 0; i < n; i++) {
        if (frames[i].len > UINT32_MAX) return false; /* no lane carries such a frame */
        h->sizes[i] = (uint32_t)frames[i].len;
    }
    return true;
}

void trace_write(trace *t, char dir, const char *link, const view *frames, uint32_t n)
{
    pthread_mutex_lock(&t->lock);
    record_head h; /* filled under the lock, so that times ascend in the file */
    if (!t->failed && fill_head(&h, dir, link, frames, n)) {
        bool ok = fwrite(&h, sizeof h, 1, t->file) == 1;
        for (uint32_t i = 0; i < n && ok; i++)
            ok = !frames[i].len || fwrite(frames[i].ptr, frames[i].len, 1, t->file) == 1;
        if (!ok) fail(t);
    }
    pthread_mutex_unlock(&t->lock);
}

/* ---- read ------------------------------------------------------------------------------------------------------ */

static err_code check_file(trace_reader *r, const char *path, err *e)
{
    struct stat st;
    file_head h;
    if (!r->file || fstat(fileno(r->file), &st)) return err_set(e, ERR_IO, "cannot read trace %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) || fread(&h, sizeof h, 1, r->file) != 1 || memcmp(h.magic, TRACE_MAGIC, sizeof h.magic))
        return err_set(e, ERR_INPUT, "%s is not a trace", path);
    if (h.version != TRACE_VERSION)
        return err_set(e, ERR_INPUT, "trace %s has version %u, this build reads %u", path, h.version, TRACE_VERSION);
    r->size = (uint64_t)st.st_size;
    r->at = sizeof h;
    return ERR_OK;
}

err_code trace_read_open(trace_reader **out, const char *path, err *e)
{
    *out = NULL;
    trace_reader *r = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_NOMEM, "out of memory for a trace");
    r->file = fopen(path, "rbe");
    err_code rc = check_file(r, path, e);
    if (rc) trace_read_close(&r);
    else *out = r;
    return rc;
}

void trace_read_close(trace_reader **r)
{
    if (!*r) return;
    if ((*r)->file) fclose((*r)->file);
    text_free(&(*r)->bytes);
    free(*r);
    *r = NULL;
}

static err_code damaged(const trace_reader *r, const char *what, err *e)
{
    return err_set(e, ERR_INPUT, "trace is damaged at byte %" PRIu64 ": %s", r->at, what);
}

static err_code check_record(const trace_reader *r, const record_head *h, uint64_t *total, err *e)
{
    *total = 0;
    if (h->n < 1 || h->n > TRACE_PARTS) return damaged(r, "number of frames", e);
    if (h->dir != 'S' && h->dir != 'R') return damaged(r, "direction", e);
    if (!memchr(h->link, 0, sizeof h->link)) return damaged(r, "link name", e);
    for (uint32_t i = 0; i < TRACE_PARTS; i++) {
        if (i >= h->n && h->sizes[i]) return damaged(r, "size of a frame that is not there", e);
        *total += h->sizes[i]; /* five times 2^32: no overflow */
    }
    if (*total > r->size - r->at - sizeof *h) return damaged(r, "a record reaches past the end of the file", e);
    return ERR_OK;
}

/* The record's bytes into r->bytes. Its size is within the file, so a false one cannot ask for more memory than that. */
static err_code load_record(trace_reader *r, record_head *h, err *e)
{
    uint64_t total;
    if (r->size - r->at < sizeof *h) return damaged(r, "a record reaches past the end of the file", e);
    if (fread(h, sizeof *h, 1, r->file) != 1) return damaged(r, "cannot be read", e);
    err_code rc = check_record(r, h, &total, e);
    if (rc) return rc;
    text_clear(&r->bytes);
    if (!text_reserve(&r->bytes, total)) return err_set(e, ERR_NOMEM, "out of memory for a trace record");
    if (total && fread(r->bytes.ptr, total, 1, r->file) != 1) return damaged(r, "cannot be read", e);
    r->bytes.len = total;
    return ERR_OK;
}

static err_code fill_event(const trace_reader *r, const record_head *h, trace_event *ev, err *e)
{
    trace_event out = { .t_ns = h->t_ns, .dir = h->dir, .n_frames = h->n - 1u };
    memcpy(out.link, h->link, sizeof out.link);
    const char *p = r->bytes.ptr + h->sizes[0];
    for (uint32_t i = 0; i < out.n_frames; i++) {
        out.frame[i] = (view){ p, h->sizes[i + 1] };
        p += h->sizes[i + 1];
    }
    err_code rc = msg_decode(&out.head, r->bytes.ptr, h->sizes[0], e);
    if (!rc) rc = msg_check_frames(&out.head, out.frame, out.n_frames, e);
    if (!rc) *ev = out;
    return rc;
}

bool trace_next(trace_reader *r, trace_event *ev, err *e)
{
    if (e) e->code = ERR_OK;
    if (r->at >= r->size) return false;
    record_head h;
    err_code rc = load_record(r, &h, e);
    if (!rc && (rc = fill_event(r, &h, ev, e))) err_wrap(e, "trace is damaged at byte %" PRIu64, r->at);
    if (rc) {
        r->at = r->size; /* where the next record would begin is not known any more */
        return false;
    }
    r->at += sizeof h + r->bytes.len;
    return true;
}
