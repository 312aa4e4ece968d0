#ifndef COORDINATOR_PREFIX_H
#define COORDINATOR_PREFIX_H
/* Which prompts' first rows the stages still have: an index of blocks of 64 tokens. The stages keep the rows under a number
 * (kvstore/prefix.h); this is where numbers come from. Main thread only.
 *
 * The key of a block is a chain, XXH3-128 throughout: key(-1) = hash of a line that says all a row's bits depend on beside
 * tokens: "sluice-prefix/1 model=DIGEST path=NAME rows=FORMAT ctx=short|long base=0 segment=0 tenant=N lora=DIGEST scale=X"
 * (the RoPE settings are the model's, short or long by the context); of a job whose prompt rows leave out layers, the hash of that
 * mask's text with this key folded into the seed; and
 *     key(i) = hash of 16 bytes key(i-1), high half first, little-endian, then 64 token ids as u32.
 * Tokens are stored and compared, so equal keys alone share nothing. */
#include "coordinator/session.h"

typedef struct prefix_index prefix_index;
struct coordinator;

err_code prefix_open(prefix_index **out, err *e);
void prefix_close(prefix_index **p);
/* The stages' blocks are gone (a new plan). */
void prefix_clear(prefix_index *p);

/* The block that a session's stages should begin with, 0: none, and how many rows that makes. Not of scored jobs, of policies
 * that must see rows computed, or where rows come another way (prompt cache, local prefill). */
uint64_t prefix_for(struct coordinator *c, const session *s, uint32_t *rows);
/* The stages took `rows` rows of what prefix_for said: the session goes on behind them; blocks that a stage has no more are
 * forgotten. */
void prefix_taken(struct coordinator *c, session *s, uint32_t rows);
/* Operations that keep the blocks which are complete when rows below `committed` are; at most `room` of them into ops. */
uint32_t prefix_keep(struct coordinator *c, session *s, uint32_t committed, step_op *ops, uint32_t room);
/* {"blocks": known, "asked": sessions, "rows": taken} */
void prefix_counts(const prefix_index *p, uint64_t *blocks, uint64_t *asked, uint64_t *rows);
#endif
