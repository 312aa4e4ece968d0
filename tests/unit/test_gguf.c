/* GGUF reader and writer: what is written is read, what is wrong is refused with a message that names it, and no damage
 * of any kind makes the reader crash. */
#include "core/rng.h"
#include "engine/gguf_write.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64], path[96];

static void make_dir(void)
{
    snprintf(dir, sizeof dir, "/tmp/sluice-gguf-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/m.gguf", dir);
}

static void drop_dir(void)
{
    unlink(path);
    cr_assert_eq(rmdir(dir), 0, "the folder holds more than the file");
}

static void save(const void *p, size_t n) { cr_assert(support_write(path, p, n)); }

/* ---- raw pieces of a file ---- */

static void u32(text *t, uint32_t v) { cr_assert(text_add(t, &v, 4)); }
static void u64(text *t, uint64_t v) { cr_assert(text_add(t, &v, 8)); }
static void str(text *t, const char *s) { u64(t, strlen(s)); cr_assert(text_adds(t, s)); }

static void head(text *t, uint32_t version, uint64_t tensors, uint64_t keys)
{
    cr_assert(text_adds(t, "GGUF"));
    u32(t, version);
    u64(t, tensors);
    u64(t, keys);
}

static void key_u32(text *t, const char *key, uint32_t v) { str(t, key); u32(t, GGUF_U32); u32(t, v); }

static void tensor(text *t, const char *name, uint32_t n_dims, uint64_t d0, uint64_t d1, uint32_t type, uint64_t offset)
{
    str(t, name);
    u32(t, n_dims);
    if (n_dims > 0) u64(t, d0);
    for (uint32_t i = 1; i < n_dims && i < 9; i++) u64(t, d1);
    u32(t, type);
    u64(t, offset);
}

static void data(text *t, size_t n)
{
    while (t->len % 32) cr_assert(text_add(t, "", 1));
    for (size_t i = 0; i < n; i++) cr_assert(text_add(t, "x", 1));
}

/* ---- the faults ---- */

