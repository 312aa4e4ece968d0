#include "core/rng.h"
#include "ops/cli/eval_kv.h"
#include "ops/cli/signals.h"
#include <stdlib.h>
#include <string.h>

/* Can the model copy what lies far back? A line of random syllables and numbers, filler, the line again: of the second copy's tokens
 * behind the first few, how many are predicted. Needs no knowledge of a text. */

enum { WORDS = 14, LEAD = 8, REPEATS = 30, FAR_SENTENCES = 20, LINE_BYTES = 400 };

typedef struct { const kv_eval *v; const uint32_t *next; uint32_t right; } copying;

static void check(void *me, uint32_t i, const float *logits, const row_stats *s)
{
    copying *c = me;
    candidate best;
    (void)s;
    forward_top(logits, c->v->lab.V, &best, 1);
    c->right += best.id == c->next[i];
}

/* Words of the kind that the bundled model was trained to copy (ops/train/world.py: doc_copy). */
static void make_line(uint64_t seed, uint64_t at, char out[LINE_BYTES])
{
    static const char *const onsets[] = { "b", "br", "d", "f", "gr", "h", "k", "l", "m", "n", "st", "tr", "v", "w", "z", "sh" };
    static const char *const rhymes[] = { "a", "e", "i", "o", "ar", "en", "or", "il" };
    size_t n = 0;
    *out = 0;
    for (uint32_t w = 0; w < WORDS; w++) {
        uint64_t r = rng_u64(seed, at + w);
        const char *gap = w ? " " : "";
        if (r & 1) n += (size_t)snprintf(out + n, LINE_BYTES - n, "%s%u", gap, (unsigned)(r >> 8) % 1000);
        else {
            size_t first = n + (w > 0);
            n += (size_t)snprintf(out + n, LINE_BYTES - n, "%s%s%s%s%s", gap, onsets[r >> 8 & 15], rhymes[r >> 12 & 7],
                                  onsets[r >> 16 & 15], rhymes[r >> 20 & 7]);
            if (first < LINE_BYTES && out[first] >= 'a') out[first] = (char)(out[first] - 'a' + 'A');
        }
    }
}

/* Tokens of the whole, and how many of them come before the second copy. */
static err_code make_prompt(const kv_eval *v, uint32_t repeat, int distance, token_list *ids, uint32_t *prompt, uint32_t *line, err *e)
{
    char words[LINE_BYTES];
    token_list part = { 0 };
    text t = { 0 };
    make_line(v->seed, (uint64_t)repeat << 8, words);
    bool ok = text_addf(&t, "Repeat: %s\n", words);
    size_t first = t.len;
    for (int i = 0; ok && distance == KV_FAR && i < FAR_SENTENCES; i++) ok = text_adds(&t, i % 2 ? "The grass is green. " : "Here we go. ");
    size_t second = t.len;
    ok = ok && text_adds(&t, words);
    err_code rc = ok ? tokenizer_encode(v->lab.words, (view){ t.ptr, t.len }, true, false, ids, e) : err_set(e, ERR_NOMEM, "out of memory");
    for (int k = 0; rc == ERR_OK && k < 2; k++) {
        uint32_t n = 0;
        part.n = 0;
        rc = tokenizer_encode(v->lab.words, (view){ t.ptr, k ? second : first }, true, false, &part, e);
        while (n < part.n && n < ids->n && part.id[n] == ids->id[n]) n++;
        *(k ? prompt : line) = n;
    }
    token_list_free(&part);
    text_free(&t);
    return rc;
}

static err_code run_kind(kv_eval *v, const token_list *ids, uint32_t n, const uint16_t *segment, int distance, err *e)
{
    kv_seq *p = NULL, *q = NULL;
    uint32_t more = (uint32_t)ids->n - n - 1;
    err_code rc = kvlab_watch(&v->lab, v->policy, v->n, n, &p, e);
    if (rc == ERR_OK) rc = kvlab_feed(&v->lab, p, ids->id, n, segment, NULL, e);
    for (size_t i = 0; rc == ERR_OK && i < v->n; i++) {
        if (v->trial[i].oracle != (segment != NULL)) continue;
        copying c = { v, ids->id + n + 1, 0 };
        rc = kvlab_fork(&v->lab, p, &v->policy[i], &q, e);
        if (rc == ERR_OK) rc = kvlab_feed(&v->lab, q, ids->id + n, more, NULL, &(kvlab_sink){ check, &c, LEAD }, e);
        v->trial[i].copied[distance] += c.right;
        kvlab_drop(&v->lab, &q);
    }
    kvlab_drop(&v->lab, &p);
    return rc;
}

static bool has_oracle(const kv_eval *v)
{
    for (size_t i = 0; i < v->n; i++)
        if (v->trial[i].oracle) return true;
    return false;
}

static err_code run_distance(kv_eval *v, uint32_t repeat, int distance, err *e)
{
    token_list ids = { 0 };
    uint32_t n = 0, line = 0;
    uint16_t *segment = NULL;
    err_code rc = make_prompt(v, repeat, distance, &ids, &n, &line, e);
    bool fits = rc == ERR_OK && ids.n < v->lab.n_ctx && n + LEAD + 1 < ids.n;
    if (fits) rc = run_kind(v, &ids, n, NULL, distance, e);
    if (fits && has_oracle(v) && rc == ERR_OK) {
        segment = calloc(n, sizeof *segment);
        if (!segment) rc = err_set(e, ERR_NOMEM, "out of memory");
        for (uint32_t i = 1; segment && i < line && i < n; i++) segment[i] = KV_SEGMENT_SYSTEM;
        if (segment) rc = run_kind(v, &ids, n, segment, distance, e);
    }
    if (fits) v->copies[distance] += (uint32_t)ids.n - n - 1 - LEAD;
    free(segment);
    token_list_free(&ids);
    return rc;
}

err_code eval_kv_induction(kv_eval *v, err *e)
{
    err_code rc = ERR_OK;
    for (uint32_t i = 0; rc == ERR_OK && i < REPEATS && !signals_caught(); i++) {
        rc = run_distance(v, i, KV_NEAR, e);
        if (rc == ERR_OK) rc = run_distance(v, i, KV_FAR, e);
    }
    return rc;
}
