#include "ops/cli/calibrate_kv.h"
#include <stdlib.h>
#include <string.h>

/* Section kv: in which order the phases run, and what of their sums goes into the profile. How a thing is measured is in the file
 * of its phase. */

static const kv_phase *const phases[] = { &kv_phase_roles,  &kv_phase_needles, &kv_phase_errors,
                                          &kv_phase_alpha, &kv_phase_tails,   &kv_phase_books };
enum { PHASES = sizeof phases / sizeof *phases };

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static err_code blocks(kv_study *y, err *e)
{
    kv_sums *s = &y->sum;
    calibration *c = y->c;
    size_t heads_n = (size_t)s->L * s->K, queries = (size_t)s->L * s->H;
    bool found, ok = true;
    ok = ok && (s->echo = calibrate_block(c, "echo", KV_PERIODS * heads_n * sizeof *s->echo, &found));
    ok = ok && (s->induction = calibrate_block(c, "induction", KV_PERIODS * heads_n * sizeof *s->induction, &found));
    ok = ok && (s->mass = calibrate_block(c, "mass", queries * sizeof *s->mass, &found));
    ok = ok && (s->mass_all = calibrate_block(c, "mass_all", queries * sizeof *s->mass_all, &found));
    ok = ok && (s->runs = calibrate_block(c, "runs", 2 * sizeof *s->runs, &found));
    ok = ok && (s->error = calibrate_block(c, "error", s->L * sizeof *s->error, &found));
    ok = ok && (s->kl = calibrate_block(c, "kl", heads_n * sizeof *s->kl, &found));
    ok = ok && (s->rows = calibrate_block(c, "rows", sizeof *s->rows, &found));
    ok = ok && (s->tail = calibrate_block(c, "tail", s->L * tails_bytes(kv_tails(y)), &found));
    ok = ok && (s->book = calibrate_block(c, "book", (size_t)s->L * 2 * sizeof *s->book, &found));
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for the sums of %u layers", s->L);
}

static err_code open_study(kv_study *y, calibration *c, err *e)
{
    const model_shape *m = &c->shape;
    size_t heads_n = (size_t)m->L * m->K, wide = (size_t)m->L * m->K * m->d;
    *y = (kv_study){ .c = c, .e = e, .alpha_window = UINT32_MAX };
    y->sum = (kv_sums){ .L = m->L, .H = m->H, .K = m->K, .d = m->d };
    err_code rc = blocks(y, e);
    y->ids = calloc(c->window, sizeof *y->ids);
    y->alpha = calloc(heads_n, sizeof *y->alpha);
    y->semantic = calloc(m->L, KV_SEMANTIC);
    y->k_lo = calloc(2 * wide, sizeof *y->k_lo);
    if (rc == ERR_OK && !(y->ids && y->alpha && y->semantic && y->k_lo)) rc = err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK && c->s->roles) {
        y->given = calloc(heads_n, sizeof *y->given);
        rc = y->given ? kv_roles_read(c->s->roles, m->L, m->K, y->given, e) : err_set(e, ERR_NOMEM, "out of memory");
    }
    if (rc != ERR_OK) return rc;
    y->k_hi = y->k_lo + wide;
    for (size_t i = 0; i < heads_n; i++) y->alpha[i] = 1;
    y->tables = (kv_tables){ .first = 0, .last = m->L, .alpha = y->alpha };
    rc = calibrate_lab(c, (lab_options){ .max_rows = c->window, .tables = &y->tables }, &y->lab, e);
    return rc == ERR_OK ? heads_open(&y->heads, m, lab_isa(y->lab), c->window, e) : rc;
}

static void close_study(kv_study *y)
{
    heads_close(&y->heads);
    lab_close(&y->lab);
    free(y->ids);
    free(y->alpha);
    free(y->given);
    free(y->semantic);
    free(y->k_lo);
    free(y->truth);
    free(y->scratch);
}

err_code kv_study_window(kv_study *y, uint32_t n, forward_watch *fn, lab_rows *rows, err *e)
{
    kv_seq *q;
    err_code rc = lab_fresh(y->lab, &q, e);
    if (rc != ERR_OK) return rc;
    y->rc = ERR_OK;
    runner_watch(lab_runner(y->lab), fn, y);
    rc = lab_feed(y->lab, q, y->ids, n, rows, y, e);
    runner_watch(lab_runner(y->lab), NULL, NULL);
    return rc == ERR_OK ? y->rc : rc;
}

/* ---- phases -------------------------------------------------------------------------------------------------------- */

static err_code run_phase(kv_study *y, const kv_phase *p, uint64_t *done, uint64_t total, err *e)
{
    bool found;
    uint64_t n = p->units(y), *next = calibrate_block(y->c, p->name, sizeof *next, &found);
    if (!next) return err_set(e, ERR_NOMEM, "out of memory");
    err_code rc = p->begin ? p->begin(y, e) : ERR_OK;
    *done += *next;
    while (rc == ERR_OK && *next < n) {
        rc = p->unit(y, *next, e);
        if (rc != ERR_OK) break;
        ++*next;
        rc = calibrate_tick(y->c, ++*done, total, e);
    }
    free(y->scratch);
    y->scratch = NULL;
    return rc;
}

static err_code run_phases(kv_study *y, err *e)
{
    uint64_t done = 0, total = 0;
    for (int i = 0; i < PHASES; i++) total += phases[i]->units(y);
    err_code rc = calibrate_tick(y->c, 0, total, e);
    for (int i = 0; rc == ERR_OK && i < PHASES; i++) {
        rc = run_phase(y, phases[i], &done, total, e);
        if (rc != ERR_OK && rc != ERR_CANCELLED) err_wrap(e, "%s", phases[i]->name);
    }
    return rc;
}

