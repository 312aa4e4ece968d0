#include "ops/cli/command.h"
#include "ops/cli/progress.h"
#include "ops/cli/show.h"
#include "ops/cli/signals.h"
#include "workers/rag/corpus.h"

/* sluice index FOLDER -o CORPUS: makes the file that --rag takes. */

static bool draw(void *bar, const char *source, uint64_t done, uint64_t total)
{
    (void)source;
    progress_set(bar, done, total);
    return !signals_caught();
}

static err_code print_stats(const settings *s, const corpus_stats *n, err *e)
{
    if (s->json)
        return show_json(json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "schema", "sluice.index/1", "corpus", s->out, "files",
                                   (json_int_t)n->files, "documents", (json_int_t)n->documents, "chunks", (json_int_t)n->chunks,
                                   "bytes", (json_int_t)n->bytes, "binary_files", (json_int_t)n->binary_files),
                         e);
    printf("%s: %llu files, %llu documents, %llu chunks, %llu bytes of text\n", s->out, (unsigned long long)n->files,
           (unsigned long long)n->documents, (unsigned long long)n->chunks, (unsigned long long)n->bytes);
    if (n->binary_files) fprintf(stderr, "%llu files look binary and were passed over\n", (unsigned long long)n->binary_files);
    if (n->replaced) fprintf(stderr, "%llu bytes that are no UTF-8 were replaced\n", (unsigned long long)n->replaced);
    return show_write("", 0, e);
}

err_code cmd_index(settings *s, err *e)
{
    progress bar = progress_open("indexing");
    corpus_stats n = { 0 };
    if (s->args.n != 1) return err_set(e, ERR_USAGE, "one folder is wanted: sluice index FOLDER -o CORPUS");
    if (!s->out) return err_set(e, ERR_USAGE, "-o CORPUS is missing");
    err_code rc = corpus_build(s->args.at[0], s->out, NULL, draw, &bar, &n, e);
    progress_close(&bar);
    return rc == ERR_OK ? print_stats(s, &n, e) : rc;
}
