#include "core/rng.h"
#include "ops/cli/calibrate_kv.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Which kv heads look things up in what was long ago: by what they look at in repeated random ids (RazorAttention,
 * arXiv:2407.15891), and by what is lost when a head sees its neighbourhood only. */

/* ---- repeated random ids ------------------------------------------------------------------------------------------- */

/* Small models copy over short distances only: the period is halved, and the one with the clearest head counts. */
enum { COPIES = 4, PERIOD_MOST = 2500, PERIOD_LEAST = 16 };

static uint32_t period_of(const kv_study *y, uint64_t i)
{
    uint32_t p = (y->c->window - 1) / COPIES;
    return (p < PERIOD_MOST ? p : PERIOD_MOST) >> i;
}

static uint64_t periods(const kv_study *y)
{
    uint64_t n = 1;
    while (n < KV_PERIODS && period_of(y, n) >= PERIOD_LEAST) n++;
    return n;
}

static bool is_plain(const kv_study *y, uint32_t id)
{
    return id != y->c->bos && !tokenizer_is_control(y->c->tok, id) && !tokenizer_is_eog(y->c->tok, id);
}

err_code kv_random_ids(kv_study *y, uint32_t n_ids, uint32_t period, uint64_t seed, err *e)
{
    uint32_t V = y->c->shape.V, n = 0, *deck = calloc(V, sizeof *deck);
    if (!deck) return err_set(e, ERR_NOMEM, "out of memory");
    for (uint32_t id = 0; id < V && id < tokenizer_vocab(y->c->tok); id++)
        if (is_plain(y, id)) deck[n++] = id;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = i + (uint32_t)(rng_u64(seed, i) % (n - i)), id = deck[i];
        deck[i] = deck[j];
        deck[j] = id;
    }
    y->ids[0] = y->c->bos != TOKEN_NONE ? y->c->bos : n ? deck[0] : 0;
    for (uint32_t i = 0; n && i < n_ids; i++) y->ids[1 + i] = deck[i % period % n];
    free(deck);
    return n ? ERR_OK : err_set(e, ERR_MODEL, "the vocabulary has no plain token");
}

static void see_copies(void *arg, forward_place at, const forward_view *v)
{
    kv_study *y = arg;
    kv_sums *s = &y->sum;
    size_t to = ((size_t)y->unit * s->L + v->layer) * s->K;
    if (at != FORWARD_QKV) return;
    heads_load(y->heads, v->layer, v->T, v->q, v->k, v->v);
    heads_copy_scores(y->heads, period_of(y, y->unit), s->echo + to, s->induction + to);
}

static err_code roles_unit(kv_study *y, uint64_t i, err *e)
{
    uint32_t period = period_of(y, i);
    y->unit = (uint32_t)i;
    err_code rc = period ? kv_random_ids(y, COPIES * period, period, KV_SEED, e) : err_set(e, ERR_INPUT, "a window of %u tokens holds no copies", y->c->window);
    return rc == ERR_OK ? kv_study_window(y, 1 + COPIES * period, see_copies, NULL, e) : rc;
}

/* By how much the best head looks behind its own token more than one that looks everywhere alike, which gives it 1 in `period`. */
static float clearest(const kv_study *y, uint64_t i)
{
    size_t n = (size_t)y->sum.L * y->sum.K;
    float best = 0;
    for (size_t h = 0; h < n; h++) best = y->sum.induction[i * n + h] > best ? y->sum.induction[i * n + h] : best;
    return best - 1 / (float)period_of(y, i);
}

uint32_t kv_period_choose(const kv_study *y, float **echo, float **induction)
{
    uint64_t best = 0, n = (uint64_t)y->sum.L * y->sum.K;
    for (uint64_t i = 1; i < periods(y); i++)
        if (clearest(y, i) > clearest(y, best)) best = i;
    *echo = y->sum.echo + best * n;
    *induction = y->sum.induction + best * n;
    return period_of(y, best);
}

