/* Any bytes as a GGUF file, and as either part of a model in two: opened, every key and array element looked up, every tensor
 * mapped and its ends touched.
 * Parser: engine/gguf_parse.c engine/gguf.c engine/gguf_parts.c */
#include "tests/fuzz/kit.h"
#include "tests/fuzz/made.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static volatile uint64_t sink;

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    view v = made_file(pick % 4 ? MADE_PLAIN : MADE_LORA, pick / 4);
    if (v.len > max) return 0;
    memcpy(out, v.ptr, v.len);
    return v.len;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

static void look_up(const gguf *g, const char *key)
{
    uint64_t u, n;
    double d;
    bool b;
    view v;
    gguf_kind kind;
    sink += gguf_get_u64(g, key, &u) + gguf_get_f64(g, key, &d) + gguf_get_bool(g, key, &b);
    if (gguf_get_str(g, key, &v) && v.len) sink += ((const uint8_t *)v.ptr)[0] + ((const uint8_t *)v.ptr)[v.len - 1];
    if (!gguf_get_arr(g, key, &kind, &n)) return;
    for (uint64_t i = 0; i <= n && i < 64; i++) {
        int64_t whole;
        if (gguf_arr_str(g, key, i, &v) && v.len) sink += ((const uint8_t *)v.ptr)[v.len - 1];
        sink += gguf_arr_i64(g, key, i, &whole) + gguf_arr_f64(g, key, i, &d);
    }
}

static void look_at_all(const gguf *g)
{
    gguf_kind kind;
    err e;
    for (uint64_t i = 0; i < gguf_n_keys(g); i++) {
        view raw = gguf_raw(g, i);
        look_up(g, gguf_key(g, i, &kind));
        if (raw.len) sink += ((const uint8_t *)raw.ptr)[raw.len - 1];
    }
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        gguf_range r;
        if (gguf_tensor_find(g, t->name) != t) abort();
        kit_must(gguf_map(g, t->offset, t->bytes, &r, &e), &e);
        sink += r.data[0] + r.data[t->bytes - 1];
        gguf_unmap(&r);
    }
    for (uint32_t i = 0; i < gguf_n_parts(g); i++) sink += strlen(gguf_part_path(g, i));
    sink += gguf_version(g) + (uint64_t)gguf_digest(g)[31] + (gguf_key(g, gguf_n_keys(g), NULL) || gguf_tensor_at(g, gguf_n_tensors(g)));
}

static void open_and_look(const char *path)
{
    gguf *g;
    err e = { 0 };
    err_code rc = gguf_open(&g, path, &e);
    kit_said(rc, &e);
    if (rc) return;
    look_at_all(g);
    gguf_close(&g);
}

/* A sound part `no` of two with a tensor of its own, for the other one to be any bytes. */
static void write_part(const char *path, uint32_t no)
{
    gguf_writer *w;
    err e;
    float x[8] = { 0 };
    kit_must(gguf_writer_open(&w, path, &e), &e);
    gguf_writer_u32(w, "split.no", no);
    gguf_writer_u32(w, "split.count", 2);
    gguf_writer_u32(w, "split.tensors.count", 2);
    gguf_writer_str(w, "split.source_digest", (view){ "0123", 4 });
    gguf_writer_tensor(w, no ? "y" : "x", 0, 1, (uint64_t[]){ 8 });
    kit_must(gguf_writer_begin(w, &e), &e);
    kit_must(gguf_writer_data(w, 0, 0, x, sizeof x, &e), &e);
    kit_must(gguf_writer_commit(w, &e), &e);
    gguf_writer_close(&w);
}

/* a: the bytes are its first part; b: its second. Both are links to the file that holds them. */
static const char *first_of[2];

static void make_parts(const char *bytes)
{
    char path[2][128];
    first_of[0] = strdup(kit_path("a-00001-of-00002.gguf"));
    first_of[1] = strdup(kit_path("b-00001-of-00002.gguf"));
    snprintf(path[0], sizeof path[0], "%s", kit_path("a-00002-of-00002.gguf"));
    snprintf(path[1], sizeof path[1], "%s", kit_path("b-00002-of-00002.gguf"));
    write_part(path[0], 1);
    write_part(first_of[1], 0);
    if (symlink(bytes, first_of[0]) || symlink(bytes, path[1])) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = kit_file(0, data, size);
    if (!first_of[0]) make_parts(path);
    open_and_look(path);
    open_and_look(first_of[0]);
    open_and_look(first_of[1]);
    return 0;
}
