#ifndef ENGINE_PIECE_TABLE_H
#define ENGINE_PIECE_TABLE_H
/* Hash tables of a vocabulary: bytes -> id, and (id, id) -> merge. Built once, then read by any thread. They borrow the
 * bytes of the pieces. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOKEN_ABSENT UINT32_MAX

typedef struct { const char *bytes; const uint32_t *at; } piece_list;   /* piece i is bytes[at[i]] up to bytes[at[i+1]] */
typedef struct { piece_list list; uint32_t *slot; size_t mask; uint32_t longest; } piece_table;
typedef struct { uint64_t pair; uint32_t rank, id; } merge_row;          /* pair: left << 32 | right */
typedef struct { merge_row *slot; size_t mask; } merge_table;

/* Room for n entries; false when memory is out. */
bool piece_table_open(piece_table *t, piece_list list, size_t n);
void piece_table_close(piece_table *t);
/* Enter piece `id`; of equal pieces the last one stays. Empty pieces are not entered. At most n times. */
void piece_table_put(piece_table *t, uint32_t id);
uint32_t piece_table_find(const piece_table *t, const void *p, size_t len);   /* TOKEN_ABSENT when it is not there */

bool merge_table_open(merge_table *t, size_t n);
void merge_table_close(merge_table *t);
/* Of equal pairs the first one stays. */
void merge_table_put(merge_table *t, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
const merge_row *merge_table_find(const merge_table *t, uint32_t left, uint32_t right);
#endif
