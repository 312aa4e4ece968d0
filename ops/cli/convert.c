#include "ops/cli/convert.h"
#include "engine/gguf_split.h"
#include "engine/model_quantize.h"
#include "ops/cli/progress.h"
#include "ops/cli/show.h"
#include "ops/cli/signals.h"
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

/* From words and options to one conversion with a bar. What a type or a part is, the engine knows. */

enum { MEGABYTE = 1000000, THREADS_MAX = 256 };

static bool draw(void *arg, uint64_t done, uint64_t total)
{
    progress_set(arg, done, total);
    return !signals_caught();
}

static uint32_t threads(const settings *s)
{
    cpu_set_t set;
    if (s->model_threads) return (uint32_t)s->model_threads;
    int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : (uint32_t)n;
}

static err_code print_json(const char *out, const model_quantize_report *r, err *e)
{
    return show_json(json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "schema", "sluice.quantize/1", "file", out, "bytes_in",
                               (json_int_t)r->bytes_in, "bytes_out", (json_int_t)r->bytes_out, "converted",
                               (json_int_t)r->converted, "kept", (json_int_t)r->kept, "fallbacks", (json_int_t)r->fallbacks),
                     e);
}

static err_code quantize(settings *s, const gguf *g, progress *bar, err *e)
{
    model_quantize_report r;
    const char *out = s->args.at[2];
    model_quantize_options o = {
        .type = s->args.at[3], .pure = s->pure, .requantize = s->requantize, .threads = threads(s), .progress = draw, .arg = bar
    };
    err_code rc = model_quantize(g, out, &o, &r, e);
    progress_close(bar);
    if (rc) return rc;
    if (s->json) return print_json(out, &r, e);
    fprintf(stderr, "%s: %" PRIu64 " tensors to %s, %" PRIu64 " kept, %.1f MB to %.1f MB\n", out, r.converted, o.type, r.kept,
            (double)r.bytes_in / MEGABYTE, (double)r.bytes_out / MEGABYTE);
    if (r.fallbacks)
        fprintf(stderr, "%" PRIu64 " tensors have rows that do not divide into blocks of their type and got a wider one\n",
                r.fallbacks);
    return ERR_OK;
}

static err_code split(settings *s, const gguf *g, progress *bar, err *e)
{
    uint32_t parts;
    gguf_meter m = { .fn = draw, .arg = bar };
    if (!s->max_size) return err_set(e, ERR_USAGE, "--max-size MB is missing");
    err_code rc = gguf_split(g, s->args.at[2], s->max_size * MEGABYTE, &m, &parts, e);
    progress_close(bar);
    if (!rc) printf("%s-00001-of-%05u.gguf\n", s->args.at[2], parts);
    return rc;
}

static err_code merge(settings *s, const gguf *g, progress *bar, err *e)
{
    gguf_meter m = { .fn = draw, .arg = bar };
    err_code rc = gguf_merge(g, s->args.at[2], &m, e);
    progress_close(bar);
    return rc;
}

static const struct {
    const char *word, *usage, *label;
    size_t n_args;
    err_code (*run)(settings *s, const gguf *g, progress *bar, err *e);
} words[] = {
    { "quantize", "IN OUT TYPE", "quantising", 4, quantize },
    { "split", "IN OUTPREFIX --max-size MB", "splitting", 3, split },
    { "merge", "FIRST OUT", "merging", 3, merge },
};
enum { N_WORDS = sizeof words / sizeof *words };

const char *convert_word(size_t i, const char **usage)
{
    if (i >= N_WORDS) return NULL;
    *usage = words[i].usage;
    return words[i].word;
}

err_code convert_run(const char *word, settings *s, err *e)
{
    size_t i = 0;
    while (i + 1 < N_WORDS && strcmp(words[i].word, word) != 0) i++;
    if (s->args.n != words[i].n_args) return err_set(e, ERR_USAGE, "it is: sluice model %s %s", word, words[i].usage);
    gguf *g = NULL;
    err_code rc = gguf_open(&g, s->args.at[1], e);
    progress bar = progress_open(words[i].label);
    if (!rc) rc = words[i].run(s, g, &bar, e);
    gguf_close(&g);
    return rc;
}
