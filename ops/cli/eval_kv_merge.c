#include "ops/cli/eval_kv.h"
#include <string.h>

/* Several runs of sluice eval kv as one: long measurements in pieces. Owns what may be put together; refuses to measure. */

/* Of the whole; the rest must be equal. */
static const char *const same[] = { "schema", "eval", "digest", "prompt" };

static err_code read_run(const char *file, json_t **out, err *e)
{
    json_error_t je;
    *out = json_load_file(file, 0, &je);
    if (!*out) return err_set(e, ERR_INPUT, "%s: %s", file, je.text);
    if (json_is_array(json_object_get(*out, "rows")) && json_is_array(json_object_get(*out, "seeds")) && json_is_string(json_object_get(*out, "model")))
        return ERR_OK;
    return err_set(e, ERR_INPUT, "%s: not what sluice eval kv -o writes", file);
}

/* The same seed in two runs: outcomes are a function of it, so the shorter run is the beginning of the longer. */
static err_code join_seed(json_t *to, const char *seed, json_t *more, const char *file, err *e)
{
    const char *key;
    json_t *b, *has = json_object_get(to, seed);
    bool longer = false;
    json_object_foreach(more, key, b)
    {
        const json_t *a = json_object_get(has, key);
        size_t n = json_string_length(a), m = json_string_length(b), both = n < m ? n : m;
        if (!json_is_string(b) || (has && (!json_is_string(a) || memcmp(json_string_value(a), json_string_value(b), both))))
            return err_set(e, ERR_INPUT, "%s: other outcomes of the same needles (seed %s)", file, seed);
        longer = m > n;
    }
    if ((!has || longer) && json_object_set(to, seed, more)) return err_set(e, ERR_NOMEM, "out of memory");
    return ERR_OK;
}

static err_code join_row(json_t *to, json_t *row, const char *file, err *e)
{
    const char *key;
    json_t *x, *items = json_object_get(to, "items");
    err_code rc = ERR_OK;
    if (!json_equal(json_object_get(to, "ini"), json_object_get(row, "ini")))
        return err_set(e, ERR_INPUT, "%s: another policy of the name %s", file, json_string_value(json_object_get(to, "policy")));
    json_object_foreach(json_object_get(row, "items"), key, x)
        if (rc == ERR_OK && items) rc = join_seed(items, key, x, file, e);
    json_object_foreach(row, key, x)
        if (rc == ERR_OK && !json_object_get(to, key) && json_object_set(to, key, x)) rc = err_set(e, ERR_NOMEM, "out of memory");
    return rc;
}

static json_t *row_named(const json_t *rows, const char *name)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        const char *is = json_string_value(json_object_get(row, "policy"));
        if (is && !strcmp(is, name)) return row;
    }
    return NULL;
}

static err_code join_rows(json_t *to, const json_t *more, const char *file, err *e)
{
    size_t i;
    json_t *row;
    err_code rc = ERR_OK;
    json_array_foreach(more, i, row)
    {
        const char *name = json_string_value(json_object_get(row, "policy"));
        if (!name) return err_set(e, ERR_INPUT, "%s: a row without a policy", file);
        json_t *has = row_named(to, name);
        if (rc == ERR_OK) rc = has ? join_row(has, row, file, e) : json_array_append(to, row) ? err_set(e, ERR_NOMEM, "out of memory") : ERR_OK;
    }
    return rc;
}

/* Counts of the whole are those of the run that has most. */
static err_code join_about(json_t *to, const json_t *run, const char *file, err *e)
{
    static const char *const counts[] = { "windows", "scored", "copied" };
    json_t *seeds = json_object_get(to, "seeds"), *seed, *has;
    size_t i, k;
    for (i = 0; i < sizeof same / sizeof *same; i++)
        if (!json_equal(json_object_get(to, same[i]), json_object_get(run, same[i])))
            return err_set(e, ERR_INPUT, "%s: another %s than in the files before it", file, same[i]);
    for (i = 0; i < sizeof counts / sizeof *counts; i++)
        if (json_integer_value(json_object_get(run, counts[i])) > json_integer_value(json_object_get(to, counts[i])))
            json_object_set(to, counts[i], json_object_get(run, counts[i]));
    json_array_foreach(json_object_get(run, "seeds"), i, seed)
    {
        bool known = false;
        json_array_foreach(seeds, k, has) known = known || json_equal(has, seed);
        if (!known && json_array_append(seeds, seed)) return err_set(e, ERR_NOMEM, "out of memory");
    }
    return ERR_OK;
}

static err_code count_again(json_t *all, err *e)
{
    size_t i;
    json_t *row;
    json_int_t most = 0;
    uint64_t seed = (uint64_t)json_integer_value(json_array_get(json_object_get(all, "seeds"), 0));
    err_code rc = ERR_OK;
    json_array_foreach(json_object_get(all, "rows"), i, row)
    {
        if (rc == ERR_OK) rc = eval_kv_needle_figures(row, seed, e);
        json_int_t n = json_integer_value(json_object_get(row, "needles"));
        most = n > most ? n : most;
    }
    json_object_set_new(all, "needles", json_integer(most));
    return rc;
}

err_code eval_kv_merge(const settings *s, json_t **out, err *e)
{
    json_t *all = NULL, *run = NULL;
    err_code rc = ERR_OK;
    for (size_t i = 0; rc == ERR_OK && i < s->merge.n; i++) {
        rc = read_run(s->merge.at[i], all ? &run : &all, e);
        if (rc == ERR_OK && run) rc = join_about(all, run, s->merge.at[i], e);
        if (rc == ERR_OK && run) rc = join_rows(json_object_get(all, "rows"), json_object_get(run, "rows"), s->merge.at[i], e);
        json_decref(run);
        run = NULL;
    }
    if (rc == ERR_OK) rc = count_again(all, e);
    if (rc == ERR_OK) *out = all;
    else json_decref(all);
    return rc;
}
