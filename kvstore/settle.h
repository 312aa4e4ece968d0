#ifndef KVSTORE_SETTLE_H
#define KVSTORE_SETTLE_H
/* One settlement of one layer on its way: settle_view.c unpacks rows into plain arrays, kvstore/policy/ decides, settle_pack.c
 * packs what stays. Private to kvstore/settle*.c. */
#include "kvstore/lossy.h"

/* Where a row of the view lies now. */
typedef struct {
    uint32_t pane;             /* of the old shelf, UINT32_MAX: a raw row of the table */
    uint32_t entry;            /* of the observations, and index into the old shelf below its rows */
    uint32_t ord;
} settle_row;

/* One head. Arrays of n + 1. */
typedef struct {
    kv_head_view view;
    kv_keep keep;
    settle_row *from;
    uint8_t *stays;            /* by view index: 1 kept */
} settle_head;

typedef struct {
    kv_seq *q;
    uint32_t layer;
    bool prompt_end, all;      /* all: the view has every row, else only those that wait and fresh ones */
    settle_head *head;         /* [K] */
    kv_head_view *view;        /* [K] */
    kv_keep *keep;             /* [K] */
    void *mem;                 /* of everything above */
    pane_work *pack;
    float *rows;               /* [32][pane_ld] of one pane */
    uint64_t *tmp;             /* [stride of the observations] */
} settlement;

/* Plain arrays of every head; mem is to be freed by the caller. ERR_NOMEM. */
err_code settle_view(settlement *w, err *e);
/* A head's new shelf from its keep list. ERR_FULL, ERR_NOMEM: the old one is as it was. */
err_code settle_pack(settlement *w, uint32_t head, err *e);
#endif
