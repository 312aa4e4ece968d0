#ifndef CORE_MASK_H
#define CORE_MASK_H
/* Which layers a session leaves out. Two numbers a layer: the first row (index in its session) that leaves out the layer's
 * attention, and its FFN. Every later row leaves it out too, so a row runs a layer's attention only where every earlier row has
 * KV: constant masks and shrinking schedules keep that by their form, and a mask that grows cannot be written down. What
 * changes a mask under way may therefore only touch rows that have not been computed (mask_change). Knows no model. Any thread. */
#include "core/buf.h"

#define MASK_LAYERS 512u          /* of a model at most, as in PLAN */
#define MASK_NEVER UINT32_MAX
/* In the mask of a job, which knows no rows yet: so many rows behind the prompt's end. */
#define MASK_AFTER 0x80000000u

typedef struct { uint32_t attn, ffn; } mask_layer;
/* FFNs that a row leaves out by what its others do to it (FFN-SkipLLM, arXiv:2404.03865): behind one of layers [first, last) whose output is
 * at least so like its input (theta: the cosine of the residual stream before and behind it), the next `count` of them. */
typedef struct { uint32_t first, last, count, from; float theta; } mask_calm;   /* last 0: none; from: first row that does so */
#define MASK_CALM_ALL 0xfffeu     /* count: all the rest of them */
/* What a row carries from layer to layer: 0 it does no such thing, 1 it looks, more: it leaves out the next so many - 1. */
typedef struct { uint32_t state, out; } mask_row;       /* out: how many it has left out so far */

/* What is there in place of a half that is left out: nothing, an FFN's low-rank stand-in, or the half's input times a number (engine/stand_in.h).
 * id says which of them: of a profile (stand_ins_id). */
typedef enum { MASK_BARE, MASK_LOW_RANK, MASK_SCALED, MASK_STANDS } mask_stand;

typedef struct {
    uint32_t n;                   /* 0: nothing is left out */
    mask_layer at[MASK_LAYERS];
    mask_calm calm;
    mask_stand stand;
    uint32_t stand_id;            /* 0 for MASK_BARE */
} layer_mask;

layer_mask mask_none(uint32_t n);
bool mask_is_none(const layer_mask *m);
/* Does it say the same of every row, those of prompts included? */
bool mask_is_constant(const layer_mask *m);
/* The job's mask for a session whose prompt has n_prompt rows and that has made `made` tokens before them (after a slide the
 * schedule goes on where it was). */
void mask_bind(layer_mask *out, const layer_mask *job, uint32_t n_prompt, uint32_t made);
/* The first row from which layers [first, last) do nothing; MASK_NEVER: there is none, or something stands in. No layers: 0. */
uint32_t mask_idle(const layer_mask *m, uint32_t first, uint32_t last);
/* May `to` follow `from` when `rows` rows have been computed? ERR_STATE names layer and rows when a row of those would have been
 * computed otherwise. */
err_code mask_change(const layer_mask *from, const layer_mask *to, uint32_t rows, err *e);
/* The share of layer halves that rows [from, to) leave out, an attention weighing w_attn and an FFN w_ffn. */
double mask_share(const layer_mask *m, uint32_t from, uint32_t to, double w_attn, double w_ffn);
/* The layers of a model of n for such a rule, without those that change the residual stream most: a sixth of them at the bottom and a twelfth
 * at the top. The paper leaves both ends on and gives no number. */
mask_calm mask_calm_inner(uint32_t n);
/* Does the row leave out the layer's FFN by its calm rule? Of one that does it is counted down. */
bool mask_calm_rests(const mask_calm *c, uint32_t layer, mask_row *row);
/* The FFN has done `like` to it. */
void mask_calm_saw(const mask_calm *c, uint32_t layer, float like, mask_row *row);

/* "attn=3,7,12+40 ffn=3,12+40 calm=0.95,2-11,65534+4 stand=1,305419896": layer 12 is left out from 40 rows behind the prompt's end on; calm
 * FFNs as above: theta, layers, count and rows; what stands in, and its id. Nothing: "none". */
bool mask_print(const layer_mask *m, text *out);
/* ERR_INPUT quotes what cannot be read, or a layer that a model of n layers does not have. */
err_code mask_parse(layer_mask *out, uint32_t n, const char *s, size_t len, err *e);
#endif