/* ---- the profile --------------------------------------------------------------------------------------------------- */

static void put_heads(kv_study *y, const float *echo, const float *induction, const float *local, const float *alpha)
{
    const kv_sums *s = &y->sum;
    profile_writer *w = y->c->out;
    for (uint32_t l = 0; l < s->L; l++) {
        float semantic[KV_SEMANTIC];
        size_t at = (size_t)l * s->K;
        for (int i = 0; i < KV_SEMANTIC; i++) semantic[i] = y->semantic[l * KV_SEMANTIC + i];
        profile_put_floats(w, PROFILE_KV, l, "echo", WTYPE_F32, s->K, 1, echo + at);
        profile_put_floats(w, PROFILE_KV, l, "induction", WTYPE_F32, s->K, 1, induction + at);
        profile_put_floats(w, PROFILE_KV, l, "local", WTYPE_F32, s->K, 1, local + at);
        profile_put_floats(w, PROFILE_KV, l, "alpha", WTYPE_F32, s->K, 1, alpha + at);
        profile_put_floats(w, PROFILE_KV, l, "semantic", WTYPE_F32, KV_SEMANTIC, 1, semantic);
    }
}

static err_code put_books(kv_study *y, err *e)
{
    static const char side[2] = { 'k', 'v' };
    const kv_sums *s = &y->sum;
    profile_writer *w = y->c->out;
    for (uint32_t l = 0; l < s->L; l++) {
        size_t at = (size_t)l * s->K * s->d;
        profile_put_floats(w, PROFILE_KV, l, "k_lo", WTYPE_F32, s->d, s->K, y->k_lo + at);
        profile_put_floats(w, PROFILE_KV, l, "k_hi", WTYPE_F32, s->d, s->K, y->k_hi + at);
        for (int i = 0; i < 6; i++) {
            const codebook_sums *b = &s->book[l * 2 + (uint32_t)i % 2];
            uint32_t bits = 2 + (uint32_t)i / 2;
            float book[16], norm[2];
            char name[16];
            err_code rc = codebook_fit(b, 1u << bits, book, e);
            if (rc != ERR_OK) return rc;
            snprintf(name, sizeof name, "lut_%c%u", side[i % 2], bits);
            profile_put_floats(w, PROFILE_KV, l, name, WTYPE_F32, 1u << bits, 1, book);
            if (bits > 2) continue;    /* the paper normalises at 2 bits only */
            codebook_norm(b, book, 4, norm);
            snprintf(name, sizeof name, "qnorm_%c%u", side[i % 2], bits);
            profile_put_floats(w, PROFILE_KV, l, name, WTYPE_F32, 2, 1, norm);
        }
    }
    return ERR_OK;
}

/* To sum 1; even where nothing was measured. */
static void layer_errors(const kv_sums *s, float *out)
{
    double all = 0;
    for (uint32_t l = 0; l < s->L; l++) all += s->error[l];
    for (uint32_t l = 0; l < s->L; l++) out[l] = all > 0 ? (float)(s->error[l] / all) : 1.0f / (float)s->L;
}

/* Increase of KL over the greatest one: 1 is the head that matters most. */
static void role_scores(const kv_sums *s, float *out)
{
    double top = 0;
    for (size_t i = 0; i < (size_t)s->L * s->K; i++) top = s->kl[i] > top ? s->kl[i] : top;
    for (size_t i = 0; i < (size_t)s->L * s->K; i++) out[i] = top > 0 && s->kl[i] > 0 ? (float)(s->kl[i] / top) : 0;
}

static err_code put_all(kv_study *y, json_t *summary, err *e)
{
    const kv_sums *s = &y->sum;
    size_t n = (size_t)s->L * s->K;
    float *local = calloc(2 * n + s->L, sizeof *local), *alpha = local + n, *error = local + 2 * n;
    if (!local) return err_set(e, ERR_NOMEM, "out of memory");
    float *echo, *induction;
    uint32_t period = kv_period_choose(y, &echo, &induction), kept = kv_roles_choose(echo, induction, n, local);
    role_scores(s, alpha);
    if (y->given) memcpy(alpha, y->given, n * sizeof *alpha);
    layer_errors(s, error);
    kv_thresholds(y);
    kv_semantic_choose(s, y->semantic);
    put_heads(y, echo, induction, local, alpha);
    profile_put_floats(y->c->out, PROFILE_KV, PROFILE_WHOLE, "layer_error", WTYPE_F32, s->L, 1, error);
    profile_put_number(y->c->out, PROFILE_KV, "period", period);
    profile_put_number(y->c->out, PROFILE_KV, "retrieval_heads", kept);
    profile_put_number(y->c->out, PROFILE_KV, "needles", s->runs[1]);
    profile_put_number(y->c->out, PROFILE_KV, "needles_found", s->runs[0]);
    profile_put_text(y->c->out, PROFILE_KV, "alpha_is", y->given ? "given in a file" : "KL when the head alone is local, over the largest; a stand-in, not RLKV");
    err_code rc = put_books(y, e);
    json_object_set_new(summary, "retrieval_heads", json_integer(kept));
    json_object_set_new(summary, "period", json_integer(period));
    json_object_set_new(summary, "heads", json_integer((json_int_t)n));
    json_object_set_new(summary, "needles", json_integer((json_int_t)s->runs[1]));
    json_object_set_new(summary, "needles_found", json_integer((json_int_t)s->runs[0]));
    free(local);
    return rc;
}

err_code calibrate_kv(calibration *c, json_t *summary, err *e)
{
    kv_study y;
    err_code rc = open_study(&y, c, e);
    if (rc == ERR_OK) rc = run_phases(&y, e);
    if (rc == ERR_OK) rc = put_all(&y, summary, e);
    close_study(&y);
    return rc;
}
