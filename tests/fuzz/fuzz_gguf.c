/* Any bytes as a GGUF file: opened, every key and array element looked up, every tensor mapped and its ends touched. */
#include "engine/gguf.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink;

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) fd = memfd_create("fuzz", 0);
    if (fd < 0 || ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    gguf *g;
    err e;
    if (gguf_open(&g, path, &e)) return 0;
    gguf_kind kind;
    for (uint64_t i = 0; i < gguf_n_keys(g); i++) look_up(g, gguf_key(g, i, &kind));
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        gguf_range r;
        if (gguf_map(g, t->offset, t->bytes, &r, &e)) abort();
        sink += r.data[0] + r.data[t->bytes - 1];
        gguf_unmap(&r);
    }
    gguf_close(&g);
    return 0;
}
