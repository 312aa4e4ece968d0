/* Any bytes as a file of a corpus (.txt, .md, .jsonl by the first byte), its sections cut into chunks. Offsets must lie in the
 * file, verbatim sections be its bytes, chunks ascend and be of the asked size.
 * Parser: workers/rag/source.c workers/rag/chunk.c */
#include "tests/fuzz/kit.h"
#include "workers/rag/chunk.h"
#include "workers/rag/source.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    static const char *const some[] = {
        "One sentence. Another one!\n\nA second paragraph, which is longer than the first.\n",
        "# A\ntext\n## B ##\n```\n# no heading\n```\n### C\nmore text. And more\n~~~~ \n# x\n~~~~\n#### \n",
        "{\"id\":1,\"title\":\"T\",\"text\":\"some words here\"}\n{\"id\":\"x\",\"text\":\"\"}\n\n{\"text\":\"\\u00e9\",\"title\":null}\nbad\n",
    };
    const char *s = some[pick % 3];
    size_t n = strlen(s);
    if (n + 1 > max) return 0;
    out[0] = (uint8_t)(pick % 3 + 3 * (pick / 3 % 80));
    memcpy(out + 1, s, n);
    return n + 1;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

typedef struct { const uint8_t *data; size_t size; chunk_size chunk; } file;

static err_code take(void *ctx, const section *s, err *e)
{
    (void)e;
    const file *f = ctx;
    if (s->begin > s->end || s->end > f->size) abort();
    if (s->verbatim && (s->body.len != s->end - s->begin || (s->body.len && memcmp(s->body.ptr, f->data + s->begin, s->body.len)))) abort();
    size_t at = 0, before = 0;
    chunk_span c;
    while (chunk_next(s->body, f->chunk, &at, &c)) {
        if (c.begin >= c.end || c.end > s->body.len || at <= before) abort();
        if (utf8_count((view){ (const char *)s->body.ptr + c.begin, c.end - c.begin }) > f->chunk.chars) abort();
        before = at;
    }
    if (chunk_head(s->body, 40) > s->body.len) abort();
    return ERR_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = { "a.txt", "b.md", "c.jsonl" };
    if (!size) return 0;
    const char *path = kit_path(names[data[0] % 3]);
    FILE *out = fopen(path, "we");
    if (!out || fwrite(data + 1, 1, size - 1, out) != size - 1 || fclose(out)) abort();
    file f = { data + 1, size - 1, { CHUNK_CHARS_MIN, data[0] / 3 % 16u } };
    source_reader r = { .take = take, .ctx = &f, .skip_bad = data[0] & 128 };
    folder_file at = { (char *)(uintptr_t)path, strrchr(path, '/') + 1 };
    err e = { 0 };
    kit_said(source_read(&r, &at, &e), &e);
    return 0;
}
