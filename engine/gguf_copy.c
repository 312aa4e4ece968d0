/* Copies keys and tensors between GGUF files as they are. It refuses to change a byte. */
#include "engine/gguf_copy.h"
#include <string.h>
#include <sys/stat.h>

#define STRIDE ((uint64_t)4 << 20)      /* between two looks at the meter */

err_code gguf_meter_add(gguf_meter *m, uint64_t n, err *e)
{
    m->done += n;
    return !m->fn || m->fn(m->arg, m->done, m->total) ? ERR_OK : err_set(e, ERR_CANCELLED, "stopped");
}

static bool of_the_file(const gguf *g, const char *key, const char *const *skip)
{
    uint64_t align;
    if (!strncmp(key, "split.", 6)) return true;
    if (!strcmp(key, "general.alignment")) return !gguf_get_u64(g, key, &align) || align != 32;
    for (; skip && *skip; skip++)
        if (!strcmp(key, *skip)) return true;
    return false;
}

void gguf_copy_keys(gguf_writer *w, const gguf *g, const char *const *skip)
{
    for (uint64_t i = 0; i < gguf_n_keys(g); i++) {
        gguf_kind kind;
        const char *key = gguf_key(g, i, &kind);
        if (!of_the_file(g, key, skip)) gguf_writer_raw(w, key, kind, gguf_raw(g, i));
    }
}

void gguf_copy_entry(gguf_writer *w, const gguf_tensor *t, uint32_t type)
{
    gguf_writer_tensor(w, t->name, type, t->n_dims, t->dim);
}

err_code gguf_copy_data(gguf_writer *w, uint64_t to, const gguf *g, const gguf_tensor *t, gguf_meter *m, err *e)
{
    gguf_range r;
    err_code rc = gguf_map(g, t->offset, t->bytes, &r, e);
    for (uint64_t at = 0; !rc && at < t->bytes; at += STRIDE) {
        size_t n = (size_t)(t->bytes - at < STRIDE ? t->bytes - at : STRIDE);
        rc = gguf_writer_data(w, to, at, r.data + at, n, e);
        if (!rc) rc = gguf_meter_add(m, n, e);
    }
    gguf_unmap(&r);
    return rc;
}

uint64_t gguf_data_bytes(const gguf *g)
{
    uint64_t all = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) all += gguf_tensor_at(g, i)->bytes;
    return all;
}

err_code gguf_copy_check(const gguf *g, const char *out, err *e)
{
    struct stat a, b;
    if (stat(out, &b)) return ERR_OK;
    for (uint32_t i = 0; i < gguf_n_parts(g); i++)
        if (!stat(gguf_part_path(g, i), &a) && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
            return err_set(e, ERR_INPUT, "%s: is the input, too; write to another file", out);
    return ERR_OK;
}
