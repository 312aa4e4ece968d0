#include "ops/cli/describe.h"
#include "proto/finish.h"
#include <stdlib.h>
#include <string.h>

/* Owns how reports look on a terminal. Asks nobody anything. */

const char *describe_bytes(uint64_t n, char buf[static 16])
{
    static const char *const unit[] = { "B", "KB", "MB", "GB", "TB" };
    double x = (double)n;
    size_t u = 0;
    for (; x >= 999.5 && u < 4; u++) x /= 1000;
    snprintf(buf, 16, u && x < 99.95 ? "%.1f %s" : "%.0f %s", x, unit[u]);
    return buf;
}

static uint64_t number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    double x = json_is_number(v) ? json_number_value(v) : 0;
    return x > 0 ? (uint64_t)x : 0;
}

static const char *word(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s && *s ? s : "-";
}

static bool yes(const json_t *o, const char *key) { return json_is_true(json_object_get(o, key)); }

/* The last token of a choice is sampled and never run, so it has no row; choices share the rows of the prompt. */
static uint64_t rows_of(const answer *a)
{
    uint64_t rows = a->n_choices ? a->choice[0].done.prompt_tokens : 0;
    for (uint32_t i = 0; i < a->n_choices; i++) rows += a->choice[i].n_tokens ? a->choice[i].n_tokens - 1 : 0;
    return rows;
}

uint64_t describe_kv_bytes(const json_t *status, const answer *a)
{
    uint64_t row = 0, context = number(json_object_get(status, "model"), "context"), rows = rows_of(a);
    size_t i;
    json_t *s;
    json_array_foreach(json_object_get(status, "stages"), i, s) row += number(s, "kv_row_bytes");
    if (context && a->n_choices == 1 && rows > context) rows = context; /* the context slid */
    return row * rows;
}

/* "cores" is a list such as "0-3", or a number of cores. */
static void print_cores(FILE *out, const json_t *s)
{
    const json_t *c = json_object_get(s, "cores"), *set = json_object_get(s, "cpuset");
    if (json_is_string(set)) c = set;
    if (json_is_integer(c)) fprintf(out, "%lld cores", (long long)json_integer_value(c));
    else fprintf(out, "cores %s", json_is_string(c) ? json_string_value(c) : "-");
}

/* Packed rows by format, those that there are. */
static void print_formats(FILE *out, const json_t *packed)
{
    const char *name;
    char bytes[16];
    uint32_t n = 0;
    json_t *v;
    json_object_foreach((json_t *)packed, name, v)
        if (json_integer_value(v))
            fprintf(out, "%s%s %s", n++ ? "  " : "         KV packed: ", name, describe_bytes((uint64_t)json_integer_value(v), bytes));
    if (n) fputs("\n", out);
}

/* A line of its own when there is more than exact rows. */
static void print_kv(FILE *out, const json_t *kv)
{
    char exact[16], packed[16], scores[16], shared[16];
    uint64_t more = number(kv, "packed_bytes") + number(kv, "shared_bytes") + number(kv, "evicted_rows") + number(kv, "prefix_rows");
    if (!more) return;
    fprintf(out, "         KV: exact %s (%s shared)  packed %s  scores %s  %llu rows evicted  %llu prompt rows reused\n",
            describe_bytes(number(kv, "exact_bytes"), exact), describe_bytes(number(kv, "shared_bytes"), shared),
            describe_bytes(number(kv, "packed_bytes"), packed), describe_bytes(number(kv, "score_bytes"), scores),
            (unsigned long long)number(kv, "evicted_rows"), (unsigned long long)number(kv, "prefix_rows"));
    print_formats(out, json_object_get(kv, "packed"));
}

static void print_stage(FILE *out, const json_t *s, size_t i)
{
    char weights[16], kv[16];
    uint64_t first = number(s, "first"), last = number(s, "last");
    fprintf(out, "stage %zu  ", i);
    if (last > first) fprintf(out, "layers %llu-%llu", (unsigned long long)first, (unsigned long long)last - 1);
    else fputs("no layers", out);
    fprintf(out, "%s%s  ", yes(s, "embed") ? " +embed" : "", yes(s, "head") ? " +head" : "");
    print_cores(out, s);
    fprintf(out, "  pid %llu  %s  weights %s  KV %s", (unsigned long long)number(s, "pid"), word(s, "isa"),
            describe_bytes(number(s, "weight_bytes"), weights), describe_bytes(number(s, "kv_bytes"), kv));
    if (strcmp(word(s, "host"), "-")) fprintf(out, "  on %s", word(s, "host"));
    fputc('\n', out);
    print_kv(out, json_object_get(s, "kv"));
}

