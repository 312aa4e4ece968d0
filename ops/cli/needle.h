#ifndef CLI_NEEDLE_H
#define CLI_NEEDLE_H
/* Needles: one fact about somebody at a depth of a text that says nothing, and a question about it. Items of the kind that the
 * bundled model was trained on (ops/train/world.py: doc_needle), made from a seed, so that there can be thousands of them. A pure
 * function of seed and number: any thread. */
#include "core/buf.h"

enum { NEEDLE_DEPTHS = 5, NEEDLE_LENGTHS = 3 };

typedef struct {
    text context, question;    /* a prompt is the one and then the other */
    char answer[96];
    uint32_t depth, length;    /* of needle_depth and needle_lines */
    size_t at, len;            /* bytes of the fact in the context */
} needle;

extern const double needle_depth[NEEDLE_DEPTHS];          /* 0: the first sentence, 1: the last one */
extern const uint32_t needle_lines[NEEDLE_LENGTHS];       /* sentences around it */

/* Item i of a seed: depths and lengths come in turn. Start with {0}. ERR_NOMEM. */
err_code needle_make(needle *n, uint64_t seed, uint32_t i, err *e);
void needle_free(needle *n);
#endif