/* The n best of `score` are none of `local` any more. */
static void take_best(const float *score, size_t all, uint32_t n, float *local)
{
    for (uint32_t i = 0; i < n; i++) {
        size_t best = all;
        for (size_t j = 0; j < all; j++) {
            size_t better = 0;         /* rank of j: how many come before it */
            for (size_t k = 0; k < all && better <= i; k++) better += score[k] > score[j] || (score[k] == score[j] && k < j);
            if (better == i) best = j;
        }
        if (best < all) local[best] = 0;
    }
}

uint32_t kv_roles_choose(const float *echo_of, const float *induction_of, size_t all, float *local)
{
    uint32_t echo = (uint32_t)(0.01 * (double)all + 0.5), induction = (uint32_t)(0.14 * (double)all + 0.5), kept = 0;
    for (size_t i = 0; i < all; i++) local[i] = 1;
    take_best(echo_of, all, echo ? echo : 1, local);
    take_best(induction_of, all, induction ? induction : 1, local);
    for (size_t i = 0; i < all; i++) kept += local[i] == 0;
    return kept;
}

const kv_phase kv_phase_roles = { "roles", periods, NULL, roles_unit };

/* ---- one head at a time made local --------------------------------------------------------------------------------- */

/* Training-free stand-in for RLKV's gates (arXiv:2510.08525): how far the text behind a prompt becomes another when this head alone
 * sees 16 first and 64 last rows of the prompt, the paper's local attention. */
enum { ALPHA_WINDOWS = 4, ALPHA_ROWS = 64, WATCHED = 2, FORK = 3 };
static const char local_policy[] = "[policy]\nname=local\n[keep]\nscore=position\nroles=alpha\nsinks=16\nwindow=64\nalpha=0.5\n";

typedef struct { kv_study *y; uint32_t head; double kl; } comparing;

static uint32_t alpha_prompt(const kv_study *y) { return y->c->window - (y->c->window / 4 < ALPHA_ROWS ? y->c->window / 4 : ALPHA_ROWS); }

static uint64_t alpha_units(const kv_study *y)
{
    size_t n = y->given ? 0 : calibrate_windows(y->c);
    return (n < ALPHA_WINDOWS ? n : ALPHA_WINDOWS) * (uint64_t)y->sum.L * y->sum.K;
}

/* KL(truth || row) of one row of logits. */
static double row_kl(const float *truth, const float *row, uint32_t V, float lse)
{
    const vec_ops *v = vec_for(ISA_PLAIN);
    double t = (double)row_stats_of(v, truth, V).lse, kl = 0;
    for (uint32_t i = 0; i < V; i++) {
        double p = (double)vec_exp((float)((double)truth[i] - t));
        kl += p * (((double)truth[i] - t) - ((double)row[i] - (double)lse));
    }
    return kl > 0 ? kl : 0;
}

static err_code compare_rows(void *arg, uint32_t first, uint32_t n, const float *h, err *e)
{
    comparing *m = arg;
    kv_study *y = m->y;
    const model_shape *s = &y->c->shape;
    (void)e;
    for (uint32_t i = 0, k; i < n; i += k) {
        row_stats stats[RUNNER_HEAD_ROWS];
        k = n - i < RUNNER_HEAD_ROWS ? n - i : RUNNER_HEAD_ROWS;
        const float *x = lab_logits(y->lab, h + (size_t)i * s->D, k, stats);
        float *truth = y->truth + (size_t)(first + i - alpha_prompt(y)) * s->V;
        if (m->head == UINT32_MAX) memcpy(truth, x, (size_t)k * s->V * sizeof *x);
        else
            for (uint32_t r = 0; r < k; r++) m->kl += row_kl(truth + (size_t)r * s->V, x + (size_t)r * s->V, s->V, stats[r].lse);
    }
    return ERR_OK;
}

