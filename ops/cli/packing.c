#include "ops/cli/packing.h"
#include "engine/pack.h"
#include "ops/cli/paths.h"
#include "ops/cli/progress.h"
#include "ops/cli/show.h"
#include "ops/cli/signals.h"
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

enum { MEGABYTE = 1000000, THREADS_MAX = 256 };

static bool draw(void *arg, uint64_t done, uint64_t total)
{
    if (total) progress_set(arg, done, total);
    return !signals_caught();
}

pack_options packing_options(const settings *s)
{
    return (pack_options){ !s->no_pack, s->pack_dir, s->pack_cap << 20 };
}

static uint32_t processors(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : (uint32_t)n;
}

static err_code make(const settings *s, const char *model, bool check, text *path, bool *made, err *e)
{
    gguf *g = NULL;
    progress bar = progress_open("packing weights");
    pack_meter meter = { draw, &bar };
    pack_options o = packing_options(s);
    err_code rc = gguf_open(&g, model, e);
    if (!rc) rc = pack_make(g, &o, check, processors(), &meter, path, made, e);
    progress_close(&bar);
    gguf_close(&g);
    return rc;
}

void packing_before_start(const settings *s)
{
    text path = { 0 };
    err e = { 0 };
    bool made;
    if (!s->no_pack && s->model) make(s, s->model, false, &path, &made, &e);
    text_free(&path);
}

err_code packing_make(settings *s, err *e)
{
    text path = { 0 };
    bool made = false;
    if (s->args.n > 2 || (s->args.n > 1 && s->model)) return err_set(e, ERR_USAGE, "model pack packs one file");
    const char *file = s->args.n > 1 ? s->args.at[1] : s->model;
    err_code rc = file ? ERR_OK : path_default_model(s, e);
    if (!rc) rc = make(s, file ? file : s->model, true, &path, &made, e);
    if (!rc && s->json)
        rc = show_json(json_pack("{s:s, s:s, s:b}", "schema", "sluice.pack/1", "file", path.ptr, "made", made), e);
    else if (!rc) {
        printf("%s%s\n", path.ptr, made ? "" : " (was there)");
        rc = show_write("", 0, e);
    }
    text_free(&path);
    return rc;
}

static err_code show_list(const settings *s, const char *dir, const pack_entry *list, size_t n, err *e)
{
    uint64_t sum = 0;
    json_t *all = json_array();
    for (size_t i = 0; i < n; i++) {
        char when[32] = "";
        time_t t = list[i].used;
        struct tm tm;
        sum += list[i].bytes;
        if (localtime_r(&t, &tm)) strftime(when, sizeof when, "%Y-%m-%d %H:%M", &tm);
        if (!s->json) printf("%10.1f MB  %s  %s\n", (double)list[i].bytes / MEGABYTE, when, list[i].model);
        json_array_append_new(all, json_pack("{s:s, s:s, s:I, s:I}", "file", list[i].file, "model", list[i].model, "bytes",
                                             (json_int_t)list[i].bytes, "used", (json_int_t)list[i].used));
    }
    if (s->json)
        return show_json(json_pack("{s:s, s:s, s:I, s:o}", "schema", "sluice.cache/1", "dir", dir, "bytes", (json_int_t)sum,
                                   "models", all), e);
    json_decref(all);
    printf("%10.1f MB  of packed weights in %s\n", (double)sum / MEGABYTE, dir);
    return show_write("", 0, e);
}

static err_code clear(const settings *s, const pack_options *o, const char *dir, err *e)
{
    size_t n = 0;
    err_code rc = pack_clear(o, &n, e);
    if (rc) return rc;
    if (s->json)
        return show_json(json_pack("{s:s, s:s, s:I}", "schema", "sluice.cache/1", "dir", dir, "removed", (json_int_t)n), e);
    printf("%zu removed from %s\n", n, dir);
    return show_write("", 0, e);
}

err_code packing_cache(settings *s, err *e)
{
    pack_options o = packing_options(s);
    pack_entry *list = NULL;
    size_t n = 0;
    text dir = { 0 };
    if (s->args.n > 1) return err_set(e, ERR_USAGE, "what is \"%.100s\"?", s->args.at[1]);
    err_code rc = pack_dir(&dir, &o, e);
    if (!rc && s->clear) rc = clear(s, &o, dir.ptr, e);
    else if (!rc) {
        rc = pack_list(&o, &list, &n, e);
        if (!rc) rc = show_list(s, dir.ptr, list, n, e);
    }
    free(list);
    text_free(&dir);
    return rc;
}
