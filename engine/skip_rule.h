#ifndef ENGINE_SKIP_RULE_H
#define ENGINE_SKIP_RULE_H
/* How a session's layers to leave out are chosen: a policy's name and its settings, as users write them (--skip) and as a job's log
 * has them: "NAME", "NAME:key=value,key=value", "list:3,7a,9f" (a: attention only, f: FFN only), "random:4", "unified:4". Presets are
 * files configs/route/NAME.ini with a line `policy = NAME` and one for each setting. Says nothing about which layers: that is
 * coordinator/route_policies.c's. Any thread. */
#include "core/alarm.h"
#include "core/mask.h"

#define SKIP_KIND_MAP(X) X(NONE, "none") X(LIST, "list") X(RANDOM, "random") X(UNIFIED, "unified") X(SKIPDECODE, "skipdecode") \
    X(FIXED, "fixed") X(ADASKIP, "adaskip") X(FIRST, "first") X(FFN_SKIP, "ffn-skip") X(DUO, "duo") \
    X(EXIT, "exit")
typedef enum {
#define X(N, n) SKIP_##N,
    SKIP_KIND_MAP(X)
#undef X
    SKIP_KINDS
} skip_kind;

#define SKIP_LOOP 24              /* tokens that repeat: a loop, under every back-off */
enum { SKIP_ATTN = 1, SKIP_FFN = 2, SKIP_BOTH = 3 };
#define SKIP_TEXT 255u            /* of a rule at most */
#define SKIP_BY_MODEL UINT32_MAX  /* as many as its depth asks for */

typedef struct {
    skip_kind kind;
    uint32_t layers;              /* how many to leave out; 0: by share */
    double share;                 /* of all layers */
    uint32_t what;                /* SKIP_ATTN | SKIP_FFN */
    bool decode;                  /* prompts go through all layers (rows=decode), else all rows leave them out (rows=all) */
    uint64_t seed;                /* random */
    uint32_t most, least, warm, over;   /* skipdecode: layers run at first and at last, bottom layers always run, rows from one to the other */
    double mean;                  /* first: so great a share of all layers, mean over prompts: a limit of the profile decides for each */
    double speed, damage;         /* first, fixed: how many by this: the slowest stage so many times as fast; nats a token at most */
    double theta;                 /* ffn-skip: cosine from which on an FFN does little; 0: by share, from the profile */
    double q;                     /* exit: probability at which it is deep enough */
    uint32_t cold, last, next;    /* ffn-skip: lowest and topmost layers that always run, how many FFNs go behind a calm one, 0: all */
    uint32_t back;                /* back-off: 1 + alarm_kind, 0: none; and from which score on */
    double alarm;
    bool bare;                    /* adaskip: halves go without the paper's number in their place */
    bool patch;                   /* ffn-skip: low ranks in place of FFNs */
    bool trained;                 /* first: by the routers that were trained, not by those that were fitted */
    double rho;                   /* first: trained routers leave out what they want to keep less than this (the paper's 0.5); 0: by layers */
    bool ordered;                 /* skipdecode: by the profile's order, not the paper's bottom-up */
    uint8_t list[MASK_LAYERS];    /* list: SKIP_ATTN | SKIP_FFN by layer */
} skip_rule;

/* ERR_CONFIG quotes what cannot be read, and lists the names there are. */
err_code skip_rule_parse(skip_rule *out, const char *s, err *e);
/* A policy's text, or a preset by name, or a file (with a '/' in it or .ini at its end): as its text. ERR_CONFIG, ERR_IO. */
err_code skip_rule_load(char out[static SKIP_TEXT + 1], const char *name, err *e);
#endif
