#ifndef COORDINATOR_COORDINATOR_H
#define COORDINATOR_COORDINATOR_H
/* The coordinator's state, and its one event loop. Data flows one way: front (clients) -> jobs -> sessions -> prefill ->
 * pump -> stages, and results back through session to front. Everything here belongs to the main thread; the only other
 * thread is the local prefill's (prefill.c), which talks to stages by its own sockets. */
#include "coordinator/adapter.h"
#include "coordinator/plan.h"
#include "coordinator/prefill_choice.h"
#include "coordinator/queue.h"
#include "coordinator/session.h"
#include "core/settings.h"
#include "engine/profile_kv.h"
#include "engine/predictor.h"
#include <stdatomic.h>
#include <sys/types.h>

#define MAX_MEMBERS 513u        /* 512 stages and a rag worker */
#define STAGE_NONE UINT32_MAX
#define JOINED UINT32_MAX       /* slot of a worker that is no child */
#define CRASH_MAX 64u           /* --crash-loop at most */
#define EPOCH_BITS 12           /* low bits of an epoch: plans of this coordinator so far */

typedef struct {                /* a worker that is here or was started */
    char name[64];
    link_id id;
    link_t *control;            /* the link it speaks on: local or for joined workers */
    msg_hello hello;
    pid_t pid;                  /* of a child; 0: joined by itself */
    bool hello_seen, ready, rag;
    bool leaving;               /* it asked to go, and is let go when no step is on its way */
    uint64_t t_pong;            /* last answer of its compute loop */
    uint64_t t_again;           /* a dead child is started again at this time, 0: it is not dead */
    uint64_t t_died[CRASH_MAX]; /* last deaths, to see a crash loop */
    uint32_t deaths, quick;     /* quick: last deaths in a row that came before it had served for a moment */
    uint32_t slot;              /* its number among the stages of this host */
    uint64_t t_plan, t_ready;   /* when it was given its place, when it had taken it */
    uint64_t progress, t_progress;  /* of a child that loads: spawn_progress, and when it changed last */
    uint32_t stage;             /* place in the plan, STAGE_NONE: spare */
    plan_part part;
    msg_ready took;
    msg_stats stats;
} member;

typedef struct {                /* a step on its way, whole, so that it can be sent again */
    uint64_t step, t_sent;
    bool decode, probe, sent;
    bool everywhere;            /* its operations concern every stage */
    step_row *rows;             /* [max_rows] */
    step_op *ops;               /* [cap_ops] */
    hop_rec *hops;              /* [512] */
    uint32_t n_rows, n_ops, n_hops, n_parts, top;
    struct { session *s; uint32_t first, n; } *part;
} flight;

typedef struct { step_op op; session *a, *b; } pending_op;

typedef struct {
    flight *at;                 /* [width] ring of steps in flight, oldest first */
    uint32_t width, n;
    uint64_t next_step;
    bool last_was_prompt;
    uint64_t refused;           /* RESULTs that were no answer to their step */
    pending_op *op;             /* forks that go in front of the next step */
    uint32_t n_op, cap_op;
    uint32_t cap_ops;
    text copy;                  /* aligned frames of the result under way */
    uint32_t seq[512];          /* steps that each stage was given under this plan */
    bool unsent;                /* a step waits for the first hop's connection */
    uint64_t t_result, t_again; /* last word of a step; when those on their way are sent again */
    uint64_t patience, usual;   /* ns: until then; a step takes */
    uint64_t prompt_row_ns;     /* and a row of a prompt, in the stream of steps; 0: there was none */
    uint32_t fruitless;         /* plans in a row under which no step came back */
    uint64_t resent, passed_by; /* passed_by: hops that steps went around */
    uint64_t decode_steps, decode_rows, prompt_steps, prompt_rows;
} pump;

/* Copies of live sessions' KV for the next plan (handover.c). */
typedef struct {
    bool on;                    /* a worker wants to leave, and rows are being copied */
    uint64_t t_begin, t_heard;
    uint64_t want, bytes, rows; /* of this time: bytes in all and here, rows in all */
    uint64_t held;              /* bytes of whole copies */
    uint64_t sessions, copied, given_up;   /* ever: sessions and rows that were not computed again; times it was too slow */
} handover;

/* The token that goes through every stage before the cluster is ready (probe.c). */
#define PROBE_SESSION 1u        /* below the first job's */
typedef struct {
    enum { PROBE_DUE, PROBE_OPENING, PROBE_STEP, PROBE_DONE } state;
    uint32_t acks;
    uint64_t t;                 /* when it began */
    bool known;
    float lse, max, entropy;    /* its answer when it went through for the first time */
} probe;

