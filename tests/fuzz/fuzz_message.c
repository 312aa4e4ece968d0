/* Any bytes as a header. What decodes must encode, and decode again to the same bytes; frames of the right sizes must pass,
 * of wrong ones be refused. The mutator begins with a header of any row of the table, its fields in range or just outside.
 * FUZZ_TELL=1 prints which rows were reached.
 * Parser: proto/message.c proto/msgpack_scan.c proto/message_print.c */
#include "core/rng.h"
#include "proto/message_table.h"
#include "tests/fuzz/kit.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

/* ---- well-formed headers ---- */

typedef struct { uint64_t seed, next; } dice;
static uint64_t roll(dice *d, uint64_t below) { return rng_u64(d->seed, d->next++) % below; }

static void fill(message *m, const field_desc *f, dice *d)
{
    void *at = (char *)m + f->offset;
    uint64_t span = f->hi - f->lo + 1, u[] = { f->lo, f->hi, f->def, f->lo + (span ? roll(d, span) : roll(d, UINT64_MAX)) };
    double x[] = { f->f_lo, f->f_hi, f->f_def, f->f_lo / 2 + f->f_hi / 2 };
    size_t n;
    switch (f->kind) {
    case FIELD_U: *(uint64_t *)at = u[roll(d, 4)]; break;
    case FIELD_F: *(double *)at = x[roll(d, 4)]; break;
    case FIELD_B: *(bool *)at = roll(d, 2); break;
    case FIELD_S:
        n = roll(d, 3) ? roll(d, 9) : roll(d, f->hi + 1);
        memset(at, 'a' + (int)roll(d, 26), n < f->hi ? n : f->hi);
        break;
    }
}

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    dice d = { pick, 0 };
    uint32_t rows = 0, n;
    while (message_desc_at(rows)) rows++;
    const message_desc *row = message_desc_at(pick % rows);
    const field_desc *f = row->fields(&n);
    message m = msg_init((msg_type)row->id);
    err e;
    for (uint32_t i = 0; i < n; i++)
        if (f[i].required || roll(&d, 3) == 0) fill(&m, &f[i], &d);
    return msg_encode(&m, out, &max, &e) ? 0 : max;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

/* ---- which rows were reached ---- */

static bool reached[256];

static void tell(void)
{
    uint32_t n = 0, all = 0;
    for (const message_desc *d; (d = message_desc_at(all)); all++) {
        n += reached[d->id];
        if (!reached[d->id]) fprintf(stderr, "not reached: %s\n", d->name);
    }
    fprintf(stderr, "%u of %u rows of the table reached\n", n, all);
}

static FILE *begin(void)
{
    FILE *null = fopen("/dev/null", "we");
    if (!null || (getenv("FUZZ_TELL") && atexit(tell))) abort();
    return null;
}

/* ---- */

static uint64_t count_at(const message *m, uint32_t at)
{
    uint64_t v;
    memcpy(&v, (const char *)m + at, sizeof v);
    return v;
}

/* Only lengths are looked at, so the bytes need not be there. */
static void check_frames(const message *m, const uint8_t *some)
{
    uint32_t n;
    const frame_desc *f = message_desc_of(m->type)->frames(&n);
    view frame[MSG_FRAMES_MAX];
    bool fits = true;
    err e = { 0 };
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bytes = f[i].kind == FRAME_BYTES ? f[i].max : count_at(m, f[i].rows_at);
        if (f[i].kind == FRAME_TENSOR) fits = !__builtin_mul_overflow(bytes, count_at(m, f[i].cols_at), &bytes) && fits;
        if (f[i].kind != FRAME_BYTES) fits = !__builtin_mul_overflow(bytes, (uint64_t)f[i].record_size, &bytes) && fits;
        frame[i] = (view){ some, bytes };
    }
    err_code rc = msg_check_frames(m, frame, n, &e);
    kit_said(rc, &e);
    if (fits == (rc != ERR_OK)) abort();
    for (uint32_t i = 0; i < n; i++) {
        frame[i].len++;
        if (!msg_check_frames(m, frame, n, &e)) abort();
        frame[i].len--;
    }
    if (!msg_check_frames(m, frame, n + 1, &e) || (n && !msg_check_frames(m, NULL, n, &e))) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static FILE *null;
    if (!null) null = begin();
    message a, b;
    err e = { 0 };
    err_code rc = msg_decode(&a, data, n, &e);
    kit_said(rc, &e);
    if (rc) return 0;
    reached[a.type] = true;
    uint8_t one[MSG_HEADER_MAX], two[MSG_HEADER_MAX];
    size_t len1 = sizeof one, len2 = sizeof two, cut = n % 64;
    kit_must(msg_encode(&a, one, &len1, &e), &e);
    kit_must(msg_decode(&b, one, len1, &e), &e);
    kit_must(msg_encode(&b, two, &len2, &e), &e);
    if (len1 != len2 || memcmp(one, two, len1)) abort();
    if (cut < len1 && !msg_encode(&a, two, &cut, &e)) abort();
    check_frames(&a, data);
    msg_print(&a, null);
    return 0;
}
