#ifndef TESTS_FAULTS_STAND_H
#define TESTS_FAULTS_STAND_H
/* The cluster under test as processes: three stages, a retrieval worker, a journal on a small file system of its own where that
 * is allowed, the proxy between them. Starts it, finds its processes, cleans up. Strikes no blows. One thread. */
#include "tests/faults/observed.h"
#include "tests/support_programs.h"

#define STAND_STAGES 3u

typedef struct {
    char dir[128], journal[160], fs[128], proxy_at[128], log[160];
    bool rag, mounted;          /* mounted: the journal's file system is ours */
    const char *model;
    observed *o;
    pid_t proxy, coordinator;
    unsigned ups;
    const char *keep;           /* finished jobs that stay */
    const char *time_offset;    /* seconds that the next coordinator's monotonic clock is off by, NULL: none */
} stand;

/* Before any thread: a mount name space, the page, the proxy, the environment. proxied: false leaves the last two out. */
bool stand_begin(stand *s, const char *model, bool rag, bool proxied);
/* `sluice up`. want: exit status. *why (or NULL) gets its words when it fails. */
bool stand_up(stand *s, int want, text *why);
/* The coordinator was killed: until its children are gone. */
bool stand_buried(stand *s);
/* pid of a child by its --name, 0: not there just now. */
pid_t stand_pid(const stand *s, const char *name);
bool stand_alive(const stand *s);
/* `sluice down`, wait; false when something stays. */
bool stand_down(stand *s);
void stand_end(stand *s);
/* Fill the journal's file system up; give it back. */
bool stand_fill_disk(const stand *s);
void stand_free_disk(const stand *s);
bool stand_journal_read_only(const stand *s, bool read_only);
/* Ends of the logs of the clusters so far. */
void stand_print_log(const stand *s);
#endif