static void f_empty(text *t) { (void)t; }
static void f_short_magic(text *t) { text_adds(t, "GG"); }
static void f_magic(text *t) { text_adds(t, "GGML\3\0\0\0............"); }
static void f_fugg(text *t) { text_adds(t, "FUGG...."); }
static void f_v1(text *t) { head(t, 1, 0, 0); }
static void f_v4(text *t) { head(t, 4, 0, 0); }
static void f_v0(text *t) { head(t, 0, 0, 0); }
static void f_big_endian(text *t) { head(t, 3u << 24, 0, 0); }
static void f_no_counts(text *t) { text_adds(t, "GGUF"); u32(t, 3); u32(t, 0); }
static void f_keys_huge(text *t) { head(t, 3, 0, UINT64_MAX); }
static void f_keys_unfit(text *t) { head(t, 3, 0, 3); key_u32(t, "a", 1); }
static void f_tensors_huge(text *t) { head(t, 3, UINT64_MAX / 2, 0); data(t, 200); }
static void f_tensors_unfit(text *t) { head(t, 3, 4, 0); tensor(t, "a", 1, 8, 0, 0, 0); }
static void f_key_empty(text *t) { head(t, 3, 0, 1); key_u32(t, "", 1); u64(t, 0); }
static void f_key_len(text *t) { head(t, 3, 0, 1); u64(t, UINT64_MAX - 4); u64(t, 0); u64(t, 0); }
static void f_key_long(text *t)
{
    head(t, 3, 0, 1);
    u64(t, 70000);
    for (int i = 0; i < 70000; i++) text_adds(t, "k");
    u32(t, GGUF_U32);
    u32(t, 1);
}
static void f_key_nul(text *t) { head(t, 3, 0, 1); u64(t, 3); text_add(t, "a\0b", 3); u32(t, GGUF_U32); u32(t, 1); }
static void f_key_twice(text *t) { head(t, 3, 0, 2); key_u32(t, "same", 1); key_u32(t, "same", 2); }
static void f_kind(text *t) { head(t, 3, 0, 1); str(t, "odd.kind"); u32(t, 13); u64(t, 0); }
static void f_value_cut(text *t) { head(t, 3, 0, 1); str(t, "cut.value"); u32(t, GGUF_U64); u32(t, 0); }
static void f_str_len(text *t) { head(t, 3, 0, 1); str(t, "long.str"); u32(t, GGUF_STR); u64(t, (uint64_t)1 << 63); }
static void f_bool(text *t) { head(t, 3, 0, 1); str(t, "bad.bool"); u32(t, GGUF_BOOL); text_add(t, "\2", 1); u64(t, 0); }
static void arr(text *t, const char *key, uint32_t elem, uint64_t n) { str(t, key); u32(t, GGUF_ARR); u32(t, elem); u64(t, n); }
static void f_arr_kind(text *t) { head(t, 3, 0, 1); arr(t, "odd.arr", 77, 1); u64(t, 0); }
static void f_arr_arr(text *t) { head(t, 3, 0, 1); arr(t, "deep.arr", GGUF_ARR, 1); u32(t, GGUF_U8); u64(t, 0); }
static void f_arr_huge(text *t) { head(t, 3, 0, 1); arr(t, "huge.arr", GGUF_U64, ((uint64_t)1 << 61) + 1); u64(t, 0); }
static void f_arr_unfit(text *t) { head(t, 3, 0, 1); arr(t, "unfit.arr", GGUF_U32, 3); u64(t, 0); }
static void f_strs_huge(text *t) { head(t, 3, 0, 1); arr(t, "huge.strs", GGUF_STR, (uint64_t)1 << 60); u64(t, 0); }
static void f_strs_len(text *t) { head(t, 3, 0, 1); arr(t, "len.strs", GGUF_STR, 2); str(t, "a"); u64(t, 9); u64(t, 0); }
static void f_strs_cut(text *t) { head(t, 3, 0, 1); arr(t, "cut.strs", GGUF_STR, 2); str(t, "abcdefghi"); }
static void f_bools(text *t) { head(t, 3, 0, 1); arr(t, "bad.bools", GGUF_BOOL, 2); text_add(t, "\1\7", 2); }
static void align(text *t, uint32_t a) { head(t, 3, 0, 1); key_u32(t, "general.alignment", a); }
static void f_align_0(text *t) { align(t, 0); }
static void f_align_4(text *t) { align(t, 4); }
static void f_align_24(text *t) { align(t, 24); }
static void f_align_huge(text *t) { align(t, 1u << 31); }
static void f_align_kind(text *t) { head(t, 3, 0, 1); str(t, "general.alignment"); u32(t, GGUF_STR); str(t, "32"); }
static void one(text *t, const char *name, uint32_t n_dims, uint64_t d0, uint64_t d1, uint32_t type, uint64_t offset)
{
    head(t, 3, 1, 0);
    tensor(t, name, n_dims, d0, d1, type, offset);
    data(t, 128);
}
static void f_name_empty(text *t) { one(t, "", 1, 8, 0, 0, 0); }
static void f_name_long(text *t) { one(t, "0123456789012345678901234567890123456789012345678901234567890123", 1, 8, 0, 0, 0); }
static void f_name_control(text *t) { one(t, "a\033[2J", 1, 8, 0, 0, 0); }
static void f_dims_0(text *t) { one(t, "no.dims", 0, 0, 0, 0, 0); }
static void f_dims_5(text *t) { one(t, "five.dims", 5, 1, 1, 0, 0); }
static void f_dims_huge(text *t) { one(t, "many.dims", UINT32_MAX, 1, 1, 0, 0); }
static void f_dim_zero(text *t) { one(t, "zero.dim", 2, 8, 0, 0, 0); }
static void f_dim_negative(text *t) { one(t, "neg.dim", 1, UINT64_MAX, 0, 0, 0); }
static void f_dim_product(text *t) { one(t, "prod.dim", 2, (uint64_t)1 << 33, (uint64_t)1 << 33, 0, 0); }
static void f_bytes_overflow(text *t) { one(t, "bytes.dim", 1, (uint64_t)1 << 62, 0, 0, 0); }
static void f_type(text *t) { one(t, "odd.type", 1, 8, 0, 4, 0); }
static void f_type_huge(text *t) { one(t, "odd.type", 1, 8, 0, UINT32_MAX, 0); }
static void f_row(text *t) { one(t, "row.q8", 1, 33, 0, 8, 0); }
static void f_offset_odd(text *t) { one(t, "odd.offset", 1, 8, 0, 0, 4); }
static void f_offset_far(text *t) { one(t, "far.offset", 1, 8, 0, 0, 4096); }
static void f_offset_wrap(text *t) { one(t, "wrap.offset", 1, 8, 0, 0, UINT64_MAX - 31); }
static void f_data_cut(text *t) { one(t, "cut.data", 1, 64, 0, 0, 0); }
static void f_tensor_twice(text *t)
{
    head(t, 3, 2, 0);
    tensor(t, "same.t", 1, 8, 0, 0, 0);
    tensor(t, "same.t", 1, 8, 0, 0, 32);
    data(t, 64);
}
static void f_tensor_cut(text *t) { head(t, 3, 1, 0); str(t, "cut.row.of.the.table"); u32(t, 2); u64(t, 8); }

