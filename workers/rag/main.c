/* sluice-rag: the retrieval worker as a process of its own. */
#include "core/log.h"
#include "core/settings.h"
#include "core/signals.h"
#include "workers/rag/rag.h"

int main(int argc, char **argv)
{
    settings s;
    err e = { 0 };
    atomic_bool *stop = signals_catch();
    settings_init(&s, CMD_RAG);
    err_code rc = settings_argv(&s, argc, argv, &e);
    if (!rc && s.help) {
        puts("sluice-rag: answers queries from a corpus (started by the coordinator)\n");
        settings_help(CMD_RAG, stdout);
        puts("\nexample: sluice up -m model.gguf --rag corpus.db  # starts it");
        settings_free(&s);
        return 0;
    }
    if (!rc && s.die_with_parent) signals_die_with_parent();
    if (!rc) rc = signals_log_level(s.log_level, &e);
    if (!rc && !s.connect) rc = err_set(&e, ERR_USAGE, "--connect ENDPOINT is missing");
    if (!rc && !s.rag) rc = err_set(&e, ERR_USAGE, "--rag CORPUS is missing");
    log_role(s.name ? s.name : "rag", false);
    const sandbox_want box = { .no_files = true, .no_filter = s.no_sandbox }; /* it reads through the corpus's descriptor */
    hub *h = NULL;
    if (!rc) rc = hub_open(&h, &e);
    if (!rc) rc = rag_run(&(rag_options){ .hub = h, .connect = s.connect, .corpus = s.rag, .name = s.name ? s.name : "rag", .min_share = s.rag_min_share, .cookie = s.cookie, .sandbox = &box, .stop = stop }, &e);
    if (h) hub_close(&h);
    if (rc) fprintf(stderr, "sluice-rag: %s\n", e.text);
    settings_free(&s);
    return err_exit_status(rc);
}
