#include "tests/support_predict.h"
#include "tests/support.h"
#include <stdlib.h>

enum { WINDOWS = 4, LEN = 96, THREADS = 2, SUMS = 6 << 20 };

static err_code learn(const predict_made *m, const gguf *g, auxiliary *a, profile_writer *w, predictor_notes *notes, pool *p, err *e)
{
    uint32_t ids[WINDOWS][LEN], len[WINDOWS];
    const uint32_t *window[WINDOWS];
    isa use;
    for (uint32_t i = 0; i < WINDOWS; i++) {
        window[i] = ids[i];
        len[i] = LEN;
        for (uint32_t k = 0; k < LEN; k++) ids[i][k] = 300 + (uint32_t)support_draw(5, i * LEN + k, 3000);
    }
    err_code rc = isa_pick(&use, e);
    kvlearn_task t = { .base = g, .aux = a, .window = window, .len = len, .n_windows = WINDOWS, .inputs = m->inputs, .by_attention = m->by_attention,
                       .reweight = m->reweight, .rank = m->rank, .type = m->type,
                       .path = PATH_I8B32, .format = m->format, .isa = use, .pool = p, .bytes = SUMS };
    return rc ? rc : kvlearn(&t, w, notes, e);
}

static err_code make(const predict_made *m, const gguf *g, const char *file, predictor_notes *notes, pool *p, err *e)
{
    auxiliary *a;
    profile_writer *w = NULL;
    model_shape s;
    err_code rc = model_shape_read(&s, g, e);
    if (!rc) rc = auxiliary_open(&a, m->aux, g, e);
    if (rc) return rc;
    profile_binding bound = { gguf_digest(g), a->digest, path_name(PATH_I8B32) };
    rc = profile_writer_open(&w, file, &bound, s.L, 1u << PROFILE_PREDICT, e);
    if (!rc) rc = learn(m, g, a, w, notes, p, e);
    if (!rc) rc = profile_writer_commit(w, e);
    profile_writer_close(&w);
    auxiliary_close(&a);
    return rc;
}

bool predict_make(const predict_made *m, const char *file, predictor_notes *notes, err *e)
{
    gguf *g = NULL;
    pool *p = NULL;
    predictor_notes *mine = notes ? notes : calloc(1, sizeof *mine);
    err_code rc = mine ? gguf_open(&g, m->base, e) : err_set(e, ERR_NOMEM, "out of memory");
    if (!rc) rc = pool_open(&p, THREADS, NULL, NULL, e);
    if (!rc) rc = make(m, g, file, mine, p, e);
    if (p) pool_close(&p);
    if (g) gguf_close(&g);
    if (mine != notes) free(mine);
    return !rc;
}
