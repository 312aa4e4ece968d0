#ifndef COORDINATOR_ROUTE_H
#define COORDINATOR_ROUTE_H
/* Which layers a job leaves out, and which stages a step therefore goes around. The mask is chosen once, by the job's rule or the
 * cluster's, and is in the job's log; whatever runs the job again follows the log. Main thread only. */
#include "coordinator/coordinator.h"

/* Fix a job's mask when it begins: by its log, else by its rule, which the log then says. ERR_INPUT, ERR_CONFIG. */
err_code route_fix(coordinator *c, job *j, bool has_log, err *e);
/* The routers of the cluster's profile, if it has any. ERR_CONFIG, ERR_MODEL, ERR_IO. */
err_code route_open(coordinator *c, err *e);
void route_close(coordinator *c);
/* Rows whose layer inputs its stages are to add up, 0: none. */
uint32_t route_pool_rows(const session *s);
/* Its prompt has been computed and not been seen yet. */
bool route_waits(const session *s);
/* POOLED came: when all layers are here the mask is chosen, and stands in the log. */
void route_pooled(coordinator *c);
/* The prompt's last row is back: a depth may be chosen by what it says. */
void route_entropy(coordinator *c, session *s, float entropy);
/* The mask as SESSION_OPEN carries it, into recs [MASK_LAYERS]; returns n_mask. */
uint32_t route_records(const session *s, mask_rec *recs);
/* Its calm rule, and what stands in, likewise. */
void route_say_more(const session *s, msg_session_open *m);
/* Operations that tell stages a session's mask anew (its context has slid); `ops` has room for 2 a layer. */
uint32_t route_tell(const session *s, step_op *ops);
/* Has stage i anything to do in a step with these sessions and rows? */
bool route_visits(const coordinator *c, const flight *f, uint32_t i);
/* Layers of [first, last) in which the job's sessions have KV rows. */
uint32_t route_layers(const job *j, uint32_t first, uint32_t last);
/* Share of its weights that the generated rows of choice `index` left out. */
double route_share(const coordinator *c, const job *j, uint32_t index);
/* What is left out by prompt rows, for keys of shared rows; "": nothing. */
bool route_prompt_text(const job *j, text *out);
/* Is there something in place of what prompt rows leave out? The coordinator's own engine has no such things. */
bool route_stands_in_prompt(const job *j);
/* Name of the policy in force and the mask, from the job's log; empty views: none. */
void route_said(const job *j, view *rule, view *mask);
#endif
