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
typedef struct { uint32_t n; mask_layer at[MASK_LAYERS]; } layer_mask;   /* n 0: nothing is left out */

layer_mask mask_none(uint32_t n);
bool mask_is_none(const layer_mask *m);
/* Does it say the same of every row, those of prompts included? */
bool mask_is_constant(const layer_mask *m);
/* The job's mask for a session whose prompt has n_prompt rows and that has made `made` tokens before them (after a slide the
 * schedule goes on where it was). */
void mask_bind(layer_mask *out, const layer_mask *job, uint32_t n_prompt, uint32_t made);
/* The first row from which layers [first, last) do nothing; MASK_NEVER: there is none. No layers: 0. */
uint32_t mask_idle(const layer_mask *m, uint32_t first, uint32_t last);
/* May `to` follow `from` when `rows` rows have been computed? ERR_STATE names layer and rows when a row of those would have been
 * computed otherwise. */
err_code mask_change(const layer_mask *from, const layer_mask *to, uint32_t rows, err *e);
/* The share of layer halves that rows [from, to) leave out, an attention weighing w_attn and an FFN w_ffn. */
double mask_share(const layer_mask *m, uint32_t from, uint32_t to, double w_attn, double w_ffn);

/* "attn=3,7,12+40 ffn=3,12+40": layer 12 is left out from 40 rows behind the prompt's end on. Nothing: "none". */
bool mask_print(const layer_mask *m, text *out);
/* ERR_INPUT quotes what cannot be read, or a layer that a model of n layers does not have. */
err_code mask_parse(layer_mask *out, uint32_t n, const char *s, size_t len, err *e);
#endif
