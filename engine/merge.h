#ifndef ENGINE_MERGE_H
#define ENGINE_MERGE_H
/* Merges neighbours until no rule fits: the core of both byte-pair encodings (arXiv:1508.07909 section 3.2; SentencePiece,
 * arXiv:1808.06226). The pair with the lowest order goes first, the leftmost of equals before the others. A heap keeps it
 * at O(n log n) for any input. One merger serves one thread; it keeps its memory from word to word. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct { uint32_t at, len, id, prev, next; } merge_symbol;   /* len 0: swallowed by its left neighbour */
typedef struct { uint64_t key; uint32_t right, size, id; } merge_pair;
#define MERGE_END UINT32_MAX

typedef struct {
    merge_symbol *sym;
    merge_pair *heap;
    size_t n, cap, n_heap, cap_heap;
} merger;

/* May l and r (neighbours) become one symbol? Then its order (low first) and its id. */
typedef bool merge_rule(const void *ctx, const merge_symbol *l, const merge_symbol *r, uint32_t *order, uint32_t *id);

/* {0} to start, merger_free to end. clear + add one by one + run; then walk sym[0], sym[.next], ... to MERGE_END.
 * add and run return false only when memory is out. */
void merger_clear(merger *m);
bool merger_add(merger *m, uint32_t at, uint32_t len, uint32_t id);
bool merger_run(merger *m, merge_rule *rule, const void *ctx);
void merger_free(merger *m);
#endif
