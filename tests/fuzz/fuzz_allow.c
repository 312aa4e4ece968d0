/* Any bytes as a list of peers, each of its words as a key.
 * Parser: proto/allow.c */
#include "proto/allow.h"
#include "tests/fuzz/kit.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    static const char *const roles[] = { "client", "stage", "rag", "coordinator", "local" };
    text t = { 0 };
    for (uint32_t i = 0; i <= pick % 4; i++) {
        uint8_t key[KEY_BYTES];
        char word[KEY_TEXT];
        memset(key, (int)(pick + i * 7), sizeof key);
        key_show(key, word);
        text_addf(&t, "%s%s %s %s\n", pick % 5 == 4 ? "# a remark\n" : "", roles[(pick / 4 + i) % 5], word, i % 2 ? "name of it" : "");
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

static void may_send(const allow_list *l)
{
    message m = { .type = MSG_NONE };
    err e = { 0 };
    for (uint32_t i = 0; i < l->n; i++) {
        if (allow_find(l, l->at[i].key) != &l->at[i]) abort();
        for (uint32_t id = 1; id < 64; id++) {
            m.type = (msg_type)id;
            kit_said(allow_message(l->at[i].role, &m, &e), &e);
        }
        if (!peer_role_name(l->at[i].role)[0] || strnlen(l->at[i].name, sizeof l->at[i].name) > ALLOW_NAME_MAX) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    allow_list l;
    uint8_t key[KEY_BYTES];
    char again[KEY_TEXT];
    err e = { 0 };
    err_code rc = allow_parse(&l, (const char *)data, size, "fuzz", &e);
    kit_said(rc, &e);
    if (rc == ERR_OK) may_send(&l);
    allow_free(&l);
    if (!key_parse(key, (const char *)data, size, &e)) { /* what is a key has one spelling */
        key_show(key, again);
        if (strlen(again) != size || memcmp(again, data, size)) abort();
    }
    return 0;
}
