#ifndef COORDINATOR_PROMPT_CACHE_H
#define COORDINATOR_PROMPT_CACHE_H
/* --prompt-cache: the KV of a prompt comes from a file instead of being computed, as far as the prompts agree, and goes into
 * it when the session is over. Works in small steps between the messages of others; reads and checks the whole file before
 * a stage gets any of it. Whatever is wrong with the file: the prompt is computed as always, and the job says why.
 * Main thread only. */
#include "coordinator/coordinator.h"

/* A session's first opening. true: it is being filled (SESSION_LOCAL), and prompt_cache_tick goes on with it. */
bool prompt_cache_begin(coordinator *c, session *s);
/* Every stage has its rows. */
void prompt_cache_filled(session *s);
/* The session is over and in no step: true while its rows are still being saved. */
bool prompt_cache_holds(coordinator *c, session *s);
/* KV_ROWS came. */
void prompt_cache_rows(coordinator *c);
/* A stage has failed for this session; true when that was about saving, which then ends. */
bool prompt_cache_failed(session *s, const err *why);
/* One small step for every session that has something to read. */
void prompt_cache_tick(coordinator *c);
/* Let go of a session's files. */
void prompt_cache_drop(session *s);
/* Who has this layer in the plan of now; NULL: nobody. KV_PUSH to it, over a socket that is closed when the plan changes. */
member *stage_of_layer(const coordinator *c, uint32_t layer);
err_code kv_push_to(coordinator *c, member *m, const message *head, view stream, int timeout_ms, err *e);
/* The plan changes: nothing under way is any good. */
void prompt_cache_break(coordinator *c);
#endif
