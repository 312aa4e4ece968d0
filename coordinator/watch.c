/* The list of those who hear of a job. Sends nothing. */
#include "coordinator/watch.h"
#include <stdlib.h>
#include <string.h>

watcher *watch_add(watcher **list, const link_id *to, uint32_t n_choices)
{
    watcher *w = calloc(1, sizeof *w + n_choices * sizeof *w->at);
    if (!w) return NULL;
    w->to = *to;
    w->n = n_choices;
    w->next = *list;
    *list = w;
    return w;
}

watcher *watch_find(watcher *list, const link_id *to)
{
    while (list && !link_id_same(&list->to, to)) list = list->next;
    return list;
}

watcher *watch_submitter(watcher *list)
{
    while (list && !list->submitter) list = list->next;
    return list;
}

void watch_drop(watcher **list, watcher *w)
{
    while (*list && *list != w) list = &(*list)->next;
    if (*list) *list = w->next;
    free(w);
}

void watch_drop_all(watcher **list)
{
    while (*list) watch_drop(list, *list);
}

bool watch_is_done(const watcher *w)
{
    for (uint32_t i = 0; i < w->n; i++)
        if (!w->at[i].done) return false;
    return true;
}
