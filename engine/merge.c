/* The heap of candidate pairs over a linked list of symbols. It refuses to know what a token is. */
#include "engine/merge.h"
#include <stdlib.h>

void merger_clear(merger *m) { m->n = m->n_heap = 0; }

void merger_free(merger *m)
{
    free(m->sym);
    free(m->heap);
    *m = (merger){ 0 };
}

static bool grow(void **p, size_t *cap, size_t n, size_t size)
{
    if (n < *cap) return true;
    size_t more = *cap ? *cap * 2 : 64;
    void *q = more > SIZE_MAX / size ? NULL : realloc(*p, more * size);
    if (!q) return false;
    *p = q;
    *cap = more;
    return true;
}

bool merger_add(merger *m, uint32_t at, uint32_t len, uint32_t id)
{
    void *p = m->sym;
    if (m->n >= MERGE_END || !grow(&p, &m->cap, m->n, sizeof *m->sym)) return false;
    m->sym = p;
    m->sym[m->n] = (merge_symbol){ at, len, id, m->n ? (uint32_t)m->n - 1 : MERGE_END, MERGE_END };
    if (m->n) m->sym[m->n - 1].next = (uint32_t)m->n;
    m->n++;
    return true;
}

static void sift_down(merger *m, size_t i)
{
    merge_pair x = m->heap[i];
    for (size_t c; (c = 2 * i + 1) < m->n_heap; i = c) {
        if (c + 1 < m->n_heap && m->heap[c + 1].key < m->heap[c].key) c++;
        if (m->heap[c].key >= x.key) break;
        m->heap[i] = m->heap[c];
    }
    m->heap[i] = x;
}

static void sift_up(merger *m, size_t i)
{
    merge_pair x = m->heap[i];
    for (size_t up; i && m->heap[up = (i - 1) / 2].key > x.key; i = up) m->heap[i] = m->heap[up];
    m->heap[i] = x;
}

/* Put the pair (left, its next) at the heap's end when the rule allows it; *added says so. */
static bool propose(merger *m, uint32_t left, merge_rule *rule, const void *ctx, bool *added)
{
    *added = false;
    if (left == MERGE_END || m->sym[left].next == MERGE_END) return true;
    const merge_symbol *l = &m->sym[left], *r = &m->sym[l->next];
    uint32_t order, id;
    if (!rule(ctx, l, r, &order, &id)) return true;
    void *p = m->heap;
    if (!grow(&p, &m->cap_heap, m->n_heap, sizeof *m->heap)) return false;
    m->heap = p;
    m->heap[m->n_heap++] = (merge_pair){ (uint64_t)order << 32 | left, l->next, l->len + r->len, id };
    *added = true;
    return true;
}

static merge_pair pop(merger *m)
{
    merge_pair top = m->heap[0];
    m->heap[0] = m->heap[--m->n_heap];
    if (m->n_heap) sift_down(m, 0);
    return top;
}

static void join(merger *m, uint32_t left, uint32_t right, uint32_t id)
{
    merge_symbol *l = &m->sym[left], *r = &m->sym[right];
    l->len += r->len;
    l->id = id;
    l->next = r->next;
    r->len = 0;
    if (r->next != MERGE_END) m->sym[r->next].prev = left;
}

bool merger_run(merger *m, merge_rule *rule, const void *ctx)
{
    bool added;
    for (size_t i = 0; i + 1 < m->n; i++)
        if (!propose(m, (uint32_t)i, rule, ctx, &added)) return false;
    for (size_t i = m->n_heap / 2; i-- > 0;) sift_down(m, i);
    while (m->n_heap) {
        merge_pair p = pop(m);
        uint32_t left = (uint32_t)p.key;
        const merge_symbol *l = &m->sym[left], *r = &m->sym[p.right];
        /* Both alive and together as long as then: the left start and the right start are fixed, so nothing changed. */
        if (!l->len || !r->len || l->len + r->len != p.size) continue;
        join(m, left, p.right, p.id);
        if (!propose(m, m->sym[left].prev, rule, ctx, &added)) return false;
        if (added) sift_up(m, m->n_heap - 1);
        if (!propose(m, left, rule, ctx, &added)) return false;
        if (added) sift_up(m, m->n_heap - 1);
    }
    return true;
}
