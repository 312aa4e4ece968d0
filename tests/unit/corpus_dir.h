#ifndef TESTS_UNIT_CORPUS_DIR_H
#define TESTS_UNIT_CORPUS_DIR_H
/* A folder of its own for every test of the retrieval library: TestSuite(..., .init = dir_make, .fini = dir_remove). */
#include "workers/rag/corpus.h"
#include "workers/rag/search.h"
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char dir[64];

/* A path in the folder; four are valid at a time. */
static inline const char *at(const char *name)
{
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static inline void dir_make(void)
{
    strcpy(dir, "/tmp/sluice-corpus-XXXXXX");
    cr_assert(mkdtemp(dir));
    cr_assert_eq(mkdir(at("in"), 0755), 0);
}

static inline int remove_one(const char *p, const struct stat *st, int kind, struct FTW *f)
{
    (void)st, (void)kind, (void)f;
    return remove(p);
}

static inline void dir_remove(void) { nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static inline void put(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(at(name), "wb");
    cr_assert(f, "%s", name);
    cr_assert_eq(fwrite(bytes, 1, n, f), n);
    cr_assert_eq(fclose(f), 0);
}

static inline void puts_to(const char *name, const char *s) { put(name, s, strlen(s)); }

static inline view of(const char *s) { return (view){ s, strlen(s) }; }

static inline corpus *open_at(const char *name)
{
    corpus *c;
    err e = { 0 };
    cr_assert_eq(corpus_open(&c, at(name), &e), ERR_OK, "%s", e.text);
    return c;
}

static inline passages find(corpus *c, const char *query, const search_options *o)
{
    passages p = { 0 };
    err e = { 0 };
    cr_assert_eq(corpus_search(c, of(query), o, &p, &e), ERR_OK, "%s", e.text);
    return p;
}

#endif
