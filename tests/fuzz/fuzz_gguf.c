/* Any bytes as a GGUF file, and as either part of a model in two: opened, every key and array element looked up, every tensor
 * mapped and its ends touched. */
#include "engine/gguf_write.h"
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

static void open_and_look(const char *path)
{
    gguf *g;
    err e;
    if (gguf_open(&g, path, &e)) return;
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
}

/* A sound part `no` of two with the tensor "x", for the other one to be any bytes. */
static void write_part(const char *path, uint32_t no)
{
    gguf_writer *w;
    err e;
    float x[8] = { 0 };
    if (gguf_writer_open(&w, path, &e)) abort();
    gguf_writer_u32(w, "split.no", no);
    gguf_writer_u32(w, "split.count", 2);
    gguf_writer_u32(w, "split.tensors.count", 2);
    gguf_writer_tensor(w, "x", 0, 1, (uint64_t[]){ 8 });
    if (gguf_writer_begin(w, &e) || gguf_writer_data(w, 0, 0, x, sizeof x, &e) || gguf_writer_commit(w, &e)) abort();
    gguf_writer_close(&w);
}

/* DIR/a: the bytes are its first part; DIR/b: its second. Both are links to the file that holds them. */
static char dir[] = "/tmp/fuzz-gguf-XXXXXX", first_of[2][64];

static void remove_folder(void)
{
    char path[64];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%c-0000%d-of-00002.gguf", dir, 'a' + i / 2, i % 2 + 1);
        unlink(path);
    }
    rmdir(dir);
}

static void make_folder(const char *bytes)
{
    char path[64];
    if (!mkdtemp(dir)) abort();
    atexit(remove_folder);
    for (int i = 0; i < 2; i++) snprintf(first_of[i], sizeof first_of[i], "%s/%c-00001-of-00002.gguf", dir, 'a' + i);
    snprintf(path, sizeof path, "%s/a-00002-of-00002.gguf", dir);
    write_part(path, 1);
    write_part(first_of[1], 0);
    snprintf(path, sizeof path, "%s/b-00002-of-00002.gguf", dir);
    if (symlink(bytes, first_of[0]) || symlink(bytes, path)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("fuzz", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        make_folder(path);
    }
    if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size) abort();
    open_and_look(path);
    open_and_look(first_of[0]);
    open_and_look(first_of[1]);
    return 0;
}
