/* libFuzzer entry: an import stream from an untrusted peer. The first byte says how the rest is used: bit 0 makes the
 * checksum fit, so that the fuzzer reaches what lies behind it; bit 1 puts the bytes over a good stream's.
 * Parser: kvstore/stream.c kvstore/cells.c */
#include "kvstore/kv.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 6, LAYERS = 2, K = 1, D = 4, CTX = 64 };
static kv *store;
static unsigned char good[4096];
static size_t good_len;

static void must(err_code rc) { if (rc != ERR_OK) abort(); }

/* Three rows on the receiving side (sequence 1), six on the sender's (2), of which the last three make the good stream. */
static void begin(void)
{
    kv_geometry g = { .first = 1, .last = 1 + LAYERS, .H = 2, .K = K, .d = D, .format = KV_F16, .n_ctx = CTX, .isa = ISA_PLAIN,
                      .rope = { .n_rot = D, .base = 10000, .factor = 1 } };
    must(kv_open(&store, &g, NULL));
    kv_row rows[ROWS];
    uint32_t slots[ROWS];
    float x[K * D] = { 1, -2, 3, -4 };
    for (uint32_t i = 0; i < ROWS; i++) rows[i] = (kv_row){ i, i, i ? i - 1 : KV_ROW_NONE, 0, 0, 0 };
    for (uint64_t id = 1; id <= 2; id++) {
        kv_seq *q;
        must(kv_seq_open(store, id, &q, NULL));
        must(kv_reserve(q, rows, (uint32_t)id * 3, slots, NULL));
        for (uint32_t i = 0; i < id * 3; i++)
            for (uint32_t l = 0; l < LAYERS; l++) kv_append(q, 1 + l, slots[i], x, x, 0, K);
        must(kv_commit(q, (uint32_t)id * 3 - 1, NULL));
    }
    kv_seq *from = kv_seq_find(store, 2);
    good_len = kv_export_bytes(from, 1, 1 + LAYERS, 3, ROWS);
    if (!good_len || good_len > sizeof good) abort();
    must(kv_export(from, 1, 1 + LAYERS, 3, ROWS, good, good_len, NULL));
}

/* What came in whole goes out as the same bytes. */
static void export_again(const kv_seq *q, const unsigned char *was, size_t len)
{
    unsigned char *out = malloc(len);
    if (!out || kv_export_bytes(q, 1, 1 + LAYERS, 3, kv_rows(q)) != len) abort();
    must(kv_export(q, 1, 1 + LAYERS, 3, kv_rows(q), out, len, NULL));
    if (memcmp(out, was, len)) abort();
    err e = { 0 };
    if (!kv_export(q, 1, 1 + LAYERS, 3, kv_rows(q), out, len - 1, &e) || !kv_export(q, 0, 1, 3, 4, out, len, &e) || !kv_export(q, 1, 2, 3, 99, out, len, &e))
        abort();
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!store) begin();
    if (!size) return 0;
    uint8_t how = *data++;
    size_t len = --size, over = how & 2 ? good_len : 0;
    if (over > len) len = over;
    unsigned char *buf = malloc(len + 1);
    if (!buf) return 0;
    memcpy(buf, good, over);
    if (how & 2)
        for (size_t i = 0; i < size; i++) buf[i] = (unsigned char)(i < over ? buf[i] ^ data[i] : data[i]);
    else if (size) memcpy(buf, data, size);
    if (how & 1 && len >= 8) {
        uint64_t check = XXH3_64bits(buf, len - 8);
        memcpy(buf + len - 8, &check, 8);
    }
    kv_seq *q = kv_seq_find(store, 1);
    err e = { 0 };
    err_code rc = kv_import(q, buf, len, &e);
    if (rc == ERR_OK && kv_rows(q) > 3) export_again(q, buf, len);
    free(buf);
    if (rc != ERR_OK && (kv_rows(q) != 3 || !e.text[0])) abort();
    must(kv_truncate(q, 3, NULL));
    if (kv_rows(q) != 3 || kv_last_row(q) != 2) abort();
    return 0;
}
