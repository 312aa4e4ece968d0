/* SentencePiece BPE (arXiv:1808.06226) as llama.cpp does it: merge neighbours by score, fall back to byte tokens. It
 * refuses to see special tokens: they were cut out before. */
#include "engine/merge.h"
#include "engine/tokenizer_priv.h"
#include "engine/utf8.h"
#include <math.h>
#include <string.h>

#define SPACE_LEN (sizeof SPM_SPACE - 1)

static err_code read_scores(tokenizer *t, const gguf *g, err *e)
{
    for (uint32_t i = 0; i < t->n; i++) {
        double s;
        if (!gguf_arr_f64(g, "tokenizer.ggml.scores", i, &s))
            return err_set(e, ERR_MODEL, "tokenizer.ggml.scores has no number for token %u", i);
        if (isnan(s)) return err_set(e, ERR_MODEL, "tokenizer.ggml.scores: token %u has the score NaN", i);
        t->score[i] = (float)s;
    }
    return ERR_OK;
}

/* Has the piece a blank that follows another character? */
static bool blank_inside(view p)
{
    const char *c = p.ptr;
    bool other = false;
    for (size_t i = 0; i < p.len;) {
        bool blank = i + SPACE_LEN <= p.len && !memcmp(c + i, SPM_SPACE, SPACE_LEN);
        if (blank && other) return true;
        other |= !blank;
        i += blank ? SPACE_LEN : 1;
    }
    return false;
}

static void find_bytes(tokenizer *t)
{
    for (int b = 0; b < 256; b++) t->byte_id[b] = piece_table_find(&t->words, &(char){ (char)b }, 1);
    for (uint32_t i = 0; i < t->n; i++)
        if (t->type[i] == TOKEN_BYTE) t->byte_id[*(const uint8_t *)token_bytes(t, i).ptr] = i;
}

err_code spm_open(tokenizer *t, const gguf *g, err *e)
{
    err_code rc = read_scores(t, g, e);
    if (rc) return rc;
    if (!piece_table_open(&t->words, (piece_list){ t->bytes, t->at }, t->n))
        return err_set(e, ERR_NOMEM, "out of memory for the vocabulary");
    t->split_words = true;
    for (uint32_t i = 0; i < t->n; i++) {
        if (t->type[i] != TOKEN_NORMAL && t->type[i] != TOKEN_USER && t->type[i] != TOKEN_UNUSED) continue;
        piece_table_put(&t->words, i);
        if (blank_inside(token_bytes(t, i))) t->split_words = false;
    }
    find_bytes(t);
    return ERR_OK;
}

typedef struct { const tokenizer *t; const char *text; } spm_rule_ctx;

/* Highest score first: the float's bits as an unsigned number that grows as the score falls. */
static uint32_t score_order(float score)
{
    uint32_t u;
    float s = score + 0.0f;                              /* -0 counts as 0 */
    memcpy(&u, &s, 4);
    return u >> 31 ? u : 0x7FFFFFFFu - u;
}

static bool spm_rule(const void *ctx, const merge_symbol *l, const merge_symbol *r, uint32_t *order, uint32_t *id)
{
    const spm_rule_ctx *c = ctx;
    *id = piece_table_find(&c->t->words, c->text + l->at, l->len + r->len);
    if (*id == TOKEN_ABSENT) return false;
    *order = score_order(c->t->score[*id]);
    return true;
}

/* A symbol that is no token: its bytes, or one unknown token where the vocabulary lacks them. */
static bool emit(const tokenizer *t, const merge_symbol *s, const uint8_t *bytes, token_list *out)
{
    if (s->id != TOKEN_ABSENT) return token_list_add(out, s->id);
    for (uint32_t i = 0; i < s->len; i++)
        if (t->byte_id[bytes[s->at + i]] == TOKEN_ABSENT) return t->unk == TOKEN_NONE || token_list_add(out, t->unk);
    for (uint32_t i = 0; i < s->len; i++)
        if (!token_list_add(out, t->byte_id[bytes[s->at + i]])) return false;
    return true;
}

static bool encode_word(const tokenizer *t, merger *m, const char *p, size_t len, token_list *out)
{
    const uint8_t *u = (const uint8_t *)p;
    merger_clear(m);
    for (size_t i = 0; i < len;) {
        uint32_t n = utf8_unit(u + i, len - i);
        if (!merger_add(m, (uint32_t)i, n, piece_table_find(&t->words, p + i, n))) return false;
        i += n;
    }
    if (!merger_run(m, spm_rule, &(spm_rule_ctx){ t, p })) return false;
    for (uint32_t i = m->n ? 0 : MERGE_END; i != MERGE_END; i = m->sym[i].next)
        if (!emit(t, &m->sym[i], u, out)) return false;
    return true;
}

static bool ends_blank(const text *s)
{
    return s->len >= SPACE_LEN && !memcmp(s->ptr + s->len - SPACE_LEN, SPM_SPACE, SPACE_LEN);
}

/* tokenizer.ggml.remove_extra_whitespaces: SentencePiece's normaliser keeps one blank of a run, and none at the ends; at the
 * end a U+2581 of the text counts as one, since blanks are already spelt so by then. */
static bool squeeze(view in, text *out)
{
    const char *p = in.ptr;
    bool ok = text_reserve(out, in.len + 1), pending = false;
    for (size_t i = 0; ok && i < in.len; i++) {
        if (p[i] == ' ') {
            pending = out->len > 0;
            continue;
        }
        ok = (!pending || text_add(out, " ", 1)) && text_add(out, p + i, 1);
        pending = false;
    }
    while (ok && out->len && (ends_blank(out) || out->ptr[out->len - 1] == ' ')) out->len -= ends_blank(out) ? SPACE_LEN : 1;
    return ok;
}

static bool escape(view in, bool blank, text *out)
{
    const char *p = in.ptr;
    bool ok = text_reserve(out, in.len + in.len / 2 + SPACE_LEN) && (!blank || !in.len || text_adds(out, SPM_SPACE));
    for (size_t i = 0, run; ok && i < in.len; i += run) {
        const char *space = memchr(p + i, ' ', in.len - i);
        run = space ? (size_t)(space - (p + i)) : in.len - i;
        ok = text_add(out, p + i, run) && (!space || text_adds(out, SPM_SPACE));
        run += space != NULL;
    }
    return ok;
}

static bool blank_at(const text *s, size_t i) { return i + SPACE_LEN <= s->len && !memcmp(s->ptr + i, SPM_SPACE, SPACE_LEN); }

/* Where the word that starts at i ends: before the first blank that follows something else. */
static size_t word_end(const text *s, size_t i)
{
    while (blank_at(s, i)) i += SPACE_LEN;
    while (i < s->len && !blank_at(s, i)) i += utf8_unit((const uint8_t *)s->ptr + i, s->len - i);
    return i;
}

err_code spm_encode(const tokenizer *t, view in, token_list *out, err *e)
{
    text squeezed = { 0 }, escaped = { 0 };
    merger m = { 0 };
    bool ok = !t->squeeze || squeeze(in, &squeezed);
    ok = ok && escape(t->squeeze ? (view){ squeezed.ptr, squeezed.len } : in, t->space_prefix, &escaped);
    for (size_t i = 0, end; ok && i < escaped.len; i = end) {
        end = t->split_words ? word_end(&escaped, i) : escaped.len;
        ok = encode_word(t, &m, escaped.ptr + i, end - i, out);
    }
    merger_free(&m);
    text_free(&escaped);
    text_free(&squeezed);
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for %zu bytes of text", in.len);
}
