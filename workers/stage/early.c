#include "workers/stage/early.h"
#include <stdlib.h>

void early_keep(early *a, uint32_t seq, uint32_t due, const message *head, const view *frame)
{
    if (!a->at) a->at = calloc(a->depth, sizeof *a->at);
    if (!a->at || seq < due || seq - due >= a->depth) return;
    early_step *x = &a->at[seq % a->depth];
    bool ok = true;
    for (uint32_t i = 0; i < MSG_FRAMES_MAX; i++) {
        text_clear(&x->frame[i]);
        ok = ok && text_add(&x->frame[i], frame[i].len ? frame[i].ptr : "", frame[i].len);
    }
    x->head = *head;
    x->seq = ok ? seq : 0;
}

const message *early_take(early *a, uint32_t seq, view frame[static MSG_FRAMES_MAX])
{
    early_step *x = a->at ? &a->at[seq % a->depth] : NULL;
    if (!x || x->seq != seq) return NULL;
    x->seq = 0;
    for (uint32_t i = 0; i < MSG_FRAMES_MAX; i++) frame[i] = (view){ x->frame[i].ptr, x->frame[i].len };
    return &x->head;
}

void early_free(early *a)
{
    for (uint32_t i = 0; a->at && i < a->depth; i++)
        for (uint32_t k = 0; k < MSG_FRAMES_MAX; k++) text_free(&a->at[i].frame[k]);
    free(a->at);
    a->at = NULL;
}
