/* Any bytes as a query against a small corpus, then as passages and as templates of a prompt; the input's first byte
 * chooses the budget. What must hold: no crash, no SQL error, budgets kept, offsets inside the file.
 * Parser: workers/rag/query.c workers/rag/search.c coordinator/rag_prompt.c */
#include "coordinator/rag_prompt.h"
#include "workers/rag/search.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char source[] =
    "# People\nVopakriss works as a beekeeper. Vopakriss lives in North Grove.\n\nFestordera eats lentil soup every morning.\n"
    "# Stra\xC3\x9F" "en\nDie \xC3\x9C" "berfahrt der F\xC3\xA4hre, "
    "\xE4\xB8\xAD\xE6\x96\x87\xE3\x80\x82 AND OR NOT NEAR title body.\n";

/* A corpus of one file that is gone again when this returns. */
static corpus *small_corpus(void)
{
    char path[] = "/tmp/sluice-fuzz-XXXXXX.md";
    int fd = mkstemps(path, 3);
    corpus *c = NULL;
    err e = { 0 };
    if (fd < 0 || write(fd, source, sizeof source - 1) != (ssize_t)(sizeof source - 1)) abort();
    close(fd);
    if (corpus_open(&c, path, &e) != ERR_OK) fprintf(stderr, "%s\n", e.text);
    unlink(path);
    if (!c) abort();
    return c;
}

static void check(const passages *p, uint32_t budget)
{
    uint64_t used = 0;
    for (size_t i = 0; i < p->count; i++) {
        used += p->at[i].tokens;
        if (p->at[i].begin > p->at[i].end || p->at[i].end > sizeof source - 1) abort();
        if (memcmp(source + p->at[i].begin, p->at[i].body.ptr, p->at[i].body.len)) abort();
    }
    if (budget && used > budget) abort();
}

static void try_prompts(const passages *p, const uint8_t *data, size_t size)
{
    char *t = malloc(size + 1);
    text out = { 0 };
    if (!t) return;
    if (size) memcpy(t, data, size);
    t[size] = 0;
    if (rag_prompt(&out, NULL, p, (view){ data, size }, NULL) != ERR_OK) abort();
    rag_prompt(&out, &(rag_template){ .prompt = t }, p, (view){ "q", 1 }, NULL);
    rag_prompt(&out, &(rag_template){ .passage = t }, p, (view){ "q", 1 }, NULL);
    text_free(&out);
    free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static corpus *c;
    if (!c) c = small_corpus();
    search_options o = { .token_budget = size ? data[0] : 0, .max_passages = size ? data[0] % 7u : 0 };
    passages p = { 0 };
    err e = { 0 };
    if (corpus_search(c, (view){ data, size }, &o, &p, &e) != ERR_OK) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    check(&p, o.token_budget);
    try_prompts(&p, data, size);
    passages_free(&p);
    return 0;
}
