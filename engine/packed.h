#ifndef ENGINE_PACKED_H
#define ENGINE_PACKED_H
/* The packed layout of a weight matrix: one for every ISA, of the same size as the file's (n_out rounded up to whole groups).
 *
 * Outputs go in groups of 16. Of a group, units follow each other along k; a unit is one block of the type (a block of 32, a
 * K block of 256, one element of a float type) of all 16 outputs. Inside a unit first come the halves of the block (scales,
 * minima; the element of a 16-bit type), each as [16] halves, then the other bytes of the block in file order, cut into
 * words of four: each as [16] words. So a vector load of 64 bytes (or of 32) has four columns of 16 (or 8) outputs, and
 * a group is one stream. The fifth bits of Q5_0 and Q5_1 are turned: bit j of byte b belongs to column 4j + b.
 * Outputs behind n_out are zeros.
 *
 * Owns this permutation and its inverse; refuses to know files. Any thread. */
#include "engine/kernels.h"

enum {
    PACKED_GROUP = 16,
    PACKED_VERSION = 1,          /* of the layout; caches are keyed by it */
};

/* Byte offsets of the halves inside a block of the file. */
typedef struct { uint32_t n, at[2]; } packed_halves;
extern const packed_halves packed_half[WTYPE_COUNT];

uint64_t packed_bytes(wtype t, uint64_t n_out, uint32_t n_in);
/* Groups [g0, g1) of W (rows as in the file) to out, which has room for g1 - g0 groups. */
void packed_make(const mat *w, uint32_t g0, uint32_t g1, uint8_t *out);
/* Blocks [u0, u0+n) of output o of a packed matrix, as in the file. */
void packed_get(const mat *w, uint32_t o, uint32_t u0, uint32_t n, uint8_t *blocks);
/* Output (embedding row) o of W, packed or not, columns [k0, k0+n) to f32; both multiples of the block length. */
void mat_row_f32(const mat *w, uint32_t o, uint32_t k0, uint32_t n, float *out);
#endif
