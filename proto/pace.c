/* Peers that talk too fast: counted and said. What becomes of their messages is the receiver's business. */
#include "proto/pace.h"
#include "core/clock.h"
#include "core/log.h"
#include "proto/lookout.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pace { rate_table *peers; uint64_t per_second, refused; limiter said; };

pace *pace_open(uint64_t per_second)
{
    pace *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->per_second = per_second;
    p->peers = rate_table_open(rate_of(per_second, PACE_BURST_S));
    if (!p->peers) pace_close(&p);
    return p;
}

void pace_close(pace **p)
{
    if (!*p) return;
    rate_table_close(&(*p)->peers);
    free(*p);
    *p = NULL;
}

uint64_t pace_refused(const pace *p) { return p->refused; }

err_code pace_check(pace *p, uint32_t who, const char *address, const char *where, uint32_t frames, uint32_t *wait_ms, err *e)
{
    uint64_t wait_ns, held;
    char name[80];
    bool ours = !who && (!address || !strncmp(address, "localhost:", 10)); /* the library's word for ipc, with the ids of the process */
    if (ours) return ERR_OK;
    if (who) snprintf(name, sizeof name, "%" PRIu32, who);
    else snprintf(name, sizeof name, "%s", address);
    if (rate_table_take(p->peers, name, strlen(name), frames, clock_ns(), &wait_ns)) return ERR_OK;
    p->refused++;
    *wait_ms = wait_ns > 60000000000u ? 60000 : (uint32_t)(wait_ns / 1000000) + 1;
    err_set(e, ERR_FULL, "refused: more than %" PRIu64 " frames a second at %s, retry after %.1f s", p->per_second, where, (double)*wait_ms / 1e3);
    if (limiter_lets(&p->said, &held))
        LOG(LOG_WARN, "PEER-HURRIED", "peer=%s from=%s text=\"%s\" more=%" PRIu64, who ? name : "-", address ? address : "-", e->text, held);
    return ERR_FULL;
}
