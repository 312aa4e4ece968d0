#ifndef WORKERS_STAGE_STAGE_H
#define WORKERS_STAGE_STAGE_H
/* A stage: joins a coordinator, is given shards by PLAN, computes STEPs and passes them on. It owns its sockets, its model
 * file and its shards; it never talks to the stage before it and never decides that a session goes on or ends.
 * One thread runs it (the pool's threads compute inside). The same function runs in a process of its own (main.c) or in a
 * thread over inproc (the test rig). */
#include "core/isa.h"
#include "core/sandbox.h"
#include "core/topo.h"
#include "engine/pack.h"
#include "proto/link.h"
#include <stdatomic.h>

typedef struct {
    hub *hub;
    const char *connect;        /* control endpoint of the coordinator */
    const char *model;          /* GGUF file */
    pack_options pack;          /* its packed weights */
    const char *profile;        /* of the model; NULL: the one beside it, if there is one; "none" */
    const char *name;           /* unique in the cluster */
    const char *data_dir;       /* ipc sockets go there; NULL: data_addr/bulk_addr or tcp */
    const char *address;        /* with tcp: our host as others call it; NULL: that of the way to the coordinator */
    const char *data_addr, *bulk_addr;   /* explicit endpoints (inproc://...), NULL otherwise */
    const char *trace;          /* file, NULL: none */
    uint32_t threads;           /* 0: one a core */
    topo *where;                /* NULL: not bound */
    isa isa;
    uint64_t cookie;
    const sandbox_want *sandbox; /* entered when files and sockets are open, for the whole process; NULL (a thread of the rig): not */
    bool joined;                /* came by itself: leaves when the coordinator is silent */
    atomic_bool *stop;          /* set by a signal handler or the rig */
} stage_options;

/* Returns when told BYE, when *stop is set, or on an error that ends it (no such file, no such peer). */
err_code stage_run(const stage_options *o, err *e);
#endif
