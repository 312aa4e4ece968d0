/* Byte-level BPE (arXiv:1508.07909 over the byte alphabet of GPT-2). Pieces are kept decoded, so text is never turned into
 * the alphabet. It refuses to see special tokens: they were cut out before. */
#include "core/log.h"
#include "engine/merge.h"
#include "engine/tokenizer_priv.h"
#include <stdlib.h>
#include <string.h>

/* ---- open ---- */

/* Merges are written in the file's spelling, so while they are read the pieces are looked up in that spelling. */
typedef struct { text bytes; uint32_t *at; piece_table table; } spelling;

static void spelling_close(spelling *s)
{
    piece_table_close(&s->table);
    text_free(&s->bytes);
    free(s->at);
}

static bool spelling_open(spelling *s, const tokenizer *t, const gguf *g)
{
    s->at = malloc(((size_t)t->n + 1) * sizeof *s->at);
    bool ok = s->at != NULL;
    view v;
    for (uint32_t i = 0; ok && i < t->n; i++) {
        s->at[i] = (uint32_t)s->bytes.len;
        ok = gguf_arr_str(g, "tokenizer.ggml.tokens", i, &v) && text_add(&s->bytes, v.ptr, v.len);
    }
    if (!ok) return false;
    s->at[t->n] = (uint32_t)s->bytes.len;
    if (!piece_table_open(&s->table, (piece_list){ s->bytes.ptr, s->at }, t->n)) return false;
    for (uint32_t i = 0; i < t->n; i++)
        if (t->type[i] == TOKEN_NORMAL || t->type[i] == TOKEN_UNUSED || t->type[i] == TOKEN_USER) piece_table_put(&s->table, i);
    return true;
}

/* "left right", a blank between; both and what they make must be tokens, otherwise the merge can never happen. */
static bool merge_parse(const spelling *s, view m, text *joined, uint32_t id[3])
{
    const char *p = m.ptr, *space = m.len > 1 ? memchr(p + 1, ' ', m.len - 1) : NULL;
    if (!space) return false;
    size_t left = (size_t)(space - p);
    text_clear(joined);
    if (!text_add(joined, p, left) || !text_add(joined, space + 1, m.len - left - 1)) return false;
    id[0] = piece_table_find(&s->table, p, left);
    id[1] = piece_table_find(&s->table, space + 1, m.len - left - 1);
    id[2] = piece_table_find(&s->table, joined->ptr, joined->len);
    return id[0] != TOKEN_ABSENT && id[1] != TOKEN_ABSENT && id[2] != TOKEN_ABSENT;
}

static err_code read_merges(tokenizer *t, const gguf *g, err *e)
{
    gguf_kind kind;
    uint64_t n, lost = 0;
    if (!gguf_get_arr(g, "tokenizer.ggml.merges", &kind, &n) || kind != GGUF_STR)
        return err_set(e, ERR_MODEL, "tokenizer.ggml.merges is missing or not an array of strings");
    if (n >= UINT32_MAX) return err_set(e, ERR_MODEL, "tokenizer.ggml.merges has %llu entries", (unsigned long long)n);
    spelling s = { 0 };
    text joined = { 0 };
    bool ok = spelling_open(&s, t, g) && merge_table_open(&t->merges, n);
    for (uint32_t i = 0; ok && i < n; i++) {
        view m;
        uint32_t id[3];
        if (gguf_arr_str(g, "tokenizer.ggml.merges", i, &m) && merge_parse(&s, m, &joined, id))
            merge_table_put(&t->merges, id[0], id[1], i, id[2]);
        else lost++;
    }
    spelling_close(&s);
    text_free(&joined);
    if (lost) LOG(LOG_WARN, "TOKENIZER-MERGES", "unusable=%llu of=%llu", (unsigned long long)lost, (unsigned long long)n);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for %llu merges", (unsigned long long)n);
}

err_code bpe_open(tokenizer *t, const gguf *g, const pretoken_row *row, err *e)
{
    if (!piece_table_open(&t->words, (piece_list){ t->bytes, t->at }, t->n))
        return err_set(e, ERR_NOMEM, "out of memory for the vocabulary");
    for (uint32_t i = 0; i < t->n; i++)
        if (t->type[i] == TOKEN_NORMAL || t->type[i] == TOKEN_UNUSED) piece_table_put(&t->words, i);
    for (int b = 0; b < 256; b++) t->byte_id[b] = piece_table_find(&t->words, &(char){ (char)b }, 1);
    t->ignore_merges = row->ignore_merges;
    err_code rc = read_merges(t, g, e);
    return rc ? rc : pretoken_open(&t->pre, row, e);
}

/* ---- encode ---- */

static bool bpe_rule(const void *ctx, const merge_symbol *l, const merge_symbol *r, uint32_t *order, uint32_t *id)
{
    const tokenizer *t = ctx;
    const merge_row *row = merge_table_find(&t->merges, l->id, r->id);
    if (!row) return false;
    *order = row->rank;
    *id = row->id;
    return true;
}

static bool encode_word(const tokenizer *t, merger *m, const uint8_t *p, size_t len, token_list *out)
{
    uint32_t whole = t->ignore_merges ? piece_table_find(&t->words, p, len) : TOKEN_ABSENT;
    if (whole != TOKEN_ABSENT) return token_list_add(out, whole);
    merger_clear(m);
    for (size_t i = 0; i < len; i++)
        if (!merger_add(m, (uint32_t)i, 1, t->byte_id[p[i]])) return false;
    if (!merger_run(m, bpe_rule, t)) return false;
    for (uint32_t i = m->n ? 0 : MERGE_END; i != MERGE_END; i = m->sym[i].next) {
        uint32_t id = m->sym[i].id != TOKEN_ABSENT ? m->sym[i].id : t->unk;
        if (id != TOKEN_NONE && !token_list_add(out, id)) return false;
    }
    return true;
}

err_code bpe_encode(const tokenizer *t, view in, token_list *out, err *e)
{
    word_list words = { 0 };
    merger m = { 0 };
    err_code rc = pretoken_split(t->pre, in, &words, e);
    for (size_t w = 0, start = 0; !rc && w < words.n; start = words.end[w++])
        if (!encode_word(t, &m, (const uint8_t *)in.ptr + start, words.end[w] - start, out))
            rc = err_set(e, ERR_NOMEM, "out of memory for %zu bytes of text", in.len);
    merger_free(&m);
    word_list_free(&words);
    return rc;
}
