/* Any bytes as a LoRA adapter for a small model: checked and hashed as the coordinator does, loaded whole and in a part as
 * stages do, and what was loaded applied.
 * Parser: engine/lora.c */
#include "engine/lora.h"
#include "tests/fuzz/kit.h"
#include "tests/fuzz/made.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static volatile float sink;

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    view v = made_file(MADE_LORA, pick);
    if (v.len > max) return 0;
    memcpy(out, v.ptr, v.len);
    return v.len;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

static void apply(const lora *l, const model_shape *s, shard part)
{
    float x[64] = { 1, 2, 3 }, y[64] = { 0 };
    for (uint32_t layer = part.first; layer < part.last || layer == part.first; layer++)
        for (int m = 0; m <= LORA_HEAD; m++) {
            if (m != LORA_HEAD && layer >= part.last) continue;
            const lora_pair *p = lora_find(l, layer, (lora_mat)m);
            if (p && (p->n_in > 64 || p->n_out > 64)) abort();
            if (p) lora_apply(p, vec_for(ISA_PLAIN), 0.5f, x, y, 0, p->n_out);
        }
    sink = y[0] + (float)s->D + (float)lora_bytes(l);
}

static void load(const gguf *g, const model_shape *s, shard part)
{
    lora *l;
    err e = { 0 };
    err_code rc = lora_open(&l, g, s, part, &e);
    kit_said(rc, &e);
    if (rc) return;
    apply(l, s, part);
    lora_close(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    model_shape s = made_shape();
    gguf *g;
    err e = { 0 };
    char digest[33];
    if (gguf_open(&g, kit_file(0, data, size), &e)) return 0;
    load(g, &s, (shard){ 0 });
    load(g, &s, (shard){ .first = 0, .last = s.L, .embed = true, .head = true });
    load(g, &s, (shard){ .first = 1, .last = 2 });
    s.tied = true;
    load(g, &s, (shard){ .first = 0, .last = 1 });
    kit_must(lora_digest(g, digest, &e), &e);
    gguf_close(&g);
    return 0;
}
