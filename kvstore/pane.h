#ifndef KVSTORE_PANE_H
#define KVSTORE_PANE_H
/* A pane: up to 32 rows of one side of one head, packed. Owns the layouts below, encoding, and decoding per ISA; refuses to
 * know which rows they are. Any thread.
 *
 * d is padded to whole groups of 32 elements, G = ceil(d / 32); codes of `bits` bits lie group after group, 4*bits bytes each:
 *   8 bits  byte i is element i
 *   4 bits  byte i holds element i (low nibble) and i + 16
 *   2 bits  byte i holds elements i, i + 8, i + 16, i + 24, lowest first
 *   3 bits  the low two bits as 2 bits, then 4 bytes whose bit i is element i's third
 *
 *   RAW      [32][d] f16 or f32
 *   Q8, Q4   f16 scale [32][G]; codes [32][G]. Element = code*scale + min with min = -128 scale, -8 scale (exact)
 *   TOKEN    f16 scale [32][G], f16 min [32][G]; codes [32][G]
 *   CHANNEL  f16 scale [32 G], f16 min [32 G]; codes [32][G]
 *   CHANNEL, turned (few channels, so that no group is half empty): f16 scale [d], f16 min [d]; codes [d][4*bits] of the 32 rows
 *   small (+s) TOKEN and CHANNEL: u8 scales and i8 minima in the places of the f16. A scale is the 8 bits of an f16 behind its sign (5 of
 *            exponent, 3 of mantissa), a minimum so many 2^bits/16 of its scale; both are those with the least squared error
 *   NUQ      u16 n and 3 x u16 of nothing; outliers [cap] { u16 row << 11 | channel, f16 value }; V: f16 scale [32], f16 min
 *            [32]; codes [32][G]. Element = book[code]*scale + min, scale and min of a K channel from the profile
 * A decoded element is one FMA, fma(code or book[code], scale, min), on every ISA; outliers are set over it. */
#include "core/vec.h"
#include "kvstore/format.h"
#include "kvstore/policy.h"

enum { PANE_ROWS = 32, PANE_GROUP = 32, PANE_FEW = 8 };   /* FEW: rows of a pane for the few that stay exact */

/* How the panes of one side of one head are packed. */
typedef struct {
    kv_pack pack;
    bool key;
    bool turned;               /* CHANNEL only: a channel's codes lie together */
    kv_format exact;           /* RAW: the store's rows */
    uint32_t d;                /* elements of a row */
    uint32_t rows;             /* RAW: room for so many, 0: PANE_ROWS */
    /* NUQ only. Books hold 2^bits values of [-1, 1], ascending; encoding goes by book, decoding by out_book (Q-Norm). */
    const float *book, *out_book;
    const float *lo, *hi;      /* K: thresholds [d] */
} pane_kind;

static inline uint32_t pane_groups(uint32_t d) { return (d + PANE_GROUP - 1) / PANE_GROUP; }
/* Floats from a decoded row to the next. */
static inline uint32_t pane_ld(uint32_t d) { return pane_groups(d) * PANE_GROUP; }
/* Outliers a NUQ pane has room for: 1 %, arXiv:2401.18079 section 3.4. */
static inline uint32_t pane_outliers(uint32_t d) { return (PANE_ROWS * d + 99) / 100; }

/* Bytes of a pane, a multiple of 64; at most 32 * 1024 * 4. */
size_t pane_bytes(const pane_kind *k);
/* Bytes that n of its rows are decoded from. */
size_t pane_bytes_of(const pane_kind *k, uint32_t n);
/* Does encode(decode(row)) change nothing, whatever rows are beside it? */
bool pane_row_alone(const pane_kind *k);

/* Working memory of one encoding. */
typedef struct { float far; uint16_t place; } pane_outlier;       /* place: row << 11 | channel */
typedef struct {
    float turned[PANE_ROWS * KV_MAX_D];
    pane_outlier cand[PANE_ROWS * KV_MAX_D];
    uint8_t is_out[PANE_ROWS * KV_MAX_D];
} pane_work;

/* x [n][d], n in 1..32, rows beyond n are zeros of the pane. Hadamard packs: x is rotated here. */
void pane_encode(const pane_kind *k, const float *x, uint32_t n, unsigned char *out, pane_work *w);

/* NUQ: what encoding looks up in the book: values of x [n][d] in their channel's (K) or row's (V) range, and that range's half width
 * (scale); NAN where the value is an outlier. For whoever makes a book. */
void pane_normal(const pane_kind *k, const float *x, uint32_t n, float *out, float *scale, pane_work *w);

/* One row of codes after another, as the ISA files take them: out[r][i] = fma(code or book[code], s, m). */
typedef struct {
    const uint8_t *codes;
    size_t stride;             /* bytes from a row's codes to the next */
    uint32_t n, groups, bits;  /* rows */
    const float *book;         /* [16], NULL: the code itself */
    const float *s, *m;        /* by channel: [32 groups]; else [n][groups] */
    bool by_channel;
} pane_codes;
typedef void (*pane_decoder)(const pane_codes *c, float *out);
pane_decoder pane_decoder_for(isa i);

typedef struct { const vec_ops *vec; pane_decoder decode; } pane_reader;

/* Rows [first, first + n) -> out [n][pane_ld]; Hadamard packs stay rotated. */
void pane_decode(const pane_reader *r, const pane_kind *k, const unsigned char *in, uint32_t first, uint32_t n, float *out);

/* x [d] times the normalised Hadamard matrix over the largest power-of-two factor of d, block after block; its own inverse. */
void pane_hadamard(float *x, uint32_t d);
#endif
