#include "tests/fuzz/kit.h"
#include "core/log.h"
#include "engine/model_random.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);

/* libFuzzer and replay.c call this first: what a damaged file makes the readers warn of would fill the screen. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    log_set_level(LOG_ERROR);
    return 0;
}

void kit_must(err_code rc, const err *e)
{
    if (!rc) return;
    fprintf(stderr, "%s\n", e ? e->text : "failed");
    abort();
}

void kit_said(err_code rc, const err *e)
{
    if (rc && !e->text[0]) abort();
}

static char dir[] = "/dev/shm/sluice-fuzz-XXXXXX"; /* in memory: some targets write a file for every input */

static void remove_dir(void)
{
    char path[512];
    DIR *d = opendir(dir);
    for (struct dirent *f; d && (f = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
        if (f->d_name[0] != '.') unlink(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

const char *kit_path(const char *name)
{
    static char path[8][128];
    static unsigned next;
    static bool made;
    if (!made) {
        made = true;
        if (!mkdtemp(dir) && !mkdtemp(strcpy(dir, "/tmp/sluice-fuzz-XXXXXX"))) abort();
        if (atexit(remove_dir)) abort();
    }
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

const char *kit_file(unsigned n, const void *data, size_t size)
{
    static struct { int fd; char path[32]; } file[8];
    if (n >= 8) abort();
    if (!file[n].path[0]) {
        file[n].fd = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(file[n].path, sizeof file[n].path, "/proc/self/fd/%d", file[n].fd);
    }
    if (file[n].fd < 0 || ftruncate(file[n].fd, 0) || pwrite(file[n].fd, data, size, 0) != (ssize_t)size) abort();
    return file[n].path;
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

size_t kit_mutate(uint8_t *data, size_t size, size_t max, unsigned seed, kit_maker *make)
{
    enum { AFRESH = 16, AS_IT_IS = 8 };
    uint32_t pick = seed / AFRESH;
    size_t n = !size || seed % AFRESH == 0 ? make(pick / AS_IT_IS, data, max) : 0;
    if (n && pick % AS_IT_IS == 0) return n;
    return LLVMFuzzerMutate(data, n ? n : size, max);
}

size_t kit_read(const char *path, void *out, size_t max)
{
    FILE *f = fopen(path, "rbe");
    if (!f) abort();
    size_t n = fread(out, 1, max, f);
    bool more = fgetc(f) != EOF;
    fclose(f);
    return more ? 0 : n;
}

tokenizer *kit_vocab(const char *pre)
{
    const char *path = kit_path("vocab.gguf");
    err e;
    gguf_writer *w;
    gguf *g;
    tokenizer *t;
    kit_must(gguf_writer_open(&w, path, &e), &e);
    kit_must(random_vocab_write(w, pre, 600, &e), &e);
    kit_must(gguf_writer_begin(w, &e), &e);
    kit_must(gguf_writer_commit(w, &e), &e);
    gguf_writer_close(&w);
    kit_must(gguf_open(&g, path, &e), &e);
    kit_must(tokenizer_open(&t, g, &e), &e);
    gguf_close(&g);
    unlink(path);
    return t;
}

uint32_t take_byte(feed *b)
{
    return b->n ? b->n--, *b->p++ : 0;
}

static uint64_t take_le(feed *b, size_t n)
{
    uint64_t v = 0;
    if (n > b->n) n = b->n;
    memcpy(&v, b->p, n);
    b->p += n;
    b->n -= n;
    return v;
}

uint32_t take_u32(feed *b) { return (uint32_t)take_le(b, 4); }
uint64_t take_u64(feed *b) { return take_le(b, 8); }