static const struct { void (*make)(text *); const char *want;
} faults[] = {
    { f_empty, "not a GGUF file" },
    { f_short_magic, "not a GGUF file" },
    { f_magic, "starts with 'GGML'" },
    { f_fugg, "big-endian" },
    { f_v1, "version 1" },
    { f_v4, "version 4" },
    { f_v0, "version 0" },
    { f_big_endian, "big-endian GGUF (version 3)" },
    { f_no_counts, "tensor count" },
    { f_keys_huge, "claims 18446744073709551615 keys" },
    { f_keys_unfit, "claims 3 keys" },
    { f_tensors_huge, "claims 9223372036854775807 tensors" },
    { f_tensors_unfit, "claims 4 tensors" },
    { f_key_empty, "name of key 0 has 0 bytes" },
    { f_key_len, "name of key 0 at byte" },
    { f_key_long, "has 70000 bytes" },
    { f_key_nul, "'a?b' holds a NUL" },
    { f_key_twice, "key 'same' is there twice" },
    { f_kind, "'odd.kind' has unknown kind 13" },
    { f_value_cut, "key 'cut.value'" },
    { f_str_len, "key 'long.str'" },
    { f_bool, "'bad.bool': a bool has the value 2" },
    { f_arr_kind, "'odd.arr' is an array of unknown kind 77" },
    { f_arr_arr, "'deep.arr' is an array of arrays" },
    { f_arr_huge, "'huge.arr' claims" },
    { f_arr_unfit, "'unfit.arr' claims 3" },
    { f_strs_huge, "'huge.strs' claims" },
    { f_strs_len, "key 'len.strs'" },
    { f_strs_cut, "key 'cut.strs'" },
    { f_bools, "'bad.bools': a bool has the value 7" },
    { f_align_0, "'general.alignment' is 0" },
    { f_align_4, "is 4 (a power" },
    { f_align_24, "is 24" },
    { f_align_huge, "is 2147483648" },
    { f_align_kind, "'general.alignment' is not a count" },
    { f_name_empty, "name of tensor 0" },
    { f_name_long, "has 64 bytes (1 to 63)" },
    { f_name_control, "'a?[2J' holds a control character" },
    { f_dims_0, "'no.dims' has 0 dimensions" },
    { f_dims_5, "'five.dims' has 5 dimensions" },
    { f_dims_huge, "has 4294967295 dimensions" },
    { f_dim_zero, "'zero.dim': dimension 1 is 0" },
    { f_dim_negative, "'neg.dim': dimension 0 of 18446744073709551615" },
    { f_dim_product, "'prod.dim': dimension 1" },
    { f_bytes_overflow, "'bytes.dim': 4611686018427387904 elements of F32 overflow" },
    { f_type, "'odd.type' has unknown type 4" },
    { f_type_huge, "unknown type 4294967295" },
    { f_row, "'row.q8': row length 33" },
    { f_offset_odd, "'odd.offset': offset 4" },
    { f_offset_far, "'far.offset': 32 bytes at offset 4096" },
    { f_offset_wrap, "'wrap.offset': 32 bytes at offset" },
    { f_data_cut, "'cut.data': 256 bytes at offset 0, but the data section has 128" },
    { f_tensor_twice, "tensor 'same.t' is there twice" },
    { f_tensor_cut, "cut.row.of.the.table" },
};

Test(gguf, every_fault_is_refused_with_its_name, .init = make_dir, .fini = drop_dir)
{
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        text t = { 0 };
        faults[i].make(&t);
        save(t.ptr ? t.ptr : "", t.len);
        gguf *g;
        err e = { 0 };
        err_code rc = gguf_open(&g, path, &e);
        cr_expect_eq(rc, ERR_MODEL, "fault %zu ('%s') gives code %d: %s", i, faults[i].want, rc, e.text);
        cr_expect_null(g);
        cr_expect(strstr(e.text, faults[i].want) && !strncmp(e.text, path, strlen(path)), "fault %zu: '%s' is not in '%s'", i,
                  faults[i].want, e.text);
        for (const char *c = e.text; *c; c++) cr_expect(*c >= 0x20 && *c < 0x7f, "fault %zu: the message is not printable", i);
        text_free(&t);
        gguf_close(&g);
    }
}