/* The text behind the prompt, with one head local (UINT32_MAX: none; then it is the truth). */
static err_code continue_with(kv_study *y, uint32_t head, double *kl, err *e)
{
    kv_policy p;
    kv *store = lab_store(y->lab);
    comparing m = { y, head, 0 };
    uint32_t n = alpha_prompt(y);
    err_code rc = kv_policy_parse(&p, local_policy, strlen(local_policy), "local heads", e);
    if (rc != ERR_OK) return rc;
    if (head != UINT32_MAX) y->alpha[head] = 0;
    rc = kv_fork_policy(kv_seq_find(store, WATCHED), FORK, &p, e);
    if (rc == ERR_OK) rc = lab_feed(y->lab, kv_seq_find(store, FORK), y->ids + n, y->c->window - n, compare_rows, &m, e);
    kv_seq_close(store, FORK);
    if (head != UINT32_MAX) y->alpha[head] = 1;
    *kl = m.kl / (y->c->window - n);
    return rc;
}

static err_code alpha_prefill(kv_study *y, uint32_t window, err *e)
{
    kv_seq *q;
    double none;
    uint32_t n = alpha_prompt(y);
    if (y->alpha_window == window) return ERR_OK;
    if (!y->truth) y->truth = calloc((size_t)(y->c->window - n) * y->c->shape.V, sizeof *y->truth);
    if (!y->truth) return err_set(e, ERR_NOMEM, "out of memory for %u rows of logits", y->c->window - n);
    kv_seq_close(lab_store(y->lab), WATCHED);
    calibrate_fill(y->c, window, y->ids);
    err_code rc = kv_seq_open_watch(lab_store(y->lab), WATCHED, 0, 0, n, &q, e);
    if (rc == ERR_OK) rc = lab_feed(y->lab, q, y->ids, n, NULL, NULL, e);
    if (rc == ERR_OK) rc = continue_with(y, UINT32_MAX, &none, e);
    y->alpha_window = rc == ERR_OK ? window : UINT32_MAX;
    return rc;
}

static err_code alpha_unit(kv_study *y, uint64_t i, err *e)
{
    uint64_t n = (uint64_t)y->sum.L * y->sum.K;
    double kl = 0;
    err_code rc = alpha_prefill(y, (uint32_t)(i / n), e);
    if (rc == ERR_OK) rc = continue_with(y, (uint32_t)(i % n), &kl, e);
    y->sum.kl[i % n] += kl;
    return rc;
}

const kv_phase kv_phase_alpha = { "alpha", alpha_units, NULL, alpha_unit };

/* ---- or from a file: the gates that RLKV trained, for one --------------------------------------------------------- */

static err_code read_line(const char *line, const char *file, uint32_t l, uint32_t K, float *out, err *e)
{
    const char *at = line;
    for (uint32_t k = 0; k < K; k++) {
        char *end;
        out[k] = strtof(at, &end);
        if (end == at || !(out[k] >= 0 && out[k] <= 1))
            return err_set(e, ERR_INPUT, "%s: line %u: \"%.30s\" is no number from 0 to 1 (a line has %u, one a kv head)", file, l + 1, at, K);
        at = end;
    }
    return at[strspn(at, " \t\r")] ? err_set(e, ERR_INPUT, "%s: line %u has more than %u numbers", file, l + 1, K) : ERR_OK;
}

err_code kv_roles_read(const char *file, uint32_t L, uint32_t K, float *out, err *e)
{
    text t = { 0 };
    err_code rc = text_read_file(&t, file, 1 << 24, e);
    char *rest = t.ptr, *line = NULL;
    uint32_t l = 0;
    while (rc == ERR_OK && (line = strsep(&rest, "\n"))) {
        if (!line[strspn(line, " \t\r")]) continue;
        rc = l < L ? read_line(line, file, l, K, out + (size_t)l * K, e) : err_set(e, ERR_INPUT, "%s: more lines than the model has layers (%u)", file, L);
        l++;
    }
    if (rc == ERR_OK && l < L) rc = err_set(e, ERR_INPUT, "%s: %u lines, and the model has %u layers", file, l, L);
    text_free(&t);
    return rc;
}
