/* libFuzzer entry: the state of a sequence under a policy, from an untrusted peer. The first byte says how the rest is used: bit
 * 0 makes the checksum fit, bit 1 puts the bytes over a good state's, the rest picks a policy.
 * Parser: kvstore/state.c */
#include "kvstore/kv.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 6, LAYERS = 2, K = 1, D = 4, CTX = 64, POLICIES = 3, STATE_MOST = 1 << 16 };
static const char *const policies[POLICIES] = {
    "[format]\nk=kivi2\nv=q4_0+h\n",
    "[keep]\nscore=h2o\nrows=4\nwindow=1\n[format]\nk=q8_0\nv=raw\n",
    "[keep]\nscore=snapkv\nrows=5\nwindow=1\nqueries=2\n[change]\nprune=think\n[format]\nk=kivi4\n",
};
static kv *store;
static unsigned char good[POLICIES][STATE_MOST];
static size_t good_len[POLICIES];
static float *scratch;

static void must(err_code rc) { if (rc != ERR_OK) abort(); }

static kv_seq *open_seq(uint64_t id, uint32_t which)
{
    kv_policy p;
    kv_seq *q;
    must(kv_policy_parse(&p, policies[which], strlen(policies[which]), "fuzz", NULL));
    must(kv_seq_open_policy(store, id, &p, ROWS, &q, NULL));
    return q;
}

static void add_row(kv_seq *q, uint32_t row)
{
    float x[2 * D] = { 1, -2, 3, -4, 4, 3, -2, 1 }, out[2 * D];
    kv_row r = { row, row % CTX, KV_ROW_NONE, 0, 0, 0 };
    uint32_t slot;
    if (kv_reserve(q, &r, 1, &slot, NULL)) return;
    for (uint32_t l = 1; l < 1 + LAYERS; l++) {
        kv_append(q, l, slot, x, x + D, 0, K);
        kv_attend(q, l, slot, x, out, 0, K, scratch);
    }
    kv_commit(q, row, NULL);
}

/* A prompt of six rows and two more: packed rows and raw ones. */
static void begin(void)
{
    kv_geometry g = { .first = 1, .last = 1 + LAYERS, .H = 2, .K = K, .d = D, .format = KV_F16, .n_ctx = CTX, .isa = ISA_PLAIN,
                      .rope = { .n_rot = D, .base = 10000, .factor = 1 } };
    must(kv_open(&store, &g, NULL));
    scratch = malloc(kv_scratch_floats(store) * sizeof *scratch);
    for (uint32_t i = 0; i < POLICIES; i++) {
        kv_seq *q = open_seq(1 + i, i);
        for (uint32_t row = 0; row < ROWS + 2; row++) add_row(q, row);
        good_len[i] = kv_state_bytes(q, 1, 1 + LAYERS);
        if (!good_len[i] || good_len[i] > STATE_MOST) abort();
        must(kv_state_export(q, 1, 1 + LAYERS, good[i], good_len[i], NULL));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!store) begin();
    if (!size) return 0;
    uint8_t how = *data++;
    uint32_t which = (how >> 2) % POLICIES;
    size_t len = --size, over = how & 2 ? good_len[which] : 0;
    if (over > len) len = over;
    unsigned char *buf = malloc(len + 1);
    if (!buf) return 0;
    memcpy(buf, good[which], over);
    for (size_t i = 0; i < size; i++) buf[i] = (unsigned char)(i < over ? buf[i] ^ data[i] : data[i]);
    if (how & 1 && len >= 8) {
        uint64_t check = XXH3_64bits(buf, len - 8);
        memcpy(buf + len - 8, &check, 8);
    }
    kv_seq *q = open_seq(20, which);
    err e = { 0 };
    err_code rc = kv_import(q, buf, len, &e);
    free(buf);
    if (rc != ERR_OK && (kv_rows(q) || !e.text[0])) abort();
    if (rc == ERR_OK && kv_last_row(q) < UINT32_MAX - 2) add_row(q, kv_last_row(q) + 1);
    kv_seq_close(store, 20);
    return 0;
}