/* ---- a whole file ---- */

static const float values[4] = { 1.5f, -2, 3e-9f, 0 };

static void write_whole(bool commit)
{
    gguf_writer *w;
    err e = { 0 };
    cr_assert_eq(gguf_writer_open(&w, path, &e), ERR_OK, "%s", e.text);
    gguf_writer_str(w, "general.architecture", (view){ "llama", 5 });
    gguf_writer_u32(w, "a.u32", 7);
    gguf_writer_u64(w, "a.u64", UINT64_MAX);
    gguf_writer_f32(w, "a.f32", -0.5f);
    gguf_writer_bool(w, "a.bool", true);
    gguf_writer_num(w, "a.i8", GGUF_I8, &(int8_t){ -3 });
    gguf_writer_num(w, "a.i16", GGUF_I16, &(int16_t){ 300 });
    gguf_writer_num(w, "a.u16", GGUF_U16, &(uint16_t){ 65535 });
    gguf_writer_num(w, "a.i64", GGUF_I64, &(int64_t){ INT64_MIN });
    gguf_writer_num(w, "a.f64", GGUF_F64, &(double){ 1e300 });
    gguf_writer_arr(w, "b.i32", GGUF_I32, (int32_t[]){ -1, 2, 3 }, 3);
    gguf_writer_arr(w, "b.f32", GGUF_F32, values, 4);
    gguf_writer_arr(w, "b.none", GGUF_U8, "", 0);
    gguf_writer_strs(w, "b.strs", (view[]){ { "one", 3 }, { "", 0 }, { "th\0ree", 6 } }, 3);
    gguf_writer_tensor(w, "t.first", 0, 1, (uint64_t[]){ 3 });
    gguf_writer_tensor(w, "t.q8", 8, 2, (uint64_t[]){ 64, 2 });
    cr_assert_eq(gguf_writer_begin(w, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_writer_commit(w, &e), ERR_STATE, "a file without its data was accepted");
    char q8[136];
    memset(q8, 'q', sizeof q8);
    cr_assert_eq(gguf_writer_data(w, 1, 100, q8, 37, &e), ERR_STATE, "data beyond the tensor was accepted");
    cr_assert_eq(gguf_writer_data(w, 1, 100, q8, 36, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_writer_data(w, 1, 0, q8, 100, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(gguf_writer_data(w, 0, 0, values, 12, &e), ERR_OK, "%s", e.text);
    if (commit) cr_assert_eq(gguf_writer_commit(w, &e), ERR_OK, "%s", e.text);
    gguf_writer_close(&w);
}

static gguf *open_ok(void)
{
    gguf *g;
    err e = { 0 };
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    return g;
}

Test(gguf, what_was_written_is_read, .init = make_dir, .fini = drop_dir)
{
    write_whole(true);
    gguf *g = open_ok();
    uint64_t u;
    double d;
    bool b;
    view v;
    cr_assert_eq(gguf_n_keys(g), 14);
    cr_assert(gguf_get_u64(g, "a.u32", &u) && u == 7);
    cr_assert(gguf_get_u64(g, "a.u64", &u) && u == UINT64_MAX);
    cr_assert(gguf_get_u64(g, "a.i16", &u) && u == 300);
    cr_assert(gguf_get_u64(g, "a.u16", &u) && u == 65535);
    cr_assert(!gguf_get_u64(g, "a.i8", &u), "a negative number is no count");
    cr_assert(!gguf_get_u64(g, "a.f32", &u) && !gguf_get_u64(g, "a.bool", &u) && !gguf_get_u64(g, "none", &u));
    cr_assert(gguf_get_f64(g, "a.f32", &d) && d == -0.5);
    cr_assert(gguf_get_f64(g, "a.f64", &d) && d == 1e300);
    cr_assert(gguf_get_f64(g, "a.i64", &d) && d == -0x1p63);
    cr_assert(gguf_get_bool(g, "a.bool", &b) && b);
    cr_assert(!gguf_get_bool(g, "a.u32", &b));
    cr_assert(gguf_get_str(g, "general.architecture", &v) && v.len == 5 && !memcmp(v.ptr, "llama", 5));
    cr_assert_eq(gguf_raw(g, 1).len, 4);
    cr_assert_eq(gguf_raw(g, 0).len, 13);
    gguf_close(&g);
}

Test(gguf, arrays_are_read, .init = make_dir, .fini = drop_dir)
{
    write_whole(true);
    gguf *g = open_ok();
    gguf_kind kind;
    uint64_t n;
    int64_t i;
    double d;
    view v;
    cr_assert(gguf_get_arr(g, "b.i32", &kind, &n) && kind == GGUF_I32 && n == 3);
    cr_assert(gguf_arr_i64(g, "b.i32", 0, &i) && i == -1);
    cr_assert(!gguf_arr_i64(g, "b.i32", 3, &i), "behind the end");
    cr_assert(gguf_arr_f64(g, "b.f32", 2, &d) && (float)d == 3e-9f);
    cr_assert(!gguf_arr_i64(g, "b.f32", 2, &i) && !gguf_arr_str(g, "b.f32", 0, &v));
    cr_assert(gguf_arr_str(g, "b.strs", 2, &v) && v.len == 6 && !memcmp(v.ptr, "th\0ree", 6));
    cr_assert(gguf_arr_str(g, "b.strs", 1, &v) && v.len == 0);
    cr_assert(!gguf_arr_str(g, "b.strs", 3, &v) && !gguf_arr_f64(g, "b.strs", 0, &d));
    cr_assert(gguf_get_arr(g, "b.none", &kind, &n) && n == 0);
    cr_assert(!gguf_get_arr(g, "a.u32", &kind, &n) && n == 0);
    gguf_close(&g);
}

Test(gguf, tensors_lie_where_the_table_says, .init = make_dir, .fini = drop_dir)
{
    write_whole(true);
    gguf *g = open_ok();
    const gguf_tensor *a = gguf_tensor_find(g, "t.first"), *b = gguf_tensor_find(g, "t.q8");
    cr_assert(a && b && !gguf_tensor_find(g, "t.none"));
    cr_assert(a->bytes == 12 && b->bytes == 136 && b->dim[0] == 64 && b->dim[1] == 2 && b->dim[2] == 1);
    cr_assert_eq(b->offset - a->offset, 32);
    gguf_range r;
    err e = { 0 };
    cr_assert_eq(gguf_map(g, a->offset, a->bytes, &r, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(memcmp(r.data, values, 12), 0);
    gguf_unmap(&r);
    cr_assert_eq(gguf_map(g, b->offset, b->bytes + 25, &r, &e), ERR_MODEL, "a range beyond the file was mapped");
    cr_assert_eq(truncate(path, 100), 0);
    cr_assert_eq(gguf_map(g, a->offset, a->bytes, &r, &e), ERR_IO, "a file that shrank was mapped");
    gguf_close(&g);
}

Test(gguf, the_digest_covers_header_and_size_and_not_the_data, .init = make_dir, .fini = drop_dir)
{
    char first[33];
    write_whole(true);
    gguf *g = open_ok();
    snprintf(first, sizeof first, "%s", gguf_digest(g));
    uint64_t at = gguf_tensor_at(g, 1)->offset;
    gguf_close(&g);
    cr_assert_eq(strlen(first), 32);
    int fd = open(path, O_WRONLY);
    cr_assert_eq(pwrite(fd, "!", 1, (off_t)at), 1);
    g = open_ok();
    cr_assert_str_eq(gguf_digest(g), first);
    gguf_close(&g);
    cr_assert_eq(pwrite(fd, "A", 1, 32), 1);               /* inside the first key's name */
    g = open_ok();
    cr_assert_str_neq(gguf_digest(g), first);
    gguf_close(&g);
    close(fd);
}

Test(gguf, an_unfinished_file_leaves_nothing, .init = make_dir, .fini = drop_dir)
{
    write_whole(false);
    cr_assert_neq(access(path, F_OK), 0);
    save("old", 3);
    write_whole(false);
    struct stat st;
    cr_assert(!stat(path, &st) && st.st_size == 3, "the older file is gone");
}

Test(gguf, the_writer_names_the_tensor_it_cannot_write, .init = make_dir, .fini = drop_dir)
{
    gguf_writer *w;
    err e = { 0 };
    cr_assert_eq(gguf_writer_open(&w, path, &e), ERR_OK, "%s", e.text);
    gguf_writer_tensor(w, "ragged", 8, 1, (uint64_t[]){ 33 });
    gguf_writer_u32(w, "k", 1);
    cr_assert_eq(gguf_writer_begin(w, &e), ERR_MODEL);
    cr_assert_not_null(strstr(e.text, "ragged"));
    gguf_writer_close(&w);
}

Test(gguf, what_is_no_file_is_an_io_error, .init = make_dir, .fini = drop_dir)
{
    gguf *g;
    err e = { 0 };
    cr_assert_eq(gguf_open(&g, path, &e), ERR_IO);
    cr_assert_eq(gguf_open(&g, dir, &e), ERR_IO);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(gguf_open(&g, path, &e), ERR_IO, "a pipe was opened");
}

/* ---- damage ---- */

static const uint64_t nasty[] = { 0,
                                  1,
                                  7,
                                  8,
                                  9,
                                  12,
                                  13,
                                  0x7F,
                                  0x80,
                                  0xFF,
                                  0x7FFF,
                                  0xFFFF,
                                  0x10000,
                                  0x7FFFFFFF,
                                  0x80000000,
                                  0xFFFFFFFF,
                                  (uint64_t)1 << 32,
                                  (uint64_t)1 << 61,
                                  ((uint64_t)1 << 61) + 1,
                                  (uint64_t)1 << 62,
                                  INT64_MAX,
                                  (uint64_t)1 << 63,
                                  UINT64_MAX - 7,
                                  UINT64_MAX };

static size_t damage(uint8_t *p, size_t n, uint64_t seed, uint64_t round)
{
    uint64_t i = round * 64, how = rng_u64(seed, i++) % 8;
    if (how == 0) return (size_t)(rng_u64(seed, i) % n);                       /* cut off */
    size_t times = 1 + (size_t)(rng_u64(seed, i++) % 8);
    for (size_t k = 0; k < times; k++) {
        uint64_t r = rng_u64(seed, i++), value = nasty[rng_u64(seed, i++) % (sizeof nasty / sizeof *nasty)];
        if (how < 4) p[r % n] ^= (uint8_t)(1u << (r >> 32) % 8);
        else memcpy(p + r % (n - 8), &value, how < 6 ? 4 : 8);                 /* an integer of the file, perhaps */
    }
    return n;
}

/* Use everything that an open file offers. */
static uint64_t walk(const gguf *g)
{
    uint64_t sum = 0, u;
    double d;
    view v;
    gguf_kind kind;
    for (uint64_t i = 0; i < gguf_n_keys(g); i++) {
        const char *key = gguf_key(g, i, &kind);
        sum += gguf_get_u64(g, key, &u) + gguf_get_f64(g, key, &d) + gguf_raw(g, i).len;
        if (gguf_get_str(g, key, &v) && v.len) sum += ((const uint8_t *)v.ptr)[v.len - 1];
        if (!gguf_get_arr(g, key, &kind, &u)) continue;
        for (uint64_t k = 0; k < u + 1 && k < 5000; k++) {
            if (gguf_arr_str(g, key, k, &v) && v.len) sum += ((const uint8_t *)v.ptr)[v.len - 1];
            sum += gguf_arr_f64(g, key, k, &d);
        }
    }
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        gguf_range r;
        cr_assert_eq(gguf_map(g, t->offset, t->bytes, &r, NULL), ERR_OK);
        sum += r.data[0] + r.data[t->bytes - 1];
        gguf_unmap(&r);
    }
    return sum;
}

Test(gguf, no_damage_makes_the_reader_crash, .init = make_dir, .fini = drop_dir)
{
    uint64_t seed = support_seed();
    write_whole(true);
    text whole = { 0 }, t = { 0 };
    err e = { 0 };
    cr_assert_eq(text_read_file(&whole, path, 1 << 20, &e), ERR_OK, "%s", e.text);
    int opened = 0;
    for (uint64_t round = 0; round < 3000; round++) {
        text_clear(&t);
        cr_assert(text_add(&t, whole.ptr, whole.len));
        size_t n = damage((uint8_t *)t.ptr, t.len, seed, round);
        save(t.ptr, n);
        gguf *g;
        e = (err){ 0 };
        err_code rc = gguf_open(&g, path, &e);
        cr_assert(rc == ERR_OK || (rc == ERR_MODEL && e.text[0]), "round %" PRIu64 ": code %d '%s'", round, rc, e.text);
        if (!rc) {
            (void)walk(g);
            opened++;
        }
        gguf_close(&g);
    }
    cr_expect(opened > 150 && opened < 2850, "%d of 3000 damaged files opened: the damage is of one kind only", opened);
    text_free(&whole);
    text_free(&t);
}