typedef enum { COORD_STARTING, COORD_READY, COORD_DRAINING, COORD_STOPPED } coord_state;

/* Is every stage there and ready under the current plan? Else it is being put together (again). */
struct coordinator;
bool fleet_is_whole(const struct coordinator *c);

typedef struct coordinator {
    const settings *set;
    atomic_bool *stop;
    coord_state state;
    char dir[160], host[128], client_addr[256];   /* host: how other machines call this one; client_addr: --listen-clients as bound */
    uint64_t gate_version;      /* of the list of peers that was acted on */
    gguf *file;
    model_shape shape;
    profile *profile;           /* NULL: none */
    profile_kv *profile_kv;     /* of all layers; NULL: it has no such section */
    tokenizer *tok;
    uint32_t n_ctx, max_rows, chunk;
    kv_format kv;               /* of exact rows */
    kv_policy kv_policy;        /* of jobs that ask for none */
    struct stand_ins *stand;    /* likewise, of all layers */
    struct router *router;      /* of the model's profile, NULL: there is none */
    char skip[SKIP_TEXT + 1];   /* likewise the rule by which layers are left out, "": none are */
    path_id path, prompt_path;  /* of decode rows, and of prompt rows */
    hub *hub;
    link_t *client, *control, *control_tcp, *result, *result_tcp;
    link_t *first_hop;          /* PUSH to the stage that embeds */
    link_t *inbox;              /* inproc PULL: words of the prefill thread */
    trace *trace;
    packet in;
    member *member;             /* [n_members] */
    uint32_t n_members, n_stages;
    member *by_stage[512];      /* plan order */
    member *rag;
    uint32_t epoch;
    bool plan_due;              /* the plan must be made (again) as soon as enough stages are here */
    bool whole;                 /* all stages are ready under this epoch, and a token went through them */
    probe probe;
    uint64_t t_broken;          /* since when it is not whole */
    uint32_t repairs;           /* times it was put together again */
    uint64_t t_ping, t_probe, t_start, t_tick;
    struct plan_file *split;    /* of --plan, or NULL */
    struct journal *journal;    /* NULL: jobs live as long as this process */
    err journal_trouble;        /* code != OK: it cannot be written, */
    uint64_t t_journal_again;   /* and is tried again at this time */
    job_list jobs;              /* all that are not over, and those over that somebody still has to hear of */
    job_queue queue;
    adapter_list adapters;
    session_list sessions;
    pump pump;
    handover handover;
    struct prefill *prefill;
    bool can_predict;           /* --aux and --profile are what they should be: */
    predictor_facts predict;
    prefill_cost cost_exact, cost_predicted;    /* of prompts until their first token */
    uint64_t t_refresh, refresh_turn;   /* shadows may send again at this time, or behind so many decode steps (coordinator/refresh.h) */
    struct prefix_index *prefixes;
    struct prefill *leaving;    /* of plans before, that have not ended yet */
    link_id stuck;              /* the client whose queue was full last: no more tries for it in this round */
    uint64_t stats_nonce, t_stats;  /* last STATS_GET */
    struct { link_id to; uint64_t ref; } ask[16];   /* status reports that wait for its answers */
    uint32_t n_ask;
    link_t *bulk[512];          /* PUSH to the stages' KV, by place in the plan, made when first needed */
    uint32_t spin_us;           /* how long it spins for a result before it sleeps: 0 where threads are more than cpus */
    bool caching;               /* a prompt cache has work to do: no waiting for messages */
    bool stop_now;
    err fatal;                  /* why the cluster cannot go on */
} coordinator;

/* Run until stopped. `notify_fd` < 0: none. Everything that was started is stopped and removed when it returns. */
err_code coordinator_run(const settings *s, hub *h, atomic_bool *stop, int notify_fd, err *e);
/* The cluster cannot go on (a stage died, a worker cannot take its plan): jobs fail with the text, then it stops. */
void coordinator_fail(coordinator *c, const err *why);

/* ERR_CONFIG: the policy needs something that the profile does not have. */
err_code profile_fits(const coordinator *c, const kv_policy *p, err *e);

/* children.c: workers of our own. Start one; a dead one again, later, unless it dies too often; what is due, who has ended (fleet_lost
 * hears why); end them all. */
err_code child_start(coordinator *c, member *m, err *e);
void child_again_later(coordinator *c, member *m, const err *why);
void children_start_due(coordinator *c);
void children_reap(coordinator *c);
void children_stop(coordinator *c);

/* fleet.c: HELLO, PLAN, READY, deaths */
err_code fleet_start(coordinator *c, err *e);
void fleet_message(coordinator *c, link_t *from);
void fleet_tick(coordinator *c);
/* A worker is gone or cannot be reached: its place is filled again (restart, spare, or a plan over the others) and live
 * sessions are rebuilt. */
