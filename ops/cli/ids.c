#include "ops/cli/ids.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Reads lists of token ids. Whether a model has them is checked by whoever has the model. */

err_code ids_parse(const char *words, token_list *out, err *e)
{
    static const char between[] = ", \t\r\n";
    for (const char *w = words + strspn(words, between); *w; w += strspn(w, between)) {
        char *end = NULL;
        errno = 0;
        unsigned long long id = *w >= '0' && *w <= '9' ? strtoull(w, &end, 10) : 0;
        if (!end || (*end && !strchr(between, *end)) || errno || id >= UINT32_MAX)
            return err_set(e, ERR_INPUT, "\"%.*s\" is no token id", (int)(strcspn(w, between) < 40 ? strcspn(w, between) : 40), w);
        if (!token_list_add(out, (uint32_t)id)) return err_set(e, ERR_NOMEM, "out of memory");
        w = end;
    }
    return ERR_OK;
}

err_code job_id_of(const settings *s, uint64_t *out, err *e)
{
    char *end = NULL;
    if (s->args.n != 1) return err_set(e, ERR_USAGE, "the id of one job is wanted (sluice jobs lists them)");
    const char *w = s->args.at[0];
    *out = *w >= '0' && *w <= '9' ? strtoull(w, &end, 10) : 0;
    return end && !*end && *out ? ERR_OK : err_set(e, ERR_USAGE, "\"%.100s\" is no job id (sluice jobs lists them)", w);
}
