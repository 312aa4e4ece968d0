#ifndef ENGINE_WTYPE_H
#define ENGINE_WTYPE_H
/* Weight types: one row each. X(NAME, ggml id, block length, block bytes, quantised). Layouts are ggml's. */
#include "core/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#define WTYPE_MAP(X)              \
    X(F32,    0,   1,   4, false) \
    X(F16,    1,   1,   2, false) \
    X(Q4_0,   2,  32,  18, true)  \
    X(Q4_1,   3,  32,  20, true)  \
    X(Q5_0,   6,  32,  22, true)  \
    X(Q5_1,   7,  32,  24, true)  \
    X(Q8_0,   8,  32,  34, true)  \
    X(Q2_K,   10, 256, 84, true)  \
    X(Q3_K,   11, 256, 110, true) \
    X(Q4_K,   12, 256, 144, true) \
    X(Q5_K,   13, 256, 176, true) \
    X(Q6_K,   14, 256, 210, true) \
    X(IQ4_NL, 20, 32,  18, true)  \
    X(BF16,   30,  1,   2, false)
typedef enum {
#define X(N, id, len, bytes, quant) WTYPE_##N,
    WTYPE_MAP(X)
#undef X
    WTYPE_COUNT
} wtype;

typedef struct { const char *name; uint32_t ggml_id, block, bytes; bool quant; } wtype_info;
extern const wtype_info wtypes[WTYPE_COUNT];
/* ggml id -> wtype; false when we do not compute with it. */
bool wtype_from_ggml(uint32_t id, wtype *out);
/* Name of any ggml type id that we know of, for messages ("IQ3_S"), or "type 77". Any thread; static storage or buf. */
const char *wtype_ggml_name(uint32_t id, char buf[static 16]);
/* ggml type id -> block length and bytes, for every type of ggml (size checks need them all); false when unknown. */
bool wtype_ggml_block(uint32_t id, uint32_t *len, uint32_t *bytes);
/* Bytes of a row of n elements; n must be a multiple of the block length (checked when the model is opened). */
size_t wtype_row_bytes(wtype t, uint32_t n);
/* One row to f32 [n]. Plain C, any thread: embedding look-ups, the f32 path, tools. */
void wtype_to_f32(wtype t, const void *row, uint32_t n, float *out);
#endif
