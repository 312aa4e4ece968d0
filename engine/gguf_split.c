/* Writing a model in parts, and parts as one file. It refuses to cut a tensor. */
#include "engine/gguf_split.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const gguf *g;
    const char *prefix;
    uint64_t *first; /* [parts + 1]: part i has tensors [first[i], first[i + 1]) */
    uint32_t parts;
    gguf_meter *m;
} splitting;

/* Where parts begin: as many tensors as fit. */
static err_code cut(splitting *s, uint64_t max_bytes, err *e)
{
    uint64_t n = gguf_n_tensors(s->g), held = 0;
    s->parts = 1;
    s->first = calloc(GGUF_PARTS_MAX + 1, sizeof *s->first);
    if (!s->first) return err_set(e, ERR_NOMEM, "out of memory");
    for (uint64_t i = 0; i < n; i++) {
        uint64_t bytes = gguf_tensor_at(s->g, i)->bytes;
        bool full = i > s->first[s->parts - 1] && (held > max_bytes || bytes > max_bytes - held);
        if (full && s->parts == GGUF_PARTS_MAX)
            return err_set(e, ERR_INPUT, "parts of %" PRIu64 " bytes are more than %d; allow larger ones", max_bytes,
                           GGUF_PARTS_MAX);
        if (full) s->first[s->parts++] = i;
        held = (full ? 0 : held) + bytes;
    }
    s->first[s->parts] = n;
    return ERR_OK;
}

static void write_keys(const splitting *s, gguf_writer *w, uint32_t i)
{
    uint16_t no = (uint16_t)i, count = (uint16_t)s->parts;
    int32_t tensors = (int32_t)gguf_n_tensors(s->g);
    if (i == 0) gguf_copy_keys(w, s->g, NULL);
    gguf_writer_num(w, "split.no", GGUF_U16, &no); /* kinds as llama.cpp writes them */
    gguf_writer_num(w, "split.count", GGUF_U16, &count);
    gguf_writer_num(w, "split.tensors.count", GGUF_I32, &tensors);
    gguf_writer_str(w, "split.source_digest", (view){ gguf_digest(s->g), strlen(gguf_digest(s->g)) });
}

static err_code write_part(const splitting *s, gguf_writer *w, uint32_t i, err *e)
{
    uint64_t lo = s->first[i], hi = s->first[i + 1];
    write_keys(s, w, i);
    for (uint64_t t = lo; t < hi; t++) gguf_copy_entry(w, gguf_tensor_at(s->g, t), gguf_tensor_at(s->g, t)->type);
    err_code rc = gguf_writer_begin(w, e);
    for (uint64_t t = lo; !rc && t < hi; t++) rc = gguf_copy_data(w, t - lo, s->g, gguf_tensor_at(s->g, t), s->m, e);
    return rc ? rc : gguf_writer_commit(w, e);
}

static err_code make_part(const splitting *s, uint32_t i, err *e)
{
    text path = { 0 };
    gguf_writer *w = NULL;
    bool ok = text_addf(&path, "%s-%05u-of-%05u.gguf", s->prefix, i + 1, s->parts);
    err_code rc = ok ? gguf_copy_check(s->g, path.ptr, e) : err_set(e, ERR_NOMEM, "out of memory");
    if (!rc) rc = gguf_writer_open(&w, path.ptr, e);
    if (!rc) rc = write_part(s, w, i, e);
    gguf_writer_close(&w);
    text_free(&path);
    return rc;
}

err_code gguf_split(const gguf *g, const char *prefix, uint64_t max_bytes, gguf_meter *m, uint32_t *parts, err *e)
{
    splitting s = { .g = g, .prefix = prefix, .m = m };
    m->total = gguf_data_bytes(g);
    err_code rc = cut(&s, max_bytes, e);
    for (uint32_t i = s.parts; !rc && i-- > 0;) rc = make_part(&s, i, e);
    *parts = s.parts;
    free(s.first);
    return rc;
}

static err_code write_whole(const gguf *g, gguf_writer *w, gguf_meter *m, err *e)
{
    uint64_t n = gguf_n_tensors(g);
    gguf_copy_keys(w, g, NULL);
    for (uint64_t i = 0; i < n; i++) gguf_copy_entry(w, gguf_tensor_at(g, i), gguf_tensor_at(g, i)->type);
    err_code rc = gguf_writer_begin(w, e);
    for (uint64_t i = 0; !rc && i < n; i++) rc = gguf_copy_data(w, i, g, gguf_tensor_at(g, i), m, e);
    return rc ? rc : gguf_writer_commit(w, e);
}

err_code gguf_merge(const gguf *g, const char *out, gguf_meter *m, err *e)
{
    gguf_writer *w = NULL;
    m->total = gguf_data_bytes(g);
    err_code rc = gguf_copy_check(g, out, e);
    if (!rc) rc = gguf_writer_open(&w, out, e);
    if (!rc) rc = write_whole(g, w, m, e);
    gguf_writer_close(&w);
    return rc;
}
