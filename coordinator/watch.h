#ifndef COORDINATOR_WATCH_H
#define COORDINATOR_WATCH_H
/* Who hears of a job: the client that submitted it, and any number that fetched it, each with its own place in the answer.
 * Pure data; outbox.c sends. Main thread only. */
#include "proto/link.h"

typedef struct {
    size_t tok, text;            /* sent so far */
    bool ahead;                  /* `tok` was asked for before it was known that there are so many; `text` comes with them */
    bool done;                   /* has its DONE, or did not ask for this choice */
} watch_place;

typedef struct watcher {
    link_id to;
    bool submitter;              /* scores go to it, and its leaving ends a job that is not detached */
    bool once;                   /* wants what is there now and does not wait for the end */
    struct watcher *next;
    uint32_t n;
    watch_place at[];            /* [n] choices */
} watcher;

/* A new one at the beginning of every choice; NULL: out of memory. */
watcher *watch_add(watcher **list, const link_id *to, uint32_t n_choices);
watcher *watch_find(watcher *list, const link_id *to);
/* The one that submitted the job, NULL when it is gone or never was. */
watcher *watch_submitter(watcher *list);
void watch_drop(watcher **list, watcher *w);
void watch_drop_all(watcher **list);
/* It has all it asked for. */
bool watch_is_done(const watcher *w);
#endif
