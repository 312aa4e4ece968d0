#include "engine/model_info.h"
#include "engine/model_random.h"
#include "ops/cli/command.h"
#include "ops/cli/convert.h"
#include "ops/cli/packing.h"
#include "ops/cli/paths.h"
#include "ops/cli/progress.h"
#include "ops/cli/show.h"
#include <string.h>

/* sluice model info and model random: looks into GGUF files and makes them; runs none. And sluice config, which prints
 * the reference of all configuration keys. */

static err_code info(settings *s, err *e)
{
    const char *path = s->args.n > 1 ? s->args.at[1] : s->model;
    if (s->args.n > 2 || (s->args.n > 1 && s->model)) return err_set(e, ERR_USAGE, "model info looks into one file");
    err_code rc = path ? ERR_OK : path_default_model(s, e);
    if (rc == ERR_OK) rc = model_info_print(path ? path : s->model, s->json, stdout, e);
    return rc == ERR_OK ? show_write("", 0, e) : rc;
}

static void draw(void *arg, uint64_t done, uint64_t total) { progress_set(arg, done, total); }

static bool known_shape(const char *name)
{
    const char *about, *shape;
    for (size_t i = 0; (shape = model_random_shape(i, &about)); i++)
        if (!strcmp(shape, name)) return true;
    return false;
}

static err_code wrong_shape(const char *name, err *e)
{
    char list[360] = "";
    size_t n = 0;
    const char *about, *shape;
    for (size_t i = 0; (shape = model_random_shape(i, &about)) && n < sizeof list - 64; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%.40s", i ? ", " : "", shape);
    return err_set(e, ERR_USAGE, "%s%.60s%s; shapes are %s", name ? "no shape \"" : "--shape is missing", name ? name : "",
                   name ? "\"" : "", list);
}

static err_code check_quant(const char *name, err *e)
{
    char list[120] = "";
    size_t n = 0;
    const char *q;
    for (size_t i = 0; (q = model_random_quant(i)); i++) {
        if (!strcmp(q, name)) return ERR_OK;
        if (n < sizeof list - 24) n += (size_t)snprintf(list + n, sizeof list - n, "%s%.20s", i ? ", " : "", q);
    }
    return err_set(e, ERR_USAGE, "no weight type \"%.40s\" for random models; types are %s", name, list);
}

static err_code make_random(settings *s, err *e)
{
    progress bar = progress_open("writing");
    if (s->args.n > 1) return err_set(e, ERR_USAGE, "what is \"%.100s\"?", s->args.at[1]);
    if (!s->shape || !known_shape(s->shape)) return wrong_shape(s->shape, e);
    if (!s->out) return err_set(e, ERR_USAGE, "-o FILE is missing");
    const char *quant = s->quant ? s->quant : "Q4_0";
    err_code rc = check_quant(quant, e);
    if (rc == ERR_OK) rc = model_random_write(s->shape, quant, s->seed, s->out, draw, &bar, e);
    progress_close(&bar);
    return rc;
}

err_code cmd_model(settings *s, err *e)
{
    const char *words[8] = { "info", "random", "pack", "cache" }, *usage, *w = s->args.n ? s->args.at[0] : "";
    size_t n = 4;
    if (!strcmp(w, "info")) return info(s, e);
    if (!strcmp(w, "random")) return make_random(s, e);
    if (!strcmp(w, "pack")) return packing_make(s, e);
    if (!strcmp(w, "cache")) return packing_cache(s, e);
    for (size_t i = 0; n < 8 && (words[n] = convert_word(i, &usage)); i++, n++)
        if (!strcmp(w, words[n])) return convert_run(w, s, e);
    const char *near = nearest_word(w, words, n);
    return err_set(e, ERR_USAGE, "model info FILE, random --shape NAME -o FILE, quantize IN OUT TYPE, "
                   "split IN OUTPREFIX --max-size MB, merge FIRST OUT, pack FILE, or cache [--clear]%s%s%s", near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

err_code cmd_config(settings *s, err *e)
{
    if (s->args.n) return err_set(e, ERR_USAGE, "what is \"%.100s\"?", s->args.at[0]);
    settings_write_ini(stdout);
    return show_write("", 0, e);
}
