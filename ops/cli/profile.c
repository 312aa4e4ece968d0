#include "engine/profile.h"
#include "engine/model.h"
#include "ops/cli/command.h"
#include "ops/cli/paths.h"
#include "ops/cli/show.h"
#include <string.h>

/* sluice profile info: what a profile has. Making sections is sluice calibrate's, and profile_take.c's. */

/* Without a file: the profile beside the model. */
static err_code beside(settings *s, text *out, err *e)
{
    err_code rc = s->model ? ERR_OK : path_default_model(s, e);
    if (rc == ERR_OK && !profile_beside(s->model, out)) rc = err_set(e, ERR_NOMEM, "out of memory");
    return rc;
}

/* With -m the profile must be that model's. */
static err_code open_one(settings *s, const char *file, profile **p, err *e)
{
    gguf *g = NULL;
    err_code rc = s->model ? gguf_open(&g, s->model, e) : ERR_OK;
    if (rc == ERR_OK) rc = profile_open(p, file, g ? &(profile_binding){ .model = gguf_digest(g) } : NULL, e);
    gguf_close(&g);
    return rc;
}

static err_code info(settings *s, err *e)
{
    text path = { 0 };
    profile *p = NULL;
    err_code rc = s->args.n > 1 ? ERR_OK : beside(s, &path, e);
    if (rc == ERR_OK) rc = open_one(s, s->args.n > 1 ? s->args.at[1] : path.ptr, &p, e);
    if (rc == ERR_OK) rc = profile_print(p, s->json, stdout, e);
    if (rc == ERR_OK) rc = show_write("", 0, e);
    profile_close(&p);
    text_free(&path);
    return rc;
}

err_code cmd_profile(settings *s, err *e)
{
    const char *w = s->args.n ? s->args.at[0] : "";
    if (!strcmp(w, "take") && s->args.n == 2) return profile_take(s, s->args.at[1], e);
    if (strcmp(w, "info")) return err_set(e, ERR_USAGE, "it is: sluice profile info [FILE], or profile take ROUTERS.json, not \"%.60s\"", w);
    return s->args.n > 2 ? err_set(e, ERR_USAGE, "profile info looks into one file") : info(s, e);
}
