#include "core/passage.h"
#include <stdlib.h>

passage *passages_add(passages *p)
{
    if (p->count == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 8;
        passage *at = cap > SIZE_MAX / sizeof *at ? NULL : realloc(p->at, cap * sizeof *at);
        if (!at) return NULL;
        p->at = at;
        p->cap = cap;
    }
    p->at[p->count] = (passage){ 0 };
    return &p->at[p->count++];
}

void passages_drop(passages *p)
{
    passage *last = &p->at[--p->count];
    text_free(&last->body);
    text_free(&last->title);
    text_free(&last->source);
    text_free(&last->name);
}

void passages_free(passages *p)
{
    while (p->count) passages_drop(p);
    free(p->at);
    *p = (passages){ 0 };
}
