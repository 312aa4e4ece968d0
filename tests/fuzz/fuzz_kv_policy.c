/* Any bytes as the text of a KV policy, as a SESSION_OPEN may bring it. What is taken prints, and reads again as the same policy.
 * Parser: kvstore/policy.c */
#include "kvstore/policy.h"
#include "tests/fuzz/kit.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

#define X(N, name) name,
static const char *const words[] = { KV_SCORE_MAP(X) KV_BUDGET_MAP(X) KV_SELECT_MAP(X) KV_MERGE_MAP(X) KV_PRUNE_MAP(X) KV_RETRIEVE_MAP(X)
    KV_ROLES_MAP(X) "raw", "q8_0", "q4_0+h", "token4", "channel2", "nuq3", "kivi2", "kvquant4", "0", "1", "4", "64", "0.5", "4:raw 1:q8_0" };
#undef X

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    static const struct { const char *section, *key; } keys[] = {
        { "policy", "name" },   { "format", "k" },      { "format", "v" },     { "format", "residual" }, { "format", "levels" },
        { "keep", "score" },    { "keep", "budget" },   { "keep", "rows" },    { "keep", "share" },      { "keep", "select" },
        { "keep", "sinks" },    { "keep", "window" },   { "keep", "pool" },    { "keep", "roles" },      { "keep", "prompt" },
        { "keep", "queries" },  { "change", "merge" },  { "change", "prune" }, { "change", "prune_share" }, { "change", "retrieve" },
        { "change", "retrieve_rows" },
    };
    text t = { 0 };
    const char *section = "";
    for (uint32_t i = pick % 3, at = pick; i < sizeof keys / sizeof *keys; i += 1 + at % 7, at = at * 1103515245 + 12345) {
        if (strcmp(section, keys[i].section)) text_addf(&t, "[%s]\n", section = keys[i].section);
        text_addf(&t, "%s=%s\n", keys[i].key, words[(at >> 8) % (sizeof words / sizeof *words)]);
    }
    size_t n = t.len <= max ? t.len : 0;
    if (n) memcpy(out, t.ptr, n);
    text_free(&t);
    return n;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kv_policy p, again;
    char said[KV_POLICY_TEXT], once_more[KV_POLICY_TEXT];
    err e = { 0 };
    err_code rc = kv_policy_parse(&p, (const char *)data, size, "fuzz", &e);
    kit_said(rc, &e);
    if (rc) return 0;
    kv_policy_print(&p, said);
    kit_must(kv_policy_parse(&again, said, strlen(said), "again", &e), &e);
    kv_policy_print(&again, once_more);
    if (strcmp(said, once_more)) abort();
    return 0;
}
