#ifndef ENGINE_QUANTIZE_H
#define ENGINE_QUANTIZE_H
/* f32 rows to weight blocks: the way back of wtype_to_f32. The same row gives the same bytes on every host and with any
 * number of threads. Types of 32 follow ggml's rule; K types look for the scales and minima of least weighted error. */
#include "engine/wtype.h"

/* Can rows of this type be made here? */
bool quantize_has(wtype t);
/* n elements (a multiple of the block length) to wtype_row_bytes(t, n) bytes. False, with `out` in any state, when a value
 * is not finite, or too large for the type's halves (F32 and BF16 take every value). Any thread. */
bool quantize_row(wtype t, const float *x, uint32_t n, void *out);
#endif
