#ifndef ENGINE_ROUTER_H
#define ENGINE_ROUTER_H
/* Sections route, first and limits of a profile, for whoever chooses layers: what each costs on the whole, in which order they can go, and routers that
 * see it in a prompt (ops/cli/calibrate_route.h says what the keys mean). Immutable once open: any thread. */
#include "engine/profile.h"

#define ROUTER_CALM 8u
#define ROUTER_CALM_STEP 0.05
/* q of exit, added-up damage of first, rho of first with trained routers (ops/cli/calibrate_limits.h). */
typedef enum { LIMIT_EXIT, LIMIT_DAMAGE, LIMIT_RHO, ROUTER_LIMITS } router_limit;
extern const char *const router_limit_names[ROUTER_LIMITS];   /* keys of the section */

typedef struct router {
    uint32_t L, D;
    double *damage;              /* [L] nats a token, mean */
    double *sim_attn, *sim_ffn;  /* [L] cosine of what goes into a half and what comes out */
    uint32_t *order;             /* [L] the most expendable first */
    double neighbours, eps;
    bool exits;                  /* hazards are known: */
    double *exit_bias, *exit_slope;   /* [L] logit of the hazard that a layer is the last that a prompt's answer needs, over the entropy at its end */
    uint32_t n_calm;             /* 0: the profile says nothing of FFNs by what they do, or ROUTER_CALM: */
    double *calm, *calm_all;     /* [n_calm] thetas that leave out a ROUTER_CALM_STEP, two of them, ... of all FFNs: one behind a calm one, all behind it */
    double *limit[ROUTER_LIMITS];   /* [ROUTER_CALM] each: what leaves out a ROUTER_CALM_STEP, two of them, ... of the layers, mean over prompts; NULL: not known */
    double *pairs;               /* [L][L] what two layers cost more than their parts; NULL: a profile of before knows neighbours only */
    double *bias, *gate_bias;    /* [L] */
    float *w, *gate;             /* [L][D] */
    float *rho_w;                /* [L][D], section first: routers that were trained by gradients (ops/train/first.py); NULL: there are none */
    double *rho_b;               /* [L] */
} router;

/* ERR_CONFIG: the profile has no such section; ERR_MODEL: it is of another shape, or damaged. */
err_code router_open(router **out, const profile *p, uint32_t L, uint32_t D, err *e);
void router_close(router **r);
/* The theta that leaves out this share of the FFNs of generated rows, between what was measured; n_calm is not 0. */
double router_calm(const router *r, bool all, double share);
/* Likewise what leaves out this share of the layers; r->limit[which] is there. */
double router_limit_at(const router *r, router_limit which, double share);
/* The deepest layer that a session has to run, by Q-exit: the first at which 1 - (1 - h_0)(1 - h_1)... reaches q (arXiv:2204.03276); the last
 * layer of all always runs. entropy: of the distribution behind the prompt's last token, nats. */
uint32_t router_exit(const router *r, double entropy, double q);
/* Damage of each layer on a prompt with these pooled inputs [L][D] (runner: forward_row.pool / rows): damage [L], nats a token. */
void router_look(const router *r, const float *pooled, double *damage);
/* What trained routers think of keeping each layer, 0 to 1: rho [L] = sigmoid(w f + b), arXiv:2410.12513. r->rho_w is there. */
void router_rho(const router *r, const float *pooled, double *rho);
#endif