void fleet_lost(coordinator *c, member *m, const err *why);
/* Steps or words were lost though nobody is: a new plan over the same members, and live sessions are rebuilt. */
void fleet_again(coordinator *c, const err *why);
void fleet_stop(coordinator *c);
/* Ask all stages for STATS; fleet_stats_fresh says when the answers are here (or are not coming). */
void fleet_ask_stats(coordinator *c);
bool fleet_stats_fresh(const coordinator *c);
void fleet_send_all(coordinator *c, const message *m, const view *frames);
err_code fleet_send(coordinator *c, member *m, const message *msg, const view *frames, err *e);

/* leave.c: a worker asked to go; are steps held back for it until those on their way are through? */
void leave_asked(coordinator *c, member *m);
bool leave_holds_steps(const coordinator *c);
void leave_tick(coordinator *c);
void leave_all(coordinator *c);                         /* the cluster ends: all hear it, */
void leave_wait(coordinator *c);                        /* and those that joined say that they did */

/* liveness.c: PING to all; whoever has been silent for too long is lost. away: we were away ourselves (stopped, or busy with a
 * file), and answers that wait to be read are no silence. */
void liveness_ping(coordinator *c, bool away);

/* probe.c: a token through every stage under this plan. Due again with every plan. */
void probe_reset(coordinator *c);
void probe_tick(coordinator *c);                        /* all stages have their weights */
void probe_opened(coordinator *c);                      /* a stage answered SESSION_READY */
void probe_answered(coordinator *c, const result_row *r);   /* NULL: the answer is no such row */

/* lifecycle of jobs: start queued ones as there is room, finish those whose choices are done */
void jobs_advance(coordinator *c);
/* Would this cluster compute the job as its log says? It then takes its arithmetic, else ERR_STATE says what is different. A
 * log that says nothing agrees with everything. */
err_code job_follow(const coordinator *c, job *j, err *e);
void job_fail(coordinator *c, job *j, const err *why);
void job_cancel(coordinator *c, job *j);
/* the prompt is complete (passages included): tokenize and open its session */
void job_begin(coordinator *c, job *j);

/* sessions in the cluster */
void session_open(coordinator *c, session *s);          /* ask all stages for its KV */
void session_opened(coordinator *c, uint64_t id, uint32_t prefix);       /* a stage answered SESSION_READY */
void session_filled(coordinator *c, uint64_t id);       /* a stage answered KV_DONE */
void session_failed(coordinator *c, uint64_t id, const err *why);
void session_pushed(coordinator *c, uint64_t id);       /* all its KV is on its way to the stages */
void sessions_watch(coordinator *c);                    /* none waits for a stage's word for ever */
void sessions_break(coordinator *c);                    /* their KV is gone */
void sessions_reopen(coordinator *c);                   /* all stages are ready again */
void sessions_sweep(coordinator *c);                    /* drop those that are over and in no step */

/* pump.c: steps out, results in */
err_code pump_open(coordinator *c, err *e);
void pump_close(coordinator *c);
void pump_fill(coordinator *c);
void pump_result(coordinator *c);
void pump_reset(coordinator *c);
/* Commit the rows that a finished session has sent last. false: out of memory. */
bool pump_commit(coordinator *c, session *s);
/* false: no such step is on its way. */
bool pump_step_failed(coordinator *c, uint64_t step, const err *why);
void pump_plan(coordinator *c);                         /* a new plan: stages count steps from 1 */
void pump_probe(coordinator *c);                        /* one row of PROBE_SESSION */
/* Steps that are overdue are sent again: stages answer from store what they have computed. When that brings nothing for
 * longer than a stage may be silent, the plan is made again. */
void pump_watch(coordinator *c, bool away);

/* prefill.c: the coordinator's own engine */
err_code prefill_start(coordinator *c, session *s, err *e);
/* Have it there (again) before a job wants it: a prediction is not to wait for weights. */
void prefill_get_ready(coordinator *c);
void prefill_cancel(coordinator *c, uint64_t session);
void prefill_close(coordinator *c);

/* retrieve.c */
err_code retrieve_ask(coordinator *c, job *j, err *e);
void retrieve_answer(coordinator *c);
void retrieve_again(coordinator *c);            /* the rag worker died: questions under way are asked again */

/* report.c: JSON for ASK; the text is appended to *out */
bool report_status(coordinator *c, text *out);
bool report_jobs(coordinator *c, const char *who, text *out);     /* the jobs of this owner; OWNER_LOCAL sees all */
bool report_log(const job *j, text *out);
#endif
