/* Finds special tokens in text: one pass a distinct token length, longest first, so that a token may only take what no
 * longer one took. It refuses to tokenize what lies between. */
#include "engine/tokenizer_priv.h"
#include <stdlib.h>
#include <string.h>

static bool is_special(uint8_t type) { return type == TOKEN_CONTROL || type == TOKEN_USER || type == TOKEN_UNKNOWN; }

static int longer_first(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

err_code special_open(tokenizer *t, err *e)
{
    size_t n = 0;
    for (uint32_t i = 0; i < t->n; i++) n += is_special(t->type[i]);
    t->special_len = malloc((n ? n : 1) * sizeof *t->special_len);
    if (!t->special_len || !piece_table_open(&t->special, (piece_list){ t->bytes, t->at }, n))
        return err_set(e, ERR_NOMEM, "out of memory for special tokens");
    size_t k = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        view p = token_bytes(t, i);
        if (!is_special(t->type[i]) || !p.len) continue;
        piece_table_put(&t->special, i);
        t->special_first[*(const uint8_t *)p.ptr] = 1;
        t->special_len[k++] = (uint32_t)p.len;
    }
    if (k) qsort(t->special_len, k, sizeof *t->special_len, longer_first);
    for (size_t i = 0; i < k; i++)
        if (!i || t->special_len[i] != t->special_len[i - 1]) t->special_len[t->n_special_len++] = t->special_len[i];
    return ERR_OK;
}

static bool hit_add(special_list *l, special_hit h)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 16;
        special_hit *p = realloc(l->hit, cap * sizeof *p);
        if (!p) return false;
        l->hit = p;
        l->cap = cap;
    }
    l->hit[l->n++] = h;
    return true;
}

typedef struct { const tokenizer *t; const uint8_t *text; size_t len; uint8_t *taken; bool parse; special_list *out; } scan;

/* Whatever was taken before is at least as long, so it covers an end of anything that it overlaps. */
static bool is_free(const scan *s, size_t at, size_t len)
{
    size_t last = at + len - 1;
    return !(s->taken[at / 8] >> at % 8 & 1) && !(s->taken[last / 8] >> last % 8 & 1);
}

static bool blank(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* Take the token at [at, at + len) and the white space that belongs to it. */
static bool take(scan *s, uint32_t id, size_t at, size_t len)
{
    size_t end = at + len;
    if (s->t->strip[id] & STRIP_LEFT)
        while (at && blank(s->text[at - 1]) && is_free(s, at - 1, 1)) at--;
    if (s->t->strip[id] & STRIP_RIGHT)
        while (end < s->len && blank(s->text[end]) && is_free(s, end, 1)) end++;
    for (size_t i = at; i < end; i++) s->taken[i / 8] |= (uint8_t)(1u << i % 8);
    return hit_add(s->out, (special_hit){ (uint32_t)at, (uint32_t)(end - at), id });
}

static bool scan_length(scan *s, uint32_t len)
{
    for (size_t at = 0; at + len <= s->len;) {
        uint32_t id = TOKEN_ABSENT;
        if (s->t->special_first[s->text[at]] && is_free(s, at, len)) id = piece_table_find(&s->t->special, s->text + at, len);
        if (id == TOKEN_ABSENT || (!s->parse && s->t->type[id] != TOKEN_USER)) {
            at++;
            continue;
        }
        if (!take(s, id, at, len)) return false;
        at += len;
    }
    return true;
}

static int by_place(const void *a, const void *b)
{
    uint32_t x = ((const special_hit *)a)->at, y = ((const special_hit *)b)->at;
    return (x > y) - (x < y);
}

err_code special_find(const tokenizer *t, view in, bool parse, special_list *list, err *e)
{
    *list = (special_list){ 0 };
    const uint8_t *p = in.ptr;
    size_t i = 0;
    while (i < in.len && !t->special_first[p[i]]) i++;
    if (i == in.len) return ERR_OK;
    scan s = { t, p, in.len, calloc(in.len / 8 + 1, 1), parse, list };
    bool ok = s.taken != NULL;
    for (size_t k = 0; ok && k < t->n_special_len; k++) ok = scan_length(&s, t->special_len[k]);
    free(s.taken);
    if (!ok) return err_set(e, ERR_NOMEM, "out of memory for special tokens");
    if (list->n) qsort(list->hit, list->n, sizeof *list->hit, by_place);
    return ERR_OK;
}
