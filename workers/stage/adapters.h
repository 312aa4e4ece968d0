#ifndef WORKERS_STAGE_ADAPTERS_H
#define WORKERS_STAGE_ADAPTERS_H
/* The LoRA adapters a shard has in memory, and which session uses which. One copy of a file's content (by digest) serves all
 * sessions; it goes when the last of them does. Knows no messages. The stage's thread only. */
#include "engine/lora.h"

/* Different adapters in one shard at once: as many as sessions by default (--max-sessions), each of them megabytes. */
#define ADAPTERS_MAX 64u

typedef struct { uint64_t session; uint32_t slot; float scale; } adapter_use;
typedef struct adapters {         /* {0} to start */
    struct { lora *lora; char digest[33]; uint32_t users; } slot[ADAPTERS_MAX]; /* lora NULL: free */
    adapter_use *use;             /* [n] sessions that have one */
    uint32_t n, cap;
} adapters;

typedef struct { uint64_t session; const char *path, *digest; float scale; } adapter_want;

/* Give a session its adapter, from memory or from the file. ERR_MODEL: the file at that path has another digest (both are
 * quoted) or does not fit the model; ERR_IO; ERR_STATE: the session has one, or too many different ones are in use. */
err_code adapters_take(adapters *a, const model *m, const adapter_want *w, err *e);
/* The child inherits its parent's adapter, if it has one. */
err_code adapters_fork(adapters *a, uint64_t parent, uint64_t child, err *e);
/* NULL: the session has none. The scale goes to *scale. Valid until the session is dropped. */
const lora *adapters_of(const adapters *a, uint64_t session, float *scale);
/* true: it had one. */
bool adapters_drop(adapters *a, uint64_t session);
uint64_t adapters_bytes(const adapters *a);
void adapters_free(adapters *a);
#endif
