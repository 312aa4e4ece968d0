/* engine/gguf_split.h, and reading models in parts: what was cut is put together again, and sets that do not belong together
 * are refused with the name of what is wrong. */
#include "engine/gguf_split.h"
#include "engine/model.h"
#include "engine/model_random.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PART_BYTES = 1000000 }; /* tiny has 10 MB in F32 */

static const char *at(const char *name)
{
    static char path[6][256];
    static unsigned turn;
    turn = (turn + 1) % 6;
    snprintf(path[turn], sizeof path[turn], "%s/%s", support_tmpdir(), name);
    return path[turn];
}

static const char *part(const char *prefix, uint32_t no, uint32_t count)
{
    char name[64];
    snprintf(name, sizeof name, "%s-%05u-of-%05u.gguf", prefix, no, count);
    return at(name);
}

static gguf *open_or_fail(const char *path)
{
    gguf *g;
    err e = { 0 };
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    return g;
}

/* A random model at NAME.gguf and its parts at NAME-...; returns how many. */
static uint32_t make_parts(const char *name, const char *quant, uint64_t seed)
{
    char whole[64];
    err e = { 0 };
    uint32_t parts;
    gguf_meter m = { 0 };
    snprintf(whole, sizeof whole, "%s.gguf", name);
    cr_assert_eq(model_random_write("tiny", quant, seed, at(whole), NULL, NULL, &e), ERR_OK, "%s", e.text);
    gguf *g = open_or_fail(at(whole));
    cr_assert_eq(gguf_split(g, at(name), PART_BYTES, &m, &parts, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(m.done, m.total);
    gguf_close(&g);
    return parts;
}

static void refuse(const char *path, const char *word)
{
    gguf *g;
    err e = { 0 };
    err_code rc = gguf_open(&g, path, &e);
    cr_assert(rc == ERR_MODEL || rc == ERR_IO, "%d", rc);
    cr_assert_null(g);
    cr_expect(strstr(e.text, word), "no \"%s\" in: %s", word, e.text);
}

static bool same_file(const char *a, const char *b)
{
    text x = { 0 }, y = { 0 };
    err e;
    cr_assert(!text_read_file(&x, a, (size_t)1 << 30, &e) && !text_read_file(&y, b, (size_t)1 << 30, &e));
    bool same = x.len == y.len && !memcmp(x.ptr, y.ptr, x.len);
    text_free(&x);
    text_free(&y);
    return same;
}

static void check_tensor(const gguf *a, const gguf *b, const gguf_tensor *t)
{
    const gguf_tensor *u = gguf_tensor_find(b, t->name);
    gguf_range x, y;
    err e = { 0 };
    cr_assert(u && u->type == t->type && u->bytes == t->bytes && !memcmp(u->dim, t->dim, sizeof t->dim), "%s", t->name);
    cr_assert(!gguf_map(a, t->offset, t->bytes, &x, &e) && !gguf_map(b, u->offset, u->bytes, &y, &e), "%s", e.text);
    cr_assert_eq(memcmp(x.data, y.data, t->bytes), 0, "%s", t->name);
    gguf_unmap(&x);
    gguf_unmap(&y);
}

Test(gguf_split, parts_hold_the_same_tensors_and_merge_to_the_same_file)
{
    uint32_t n = make_parts("a", "F32", 1);
    cr_assert_gt(n, 3);
    gguf *whole = open_or_fail(at("a.gguf")), *g = open_or_fail(part("a", 1, n));
    cr_assert_eq(gguf_n_parts(g), n);
    cr_assert_str_eq(gguf_part_path(g, n - 1), part("a", n, n));
    cr_assert_null(gguf_part_path(g, n));
    cr_assert_eq(gguf_n_tensors(g), gguf_n_tensors(whole));
    cr_assert_str_neq(gguf_digest(g), gguf_digest(whole));
    for (uint64_t i = 0; i < gguf_n_tensors(whole); i++) check_tensor(whole, g, gguf_tensor_at(whole, i));
    gguf_meter m = { 0 };
    err e = { 0 };
    model *mod;
    cr_assert_eq(model_open(&mod, g, (shard){ 0, 4, true, true }, &e), ERR_OK, "%s", e.text);
    model_close(&mod);
    cr_assert_eq(gguf_merge(g, at("m.gguf"), &m, &e), ERR_OK, "%s", e.text);
    cr_assert(same_file(at("m.gguf"), at("a.gguf")));
    gguf_close(&g);
    gguf_close(&whole);
}

Test(gguf_split, no_part_is_larger_than_asked_for_unless_a_tensor_is)
{
    uint32_t n = make_parts("a", "F32", 1);
    gguf *g = open_or_fail(part("a", 1, n));
    uint64_t held = 0, end = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        if (t->offset != end) held = 0; /* another file begins: its header is between */
        held += t->bytes;
        end = (t->offset + t->bytes + 31) / 32 * 32;
        cr_expect(held <= PART_BYTES || held == t->bytes, "%s: %llu", t->name, (unsigned long long)held);
    }
    gguf_close(&g);
}

Test(gguf_split, one_part_is_a_set_too)
{
    err e = { 0 };
    uint32_t parts;
    gguf_meter m = { 0 };
    cr_assert_eq(model_random_write("micro", "Q8_0", 1, at("w.gguf"), NULL, NULL, &e), ERR_OK);
    gguf *g = open_or_fail(at("w.gguf"));
    cr_assert_eq(gguf_split(g, at("w"), 1u << 30, &m, &parts, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(parts, 1);
    gguf *one = open_or_fail(part("w", 1, 1));
    cr_assert_eq(gguf_n_tensors(one), gguf_n_tensors(g));
    gguf_close(&one);
    gguf_close(&g);
}

Test(gguf_split, a_part_that_is_not_the_first_says_so)
{
    uint32_t n = make_parts("a", "Q4_0", 1);
    refuse(part("a", 2, n), "is part 2 of");
    cr_assert_eq(rename(part("a", 1, n), at("b.gguf")), 0);
    refuse(at("b.gguf"), "its name must end in -00001-of-0000");
}

Test(gguf_split, missing_and_foreign_parts_are_named)
{
    uint32_t n = make_parts("a", "F32", 1), k = make_parts("b", "F32", 2);
    cr_assert_eq(n, k);
    cr_assert_eq(rename(part("a", 2, n), at("kept")), 0);
    refuse(part("a", 1, n), "part 2 of");
    cr_assert_eq(link(part("b", 2, n), part("a", 2, n)), 0);
    refuse(part("a", 1, n), "belongs to another model");
    cr_assert_eq(unlink(part("a", 2, n)), 0);
    cr_assert_eq(link(part("a", 3, n), part("a", 2, n)), 0);
    refuse(part("a", 1, n), "calls itself part 3 of");
    cr_assert_eq(unlink(part("a", 2, n)), 0);
    cr_assert_eq(link(at("kept"), part("a", 2, n)), 0);
    gguf *g = open_or_fail(part("a", 1, n));
    gguf_close(&g);
}

Test(gguf_split, a_part_that_is_cut_off_is_refused)
{
    uint32_t n = make_parts("a", "F32", 1);
    cr_assert_eq(truncate(part("a", n, n), 5000), 0);
    refuse(part("a", 1, n), "cut off");
    cr_assert_eq(truncate(part("a", n, n), 10), 0);
    refuse(part("a", 1, n), part("a", n, n));
}

/* A part of its own making: keys as given (a negative one is left out), one tensor of that name. */
static void handmade(const char *path, int64_t no, int64_t count, int64_t tensors, const char *tensor)
{
    gguf_writer *w;
    err e = { 0 };
    float x[8] = { 1 };
    cr_assert_eq(gguf_writer_open(&w, path, &e), ERR_OK, "%s", e.text);
    if (no >= 0) gguf_writer_u64(w, "split.no", (uint64_t)no);
    if (count >= 0) gguf_writer_u64(w, "split.count", (uint64_t)count);
    if (tensors >= 0) gguf_writer_u64(w, "split.tensors.count", (uint64_t)tensors);
    gguf_writer_tensor(w, tensor, 0, 1, (uint64_t[]){ 8 });
    cr_assert(!gguf_writer_begin(w, &e) && !gguf_writer_data(w, 0, 0, x, sizeof x, &e) && !gguf_writer_commit(w, &e), "%s", e.text);
    gguf_writer_close(&w);
}

Test(gguf_split, hostile_counts_and_doubled_tensors_are_refused)
{
    const char *one = part("h", 1, 2), *two = part("h", 2, 2);
    handmade(two, 1, 2, 2, "b");
    handmade(one, 0, 2, 2, "a");
    gguf *g = open_or_fail(one);
    cr_assert(gguf_n_tensors(g) == 2 && gguf_tensor_find(g, "a") && gguf_tensor_find(g, "b"));
    gguf_close(&g);
    handmade(one, 0, 2, 2, "b");
    refuse(one, "'b' is in two parts");
    handmade(one, 0, 2, 3, "a");
    refuse(one, "belongs to a model of 2 tensors");
    handmade(two, 1, 2, 3, "b");
    refuse(one, "parts have 2 tensors together, split.tensors.count says 3");
    handmade(one, 0, INT64_MAX, 2, "a");
    refuse(one, "512 at most");
    handmade(one, 0, 3, 2, "a");
    refuse(one, "-00001-of-00003.gguf");
    handmade(one, INT64_MAX, 2, 2, "a");
    refuse(one, "give the first one");
    handmade(one, 0, 1, 2, "a");
    gguf_close((gguf *[]){ open_or_fail(one) });
}

Test(gguf_split, a_range_over_the_end_of_a_part_is_not_mapped)
{
    uint32_t n = make_parts("a", "F32", 1);
    gguf *g = open_or_fail(part("a", 1, n));
    gguf_range r;
    err e = { 0 };
    const gguf_tensor *last = gguf_tensor_at(g, gguf_n_tensors(g) - 1);
    cr_expect_neq(gguf_map(g, last->offset, last->bytes + 4096, &r, &e), ERR_OK);
    cr_expect_neq(gguf_map(g, UINT64_MAX, 1, &r, &e), ERR_OK);
    cr_expect_neq(gguf_map(g, 0, last->offset, &r, &e), ERR_OK);
    gguf_close(&g);
}

static bool stop_later(void *arg, uint64_t done, uint64_t total)
{
    (void)arg;
    return done < total / 2;
}

Test(gguf_split, a_split_that_is_stopped_has_no_first_part)
{
    err e = { 0 };
    uint32_t parts;
    gguf_meter m = { .fn = stop_later };
    cr_assert_eq(model_random_write("tiny", "F32", 1, at("s.gguf"), NULL, NULL, &e), ERR_OK);
    gguf *g = open_or_fail(at("s.gguf"));
    cr_assert_eq(gguf_split(g, at("s"), PART_BYTES, &m, &parts, &e), ERR_CANCELLED);
    cr_assert_neq(access(part("s", 1, parts), F_OK), 0);
    m = (gguf_meter){ 0 };
    cr_assert_eq(gguf_merge(g, at("s.gguf"), &m, &e), ERR_INPUT);
    gguf_close(&g);
}
