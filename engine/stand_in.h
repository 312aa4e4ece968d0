#ifndef ENGINE_STAND_IN_H
#define ENGINE_STAND_IN_H
/* What takes the place of a half of a layer that a row leaves out (core/mask.h: mask_stand), of one shard's layers, from a profile.
 *
 *   MASK_LOW_RANK  of an FFN: h += B (A x) + b, x the FFN's own normed input. The small module of Duo-LLM (arXiv:2410.10846 section 3), fitted
 *                  and not trained. Section stand: rank, order [L]; by layer: a [rank][D], b [D][rank] Q8_0 (F16 where D or rank is no
 *                  multiple of 32), bias [D]
 *   MASK_SCALED    of either half: h *= s, s the mean ratio of norms of what comes out and what goes in (AdaSkip, arXiv:2501.02336
 *                  section 3.2). Section route: ratio_attn, ratio_ffn
 *
 * Products go by the row's path, as with the model's own matrices, so the numerics contract holds. Owns what it has loaded; refuses to choose
 * layers. Immutable once open: any thread. */
#include "core/mask.h"
#include "engine/model.h"
#include "engine/profile.h"

typedef struct {
    mat a, b;                /* [rank][D], [D][rank]; data NULL: this layer has none */
    const float *bias;       /* [D] */
} low_rank;

typedef struct stand_ins stand_ins;
/* Layers [first, last) of a model. *out NULL: the profile has neither. ERR_MODEL: of another shape, or damaged. */
err_code stand_ins_open(stand_ins **out, const profile *p, const model_shape *s, uint32_t first, uint32_t last, err *e);
/* The same with low ranks alone that are not in a file yet: a [L][rank][D], b [L][D][rank], bias [L][D], rounded as the file would have them. */
err_code stand_ins_make(stand_ins **out, const model_shape *s, uint32_t rank, const float *a, const float *b, const float *bias, err *e);
void stand_ins_close(stand_ins **s);

/* NULL: none. */
const low_rank *stand_in_ffn(const stand_ins *s, uint32_t layer);
/* 1 where there is no number. */
float stand_in_scale(const stand_ins *s, uint32_t layer, bool ffn);
/* Which these are, for masks: the same on every stage that has the same profile. 0: there is none of this kind. */
uint32_t stand_ins_id(const stand_ins *s, mask_stand kind);
/* [L] layers, the one whose stand-in costs least first; NULL: no low ranks, or nobody knows. */
const uint32_t *stand_ins_order(const stand_ins *s);
/* 0: no low ranks. */
uint32_t stand_ins_rank(const stand_ins *s);
/* What both matrices are stored as. */
wtype stand_in_type(const model_shape *s, uint32_t rank);
#endif
