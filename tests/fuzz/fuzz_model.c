/* Any bytes as a model: its shape read, its weights opened whole and in parts as PLAN may ask for them.
 * Parser: engine/shape.c engine/model.c */
#include "engine/model.h"
#include "tests/fuzz/kit.h"
#include "tests/fuzz/made.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static volatile uint32_t sink;

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    view v = made_file(MADE_MODEL, pick);
    if (v.len > max) return 0;
    memcpy(out, v.ptr, v.len);
    return v.len;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

static void touch(const mat *w)
{
    if (!w->data) return;
    sink += w->data[0] + w->data[w->row_bytes * w->n_out - 1];
}

static void open_part(const gguf *g, shard part)
{
    model *m;
    err e = { 0 };
    err_code rc = model_open(&m, g, part, &e);
    kit_said(rc, &e);
    if (rc) return;
    touch(&m->embed);
    touch(&m->head);
    for (uint32_t l = 0; l < part.last - part.first; l++) {
        const layer_weights *w = &m->layer[l];
        const mat *all[] = { &w->wq, &w->wk, &w->wv, &w->wo, &w->gate, &w->up, &w->down };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) touch(all[i]);
        sink += w->attn_norm[m->shape.D - 1] > 0;
    }
    model_close(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    model_shape s;
    gguf *g;
    err e = { 0 };
    if (gguf_open(&g, kit_file(0, data, size), &e)) return 0;
    err_code rc = model_shape_read(&s, g, &e);
    kit_said(rc, &e);
    if (!rc) {
        rope_table r;
        if (!rope_table_open(&r, &s.rope, 64, &e)) rope_table_close(&r);
        open_part(g, (shard){ 0, s.L, true, true });
        open_part(g, (shard){ 0, s.L / 2, true, false });
        open_part(g, (shard){ s.L / 2, s.L + 1, false, true });
    }
    gguf_close(&g);
    return 0;
}
