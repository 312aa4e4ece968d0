#ifndef TESTS_SUPPORT_PREDICT_H
#define TESTS_SUPPORT_PREDICT_H
/* Profiles with maps of KV prediction, learnt from random tokens: good enough to have bits that can be compared. */
#include "engine/kvlearn.h"

typedef struct {
    const char *base, *aux;      /* a GGUF file; a file or layers:... */
    kvmap_inputs inputs;
    wtype type;
    kv_format format;
    bool by_attention;
    uint32_t reweight, rank;
} predict_made;

/* Learn and write `file`, a new one. notes may be NULL. false: e says why. */
bool predict_make(const predict_made *m, const char *file, predictor_notes *notes, err *e);
#endif
