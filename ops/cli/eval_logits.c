#include "ops/cli/command.h"
#include "ops/cli/evaluation.h"
#include "ops/cli/flight.h"
#include "ops/cli/ids.h"
#include "ops/cli/progress.h"
#include "ops/cli/show.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* sluice eval logits: whole rows of logits for given token ids, as little-endian f32 [n][vocab]. The rows go straight from
 * the messages to the file; a file of that name is replaced only when all of them are there. */

typedef struct {
    const settings *s;
    token_list ids;
    bool sent;
    FILE *out;
    char *temp;              /* written first, NULL when the target is no plain file */
    uint64_t rows, vocab;
    err job;
    progress bar;
} logits;

static err_code next(void *me, request *out, bool *more, err *e)
{
    logits *l = me;
    *more = !l->sent;
    if (l->sent) return ERR_OK;
    l->sent = true;
    err_code rc = request_init(out, l->s, e);
    msg_submit *m = &out->m.submit;
    m->kind = 1;
    m->score_rows = 1;
    m->role = l->s->role && !strcmp(l->s->role, "decode");
    m->chunk = settings_was_given(l->s, "chunk") ? l->s->chunk : 0;
    return rc == ERR_OK ? request_set_tokens(out, l->ids.id, l->ids.n, e) : rc;
}

static err_code event(void *me, size_t index, const answer *a, const packet *p, err *e)
{
    logits *l = me;
    (void)index;
    if (p->head.type != MSG_SCORED) return ERR_OK;
    const view *full = &p->frame[SCORED_FULL];
    if (p->head.scored.n_full != p->head.scored.n) return err_set(e, ERR_PROTO, "rows came without their logits");
    if (full->len && fwrite(full->ptr, 1, full->len, l->out) != full->len)
        return err_set(e, ERR_IO, "%s: %s", l->s->out, strerror(errno));
    l->rows = a->n_full;
    l->vocab = a->vocab;
    progress_set(&l->bar, l->rows, l->ids.n);
    return ERR_OK;
}

static err_code done(void *me, size_t index, answer *a, err *e)
{
    logits *l = me;
    (void)index;
    (void)e;
    l->job = a->fail;
    return ERR_OK;
}

static err_code open_out(logits *l, err *e)
{
    struct stat st;
    const char *path = l->s->out;
    bool plain = stat(path, &st) ? errno == ENOENT : S_ISREG(st.st_mode);
    if (plain && asprintf(&l->temp, "%s.part-%d", path, (int)getpid()) < 0)
        return l->temp = NULL, err_set(e, ERR_NOMEM, "out of memory");
    l->out = fopen(plain ? l->temp : path, "we");
    return l->out ? ERR_OK : err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
}

static err_code close_out(logits *l, err_code rc, err *e)
{
    if (l->out && fclose(l->out) && rc == ERR_OK) rc = err_set(e, ERR_IO, "%s: %s", l->s->out, strerror(errno));
    if (l->temp && rc == ERR_OK && rename(l->temp, l->s->out)) rc = err_set(e, ERR_IO, "%s: %s", l->s->out, strerror(errno));
    if (l->temp && rc != ERR_OK && l->out) unlink(l->temp);
    free(l->temp);
    return rc;
}

static err_code print(evaluation *v, const logits *l, err *e)
{
    const char *role = l->s->role ? l->s->role : "prompt";
    if (l->s->json)
        return show_json(json_pack("{s:s, s:s, s:s, s:I, s:I, s:o}", "schema", "sluice.eval/1", "eval", "logits", "path", role,
                                   "rows", (json_int_t)l->rows, "vocab", (json_int_t)l->vocab, "stages", evaluation_stages(v)),
                         e);
    printf("%s: %llu rows of %llu logits (%s path)\n", l->s->out, (unsigned long long)l->rows, (unsigned long long)l->vocab, role);
    return show_write("", 0, e);
}

static err_code score(evaluation *v, logits *l, err *e)
{
    static const flight_ops ops = { next, event, done };
    err_code rc = flight_run(v->c, 1, &ops, l, e);
    if (rc == ERR_OK && l->job.code != ERR_OK) {
        *e = l->job;
        return e->code;
    }
    if (rc == ERR_OK && l->rows != l->ids.n)
        rc = err_set(e, ERR_PROTO, "%llu rows came for %zu tokens", (unsigned long long)l->rows, l->ids.n);
    return rc;
}

err_code eval_logits(settings *s, err *e)
{
    logits l = { .s = s, .bar = progress_open("logits") };
    evaluation v = { 0 };
    err_code rc = ERR_OK;
    if (!s->tokens) rc = err_set(e, ERR_USAGE, "-t ID,ID,... is missing");
    else if (!s->out) rc = err_set(e, ERR_USAGE, "-o OUT.f32 is missing");
    if (rc == ERR_OK) rc = ids_parse(s->tokens, &l.ids, e);
    if (rc == ERR_OK && !l.ids.n) rc = err_set(e, ERR_INPUT, "-t names no token");
    if (rc == ERR_OK) rc = open_out(&l, e);
    if (rc == ERR_OK) rc = evaluation_open(&v, s, e);
    if (rc == ERR_OK) rc = score(&v, &l, e);
    progress_close(&l.bar);
    rc = close_out(&l, rc, e);
    if (rc == ERR_OK) rc = print(&v, &l, e);
    token_list_free(&l.ids);
    return evaluation_close(&v, rc, e);
}
