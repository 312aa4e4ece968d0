#include "coordinator/prefix.h"
#include "coordinator/coordinator.h"
#include "coordinator/prefill.h"
#include "coordinator/route.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BLOCK = 64, BUCKETS = 4096, MOST = 1 << 16 };   /* 64 Ki blocks are four million tokens, and 20 MB here */

typedef struct entry {
    XXH128_hash_t key;
    uint64_t id, used;
    struct entry *next;
    uint32_t token[BLOCK];
} entry;

struct prefix_index {
    entry *bucket[BUCKETS];
    uint64_t next_id, clock;
    uint64_t n, asked, rows;
};

err_code prefix_open(prefix_index **out, err *e)
{
    *out = calloc(1, sizeof **out);
    return *out ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for the index of shared prompts");
}

static void remove_older(prefix_index *p, uint64_t than)
{
    for (uint32_t b = 0; b < BUCKETS; b++)
        for (entry **at = &p->bucket[b]; *at;) {
            entry *x = *at;
            if (x->used >= than) {
                at = &x->next;
                continue;
            }
            *at = x->next;
            p->n--;
            free(x);
        }
}

void prefix_clear(prefix_index *p)
{
    if (p) remove_older(p, UINT64_MAX);
}

void prefix_close(prefix_index **p)
{
    prefix_clear(*p);
    free(*p);
    *p = NULL;
}

void prefix_counts(const prefix_index *p, uint64_t *blocks, uint64_t *asked, uint64_t *rows)
{
    *blocks = p->n;
    *asked = p->asked;
    *rows = p->rows;
}

/* ---- keys ---------------------------------------------------------------------------------------------------------- */

static XXH128_hash_t key_first(const coordinator *c, const job *j)
{
    const rope_config *r = &c->shape.rope;
    char line[320];
    int n = snprintf(line, sizeof line,
                     "sluice-prefix/1 model=%s path=%s rows=%s ctx=%s base=0 segment=0 tenant=%" PRIu64 " lora=%s scale=%.9g",
                     gguf_digest(c->file), path_name(j->prompt_path), kv_format_name(c->kv),
                     r->scaling == ROPE_LONG && c->n_ctx > r->orig_ctx ? "long" : "short", j->ask.tenant, j->ask.lora_digest,
                     j->ask.lora[0] ? j->ask.lora_scale : 0.0);
    XXH128_hash_t key = XXH3_128bits(line, (size_t)n);
    text mask = { 0 };
    bool ok = route_prompt_text(j, &mask);
    if (mask.len) key = XXH3_128bits_withSeed(mask.ptr, mask.len, key.low64 ^ key.high64);
    if (!ok) key = (XXH128_hash_t){ .low64 = j->id, .high64 = ~key.high64 }; /* without memory it shares with nobody */
    text_free(&mask);
    return key;
}

static XXH128_hash_t key_next(XXH128_hash_t before, const uint32_t *token)
{
    struct { uint64_t high, low; uint32_t token[BLOCK]; } x = { .high = before.high64, .low = before.low64 };
    memcpy(x.token, token, sizeof x.token);
    return XXH3_128bits(&x, sizeof x);
}

static entry **find(prefix_index *p, XXH128_hash_t key, const uint32_t *token)
{
    entry **at = &p->bucket[key.low64 % BUCKETS];
    while (*at && !(XXH128_isEqual((*at)->key, key) && !memcmp((*at)->token, token, sizeof (*at)->token))) at = &(*at)->next;
    return at;
}

/* ---- what a session may take ----------------------------------------------------------------------------------------- */

static bool may_share(const coordinator *c, const session *s)
{
    const job *j = s->job;
    return c->set->prefix_mem && s->exact && !s->unmasked && !j->ask.kind && !j->ask.fill_rows && !s->index && !j->choice[0].slides;
}

/* The blocks of its prompt that are known, in order, rows at most; NULL in `last` when there is none. */
static uint32_t known(coordinator *c, const session *s, uint32_t most, entry **last)
{
    XXH128_hash_t key = key_first(c, s->job);
    uint32_t rows = 0;
    *last = NULL;
    for (; rows + BLOCK <= most; rows += BLOCK) {
        key = key_next(key, s->tokens.id + rows);
        entry *x = *find(c->prefixes, key, s->tokens.id + rows);
        if (!x) break;
        x->used = ++c->prefixes->clock;
        *last = x;
    }
    return rows;
}

uint64_t prefix_for(coordinator *c, const session *s, uint32_t *rows)
{
    entry *last;
    const job *j = s->job;
    *rows = 0;
    if (!may_share(c, s) || s->made || j->kv.see || j->route_due || j->ask.cache[0] || j->way == WAY_LOCAL || s->n_prompt <= BLOCK) return 0;
    *rows = known(c, s, s->n_prompt - 1, &last); /* the last row goes through the pipeline and brings the logits */
    return last ? last->id : 0;
}

void prefix_taken(coordinator *c, session *s, uint32_t rows)
{
    XXH128_hash_t key = key_first(c, s->job);
    if (rows > s->prefix_asked) rows = s->prefix_asked;
    c->prefixes->asked++;
    c->prefixes->rows += rows;
    for (uint32_t at = 0; at < s->prefix_asked; at += BLOCK) {
        key = key_next(key, s->tokens.id + at);
        entry **x = find(c->prefixes, key, s->tokens.id + at), *gone = *x;
        if (at < rows || !gone) continue;
        *x = gone->next;
        c->prefixes->n--;
        free(gone);
    }
    s->cursor = s->kept = rows;
    s->trim = true; /* a stage may have found more of it than another */
    s->job->cached = rows;
}

/* ---- what it leaves --------------------------------------------------------------------------------------------------- */

static entry *add(prefix_index *p, XXH128_hash_t key, const uint32_t *token)
{
    entry **at = find(p, key, token);
    if (*at) return *at;
    if (p->n >= MOST) remove_older(p, p->clock - MOST / 2), at = find(p, key, token);
    entry *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    x->key = key;
    x->id = ++p->next_id;
    memcpy(x->token, token, sizeof x->token);
    *at = x;
    p->n++;
    return x;
}

uint32_t prefix_keep(coordinator *c, session *s, uint32_t committed, step_op *ops, uint32_t room)
{
    uint32_t most = committed < s->n_prompt ? committed : s->n_prompt, n = 0;
    if (!may_share(c, s) || s->kept + BLOCK > most || s->kept / BLOCK != (s->kept + BLOCK - 1) / BLOCK) return 0;
    if (s->job->kv.lossy && committed >= s->n_prompt) return 0; /* they have settled by then */
    XXH128_hash_t key = key_first(c, s->job);
    for (uint32_t at = 0; at + BLOCK <= most && n < room; at += BLOCK) {
        key = key_next(key, s->tokens.id + at);
        if (at < s->kept) continue;
        entry *x = add(c->prefixes, key, s->tokens.id + at);
        if (!x) break;
        x->used = ++c->prefixes->clock;
        ops[n++] = (step_op){ .session = s->id, .other = x->id, .row = at + BLOCK, .kind = OP_KEEP };
        s->kept = at + BLOCK;
    }
    return n;
}
