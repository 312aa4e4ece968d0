/* Which special tokens swallow the white space beside them. tokenizer.json says so a token, GGUF has no key for it; this is
 * llama.cpp's table of the models that need it. It refuses to look at text. */
#include "engine/tokenizer_priv.h"
#include <ctype.h>
#include <string.h>

/* The first rule whose key holds the name (in any case) counts. token NULL: all special tokens but those in `except`. */
typedef struct { const char *key, *name, *token, *except; uint8_t strip; } strip_rule;
static const strip_rule rules[] = {
    { "tokenizer.ggml.pre", "jina-v2-de", "<mask>", NULL, STRIP_LEFT },
    { "tokenizer.ggml.pre", "jina-v2-es", "<mask>", NULL, STRIP_LEFT },
    { "tokenizer.ggml.pre", "jina-v2-code", "<mask>", NULL, STRIP_LEFT },
    { "general.architecture", "nomic-bert-moe", "<mask>", NULL, STRIP_LEFT },
    { "general.architecture", "jina-bert-v3", "<mask>", NULL, STRIP_LEFT },
    { "general.name", "phi-3", NULL, " <unk> <s> <|endoftext|> ", STRIP_RIGHT },
    { "general.name", "phi3", NULL, " <unk> <s> <|endoftext|> ", STRIP_RIGHT },
    { "general.name", "modern-bert", "[MASK]", NULL, STRIP_LEFT },
};

static bool holds(view v, const char *name)
{
    const char *p = v.ptr;
    size_t n = strlen(name), k;
    for (size_t i = 0; i + n <= v.len; i++) {
        for (k = 0; k < n && tolower((unsigned char)p[i + k]) == name[k]; k++) continue;
        if (k == n) return true;
    }
    return false;
}

static bool listed(const char *list, view token)
{
    if (memchr(token.ptr, ' ', token.len)) return false;
    for (const char *p = list; (p = memmem(p, strlen(p), token.ptr, token.len)); p++)
        if (p > list && p[-1] == ' ' && p[token.len] == ' ') return true;
    return false;
}

static bool rule_takes(const strip_rule *r, uint8_t type, view token)
{
    if (r->token) return token.len == strlen(r->token) && !memcmp(token.ptr, r->token, token.len);
    bool special = type == TOKEN_CONTROL || type == TOKEN_USER || type == TOKEN_UNKNOWN;
    return special && token.len && !listed(r->except, token);
}

void strip_open(tokenizer *t, const gguf *g)
{
    for (size_t k = 0; k < sizeof rules / sizeof *rules; k++) {
        view v;
        if (!gguf_get_str(g, rules[k].key, &v) || !holds(v, rules[k].name)) continue;
        for (uint32_t i = 0; i < t->n; i++)
            if (rule_takes(&rules[k], t->type[i], token_bytes(t, i))) t->strip[i] = rules[k].strip;
        return;
    }
}