void describe_stages(FILE *out, const json_t *status)
{
    size_t i;
    json_t *s;
    json_array_foreach(json_object_get(status, "stages"), i, s) print_stage(out, s, i);
}

void describe_status(FILE *out, const json_t *status)
{
    const json_t *m = json_object_get(status, "model"), *j = json_object_get(status, "jobs"), *r = json_object_get(status, "rag");
    fprintf(out, "%s, epoch %llu\n", yes(status, "ready") ? "ready" : "not ready", (unsigned long long)number(status, "epoch"));
    fprintf(out, "model    %s (%s), %llu layers, vocabulary %llu, context %llu\n", word(m, "name"), word(m, "file"),
            (unsigned long long)number(m, "layers"), (unsigned long long)number(m, "vocab"),
            (unsigned long long)number(m, "context"));
    describe_stages(out, status);
    if (json_is_object(r)) {
        char *words = json_dumps(r, JSON_COMPACT);
        fprintf(out, "rag      %s\n", words ? words : "-");
        free(words);
    }
    fprintf(out, "jobs     %llu queued, %llu running, %llu done\n", (unsigned long long)number(j, "queued"),
            (unsigned long long)number(j, "running"), (unsigned long long)number(j, "done"));
}

void describe_jobs(FILE *out, const json_t *jobs)
{
    size_t i;
    json_t *j;
    fprintf(out, "%-8s %-10s %8s %8s  %-12s %s\n", "id", "state", "prompt", "tokens", "finish", "custom id");
    json_array_foreach(json_object_get(jobs, "jobs"), i, j)
        fprintf(out, "%-8llu %-10s %8llu %8llu  %-12s %s\n", (unsigned long long)number(j, "id"), word(j, "state"),
                (unsigned long long)number(j, "prompt_tokens"), (unsigned long long)number(j, "tokens"), word(j, "finish_reason"),
                word(j, "custom_id"));
}

static double rate(uint64_t n, uint64_t us) { return us ? (double)n * 1e6 / (double)us : 0; }

static void print_passage(FILE *out, const json_t *p, size_t i)
{
    fprintf(out, "passage %zu  %s", i + 1, word(p, "source"));
    if (json_object_get(p, "begin"))
        fprintf(out, " %llu-%llu", (unsigned long long)number(p, "begin"), (unsigned long long)number(p, "end"));
    if (strcmp(word(p, "title"), "-")) fprintf(out, "  \"%s\"", word(p, "title"));
    if (json_is_number(json_object_get(p, "score"))) fprintf(out, "  score %.2f", json_number_value(json_object_get(p, "score")));
    fputc('\n', out);
}

const char *describe_way(uint64_t mode)
{
    static const char *const names[] = { "pipeline", "local", "predict", "hybrid" };
    return mode < sizeof names / sizeof *names ? names[mode] : "unknown";
}

void describe_answer(FILE *out, const answer *a, uint64_t kv_bytes)
{
    char kv[16], cached[64] = "";
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < a->n_choices; i++) tokens += a->choice[i].n_tokens;
    if (!a->n_choices) return;
    const msg_done *d = &a->choice[0].done;
    if (d->cached) snprintf(cached, sizeof cached, " (%llu from the prompt cache)", (unsigned long long)d->cached);
    fprintf(out, "%llu prompt tokens%s, %llu new (%s)  first token %.1f ms  prefill %.1f tok/s (%s)  decode %.1f tok/s  KV %s\n",
            (unsigned long long)d->prompt_tokens, cached, (unsigned long long)tokens, finish_name(d->finish), (double)d->ttft_us / 1e3,
            rate(d->prompt_tokens, d->prefill_us), describe_way(d->prefill_mode),
            rate(d->tokens ? d->tokens - 1 : 0, d->decode_us), describe_bytes(kv_bytes, kv));
    size_t i;
    json_t *p;
    json_array_foreach(a->passages, i, p) print_passage(out, p, i);
}
