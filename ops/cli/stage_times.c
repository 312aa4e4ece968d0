#include "ops/cli/stage_times.h"

/* Owns differences of the stages' counters. It asks nobody. */

static double gone_up(const json_t *a, const json_t *b, const char *key)
{
    return (double)(json_integer_value(json_object_get(b, key)) - json_integer_value(json_object_get(a, key)));
}

static json_t *one(const json_t *a, const json_t *b, double wall_us)
{
    double busy = gone_up(a, b, "busy_us"), moved = gone_up(a, b, "transfer_us"), wait = gone_up(a, b, "wait_us"), per = 100 / wall_us;
    double rows = gone_up(a, b, "rows"), steps = gone_up(a, b, "steps");
    return json_pack("{s:O, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "stage", json_object_get(b, "stage"), "steps", (json_int_t)steps, "rows",
                     (json_int_t)rows, "rows/step", steps > 0 ? rows / steps : 0, "busy %", busy * per, "transfer %", moved * per,
                     "wait %", wait * per, "bubble %", 100 - busy * per);
}

json_t *stage_times_json(const json_t *before, const json_t *after, uint64_t wall_ns)
{
    const json_t *was = json_object_get(before, "stages"), *is = json_object_get(after, "stages");
    json_t *out = json_array(), *s;
    size_t i;
    json_array_foreach(is, i, s)
        if (out && json_array_append_new(out, one(json_array_get(was, i), s, (double)(wall_ns ? wall_ns : 1) / 1000))) {
            json_decref(out);
            return NULL;
        }
    return out;
}
