/* engine/pack.h: packed weights come from their file only when every byte is right, and whatever fails leaves the model file. */
#include "core/sandbox.h"
#include "engine/model.h"
#include "engine/model_random.h"
#include "engine/packed.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char model_file[128], dir[128];
static gguf *g;

static gguf *open_model(const char *file)
{
    err e;
    gguf *out;
    cr_assert_eq(gguf_open(&out, file, &e), ERR_OK, "%s", e.text);
    return out;
}

static void begin(void)
{
    err e;
    snprintf(model_file, sizeof model_file, "%s/m.gguf", support_tmpdir());
    snprintf(dir, sizeof dir, "%s/a/cache", support_tmpdir());
    cr_assert_eq(model_random_write("micro", "Q4_0", 1, model_file, NULL, NULL, &e), ERR_OK, "%s", e.text);
    g = open_model(model_file);
}

static void end(void) { gguf_close(&g); }

TestSuite(pack, .init = begin, .fini = end);

static pack_options options(void) { return (pack_options){ .on = true, .dir = dir }; }

static pack_file *open_pack(void)
{
    pack_options o = options();
    return pack_open(g, &o, 2, NULL);
}

/* Path of the one file in the cache. */
static const char *file_path(void)
{
    static char path[256];
    pack_entry *list;
    size_t n;
    err e;
    pack_options o = options();
    cr_assert_eq(pack_list(&o, &list, &n, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(n, 1, "%zu files", n);
    cr_assert_str_eq(list[0].model, model_file);
    snprintf(path, sizeof path, "%s/%s", dir, list[0].file);
    free(list);
    return path;
}

/* Matrices of the model that come from p, all of them equal to the file's. */
static uint32_t count_packed(const pack_file *p)
{
    err e;
    model *m, *plain;
    shard all = { 0, 0, true, true };
    model_shape s;
    cr_assert_eq(model_shape_read(&s, g, &e), ERR_OK, "%s", e.text);
    all.last = s.L;
    cr_assert_eq(model_open_packed(&m, g, p, all, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_open(&plain, g, all, &e), ERR_OK, "%s", e.text);
    uint32_t n = 0;
    for (uint32_t l = 0; l < s.L; l++) {
        const mat *a = &m->layer[l].wq, *b = &plain->layer[l].wq;
        const mat *const want[] = { b, b + 1, b + 2, b + 3, b + 4, b + 5, b + 6 }, *const got[] = { a, a + 1, a + 2, a + 3, a + 4, a + 5, a + 6 };
        for (int i = 0; i < 7; i++) {
            float x[1024], y[1024];
            cr_assert(want[i]->n_in <= 1024 && !want[i]->packed);
            n += got[i]->packed;
            for (uint32_t o = 0; o < want[i]->n_out; o++) {
                mat_row_f32(want[i], o, 0, want[i]->n_in, x);
                mat_row_f32(got[i], o, 0, want[i]->n_in, y);
                cr_assert_eq(memcmp(x, y, want[i]->n_in * sizeof *x), 0, "layer %u matrix %d row %u", l, i, o);
            }
        }
    }
    model_close(&m);
    model_close(&plain);
    return n;
}

static uint32_t all_of_them(void)
{
    err e;
    model_shape s;
    cr_assert_eq(model_shape_read(&s, g, &e), ERR_OK, "%s", e.text);
    return 7 * s.L;
}

static void flip(const char *path, off_t at)
{
    uint8_t b;
    int fd = open(path, O_RDWR);
    cr_assert(fd >= 0);
    cr_assert_eq(pread(fd, &b, 1, at), 1);
    b ^= 1;
    cr_assert_eq(pwrite(fd, &b, 1, at), 1);
    close(fd);
}

Test(pack, a_model_is_packed_once_and_then_found)
{
    pack_options o = options();
    text path = { 0 };
    bool made;
    err e;
    cr_assert_eq(pack_make(g, &o, false, 2, NULL, &path, &made, &e), ERR_OK, "%s", e.text);
    cr_assert(made);
    struct stat a, b;
    cr_assert_eq(stat(path.ptr, &a), 0);
    cr_assert_eq(a.st_mode & 077, 0, "others can read it");
    cr_assert_eq(pack_make(g, &o, false, 2, NULL, &path, &made, &e), ERR_OK, "%s", e.text);
    cr_assert(!made);
    cr_assert_eq(stat(path.ptr, &b), 0);
    cr_assert_eq(a.st_ino, b.st_ino);
    pack_file *p = open_pack();
    cr_assert_not_null(p);
    cr_assert_eq(count_packed(p), all_of_them());
    pack_close(&p);
    text_free(&path);
}

Test(pack, off_means_off)
{
    pack_options o = { .on = false, .dir = dir };
    cr_assert_null(pack_open(g, &o, 1, NULL));
    cr_assert_neq(access(dir, F_OK), 0);
}

/* A byte anywhere: in the header or the table the file is made again, in weights the model file serves them. */
Test(pack, damage_is_seen_wherever_it_is)
{
    pack_file *p = open_pack();
    pack_close(&p);
    struct stat st;
    cr_assert_eq(stat(file_path(), &st), 0);
    for (uint64_t i = 0; i < 40; i++) {
        off_t at = i < 8 ? (off_t)(i * 5) : (off_t)support_draw(support_seed(), i, (uint64_t)st.st_size);
        char path[256];
        snprintf(path, sizeof path, "%s", file_path());
        flip(path, at);
        p = open_pack();
        cr_assert_not_null(p);
        uint32_t n = count_packed(p), all = all_of_them();
        cr_assert(n == all || n + 1 == all, "byte %lld: %u of %u packed", (long long)at, n, all);
        bool gone = access(path, F_OK) != 0;
        cr_assert(n == all || gone, "byte %lld: a damaged file stays", (long long)at);
        pack_close(&p);
        p = open_pack();
        cr_assert_eq(count_packed(p), all, "byte %lld: not made again", (long long)at);
        pack_close(&p);
    }
}

/* A stage maps the weights when it can remove nothing any more. */
Test(pack, a_worker_in_its_sandbox_marks_a_damaged_file_for_the_next_start)
{
    pack_file *p = open_pack();
    struct stat st;
    char path[256];
    int status;
    snprintf(path, sizeof path, "%s", file_path());
    cr_assert_eq(stat(path, &st), 0);
    for (off_t at = 0; at < st.st_size; at += 64) flip(path, at); /* the table is read; some byte of each tensor is hit */
    uint32_t whole = all_of_them();
    pid_t child = fork();
    if (child == 0) {
        bool on;
        err e;
        _exit(sandbox_enter(&(sandbox_want){ 0 }, &on, &e) ? 2 : count_packed(p) < whole ? 0 : 1);
    }
    cr_assert(waitpid(child, &status, 0) == child && status == 0, "%d", status);
    cr_assert(stat(path, &st) || st.st_mtim.tv_sec == 1, "a damaged file stays as it is");
    pack_close(&p);
    p = open_pack();
    cr_assert_eq(count_packed(p), all_of_them(), "not made again");
    pack_close(&p);
}

/* Weights that are damaged where no start has looked: the command looks everywhere. */
Test(pack, the_command_mends_a_damaged_file)
{
    pack_file *p = open_pack();
    pack_close(&p);
    struct stat st;
    cr_assert_eq(stat(file_path(), &st), 0);
    pack_options o = options();
    text path = { 0 };
    bool made;
    err e;
    cr_assert_eq(pack_make(g, &o, true, 1, NULL, &path, &made, &e), ERR_OK, "%s", e.text);
    cr_assert(!made);
    flip(file_path(), st.st_size / 4096 / 2 * 4096);
    cr_assert_eq(pack_make(g, &o, true, 1, NULL, &path, &made, &e), ERR_OK, "%s", e.text);
    cr_assert(made);
    p = open_pack();
    cr_assert_eq(count_packed(p), all_of_them());
    pack_close(&p);
    text_free(&path);
}

Test(pack, a_file_cut_short_is_made_again)
{
    pack_file *p = open_pack();
    pack_close(&p);
    struct stat st;
    cr_assert_eq(stat(file_path(), &st), 0);
    const off_t cuts[] = { 0, 7, 100, 4096, st.st_size / 2, st.st_size - 1 };
    for (unsigned i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        cr_assert_eq(truncate(file_path(), cuts[i]), 0);
        p = open_pack();
        cr_assert_not_null(p);
        cr_assert_eq(count_packed(p), all_of_them());
        pack_close(&p);
        struct stat now;
        cr_assert_eq(stat(file_path(), &now), 0);
        cr_assert_eq(now.st_size, st.st_size);
    }
}

/* Another model, or the same file changed in place, has another key. */
Test(pack, a_changed_model_does_not_meet_old_weights)
{
    pack_file *p = open_pack();
    pack_close(&p);
    char first[256];
    snprintf(first, sizeof first, "%s", file_path());
    const gguf_tensor *t = gguf_tensor_find(g, "blk.0.attn_q.weight");
    cr_assert_not_null(t);
    flip(model_file, (off_t)(t->offset + t->bytes / 3));
    gguf_close(&g);
    g = open_model(model_file);
    p = open_pack();
    cr_assert_eq(count_packed(p), all_of_them());
    pack_close(&p);
    cr_assert_eq(unlink(first), 0);
    cr_assert_str_neq(file_path(), first);
}

Test(pack, many_processes_pack_once)
{
    enum { N = 6 };
    pid_t child[N];
    int out[2];
    cr_assert_eq(pipe(out), 0);
    for (int i = 0; i < N; i++) {
        child[i] = fork();
        cr_assert(child[i] >= 0);
        if (child[i]) continue;
        pack_options o = options();
        text path = { 0 };
        bool made = false;
        err e;
        char said = pack_make(g, &o, false, 1, NULL, &path, &made, &e) ? 'e' : made ? 'm' : 'f';
        _exit(write(out[1], &said, 1) == 1 ? 0 : 1);
    }
    char said[N];
    for (int i = 0; i < N; i++) {
        cr_assert_eq(read(out[0], said + i, 1), 1);
        cr_assert_neq(said[i], 'e');
        waitpid(child[i], NULL, 0);
    }
    pack_file *p = open_pack();
    cr_assert_eq(count_packed(p), all_of_them());
    pack_close(&p);
    file_path();
}

static void set_used(const char *path, time_t when)
{
    const struct timespec t[2] = { { .tv_sec = when }, { .tv_sec = when } };
    cr_assert_eq(utimensat(AT_FDCWD, path, t, 0), 0);
}

Test(pack, the_longest_unused_goes_when_the_cap_is_reached)
{
    char file[3][160], packed[3][256];
    struct stat st;
    err e;
    bool made;
    text path = { 0 };
    pack_options o = options();
    for (int i = 0; i < 3; i++) {
        snprintf(file[i], sizeof file[i], "%s/m%d.gguf", support_tmpdir(), i);
        cr_assert_eq(model_random_write("micro", "Q8_0", (uint64_t)i + 5, file[i], NULL, NULL, &e), ERR_OK, "%s", e.text);
        gguf *other = open_model(file[i]);
        cr_assert_eq(pack_make(other, &o, false, 1, NULL, &path, &made, &e), ERR_OK, "%s", e.text);
        gguf_close(&other);
        snprintf(packed[i], sizeof packed[i], "%s", path.ptr);
        cr_assert_eq(stat(path.ptr, &st), 0);
        set_used(path.ptr, 1000 + (i == 0 ? 500 : i));          /* the first one was used last */
        if (i == 1) o.max_bytes = (uint64_t)st.st_size * 5 / 2;  /* two fit */
    }
    cr_assert_eq(access(packed[0], F_OK), 0);
    cr_assert_neq(access(packed[1], F_OK), 0, "the longest unused is still there");
    cr_assert_eq(access(packed[2], F_OK), 0);
    o.max_bytes = 1000;
    cr_assert_eq(pack_make(g, &o, false, 1, NULL, &path, &made, &e), ERR_FULL);
    cr_assert_null(pack_open(g, &o, 1, NULL), "a cap of 1000 bytes");
    size_t n;
    cr_assert_eq(pack_clear(&o, &n, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(n, 2);
    pack_entry *list;
    cr_assert_eq(pack_list(&o, &list, &n, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(n, 0);
    free(list);
    text_free(&path);
}

/* A folder that cannot be: its parent is a file (root writes into read-only folders, so that would prove nothing). */
Test(pack, a_cache_that_cannot_be_written_leaves_the_model_file)
{
    char blocked[200];
    int fd = open(support_tmpdir(), O_RDONLY | O_DIRECTORY);
    cr_assert(fd >= 0);
    close(fd);
    snprintf(blocked, sizeof blocked, "%s/below", model_file);
    pack_options o = { .on = true, .dir = blocked };
    cr_assert_null(pack_open(g, &o, 1, NULL));
    err e;
    bool made;
    text path = { 0 };
    cr_assert_eq(pack_make(g, &o, false, 1, NULL, &path, &made, &e), ERR_IO);
    cr_assert(strstr(e.text, "m.gguf/below"), "%s", e.text);
    text_free(&path);
}

static bool refuse(void *arg, uint64_t done, uint64_t total)
{
    (void)arg, (void)done, (void)total;
    return false;
}

Test(pack, giving_up_leaves_nothing_behind)
{
    pack_options o = options();
    pack_meter m = { refuse, NULL };
    cr_assert_null(pack_open(g, &o, 1, &m));
    pack_entry *list;
    size_t n;
    err e;
    cr_assert_eq(pack_list(&o, &list, &n, &e), ERR_OK);
    cr_assert_eq(n, 0);
    free(list);
    pack_file *p = open_pack();
    cr_assert_eq(count_packed(p), all_of_them());
    pack_close(&p);
    file_path();
}
