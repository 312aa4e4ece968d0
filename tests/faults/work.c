#include "tests/faults/work.h"
#include "core/rng.h"
#include "proto/finish.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- jobs ---------------------------------------------------------------------------------------------------------- */

static const char *const words[] = { "the", "old", "house", "river", "a", "cat", "went", "home", "and", "saw", "red", "little", "bird", "who", "sang",
                                     "near", "stone", "garden", "with", "seven", "lamps", "under", "night", "she", "said", "that", "he", "had", "bread", "wind" };
static const char *const questions[] = { "In which year was Nejovi born?", "What is the pass code of Fipulo?", "Which instrument does Varlick play?",
                                         "Who is the best friend of Nejovi?", "Where is the home of Korjar?" };

typedef struct { uint64_t seed, at; } dice;
static uint64_t roll(dice *d, uint64_t below) { return rng_u64(d->seed, d->at++) % below; }

static void make_prompt(work_spec *s, dice *d)
{
    uint64_t n = 1 + roll(d, roll(d, 8) ? 30 : 400);
    size_t at = 0;
    for (uint64_t i = 0; i < n && at < sizeof s->prompt - 16; i++)
        at += (size_t)snprintf(s->prompt + at, sizeof s->prompt - at, "%s%s", i ? " " : "", words[roll(d, sizeof words / sizeof *words)]);
}

void work_make(work_spec *s, uint64_t seed, uint32_t number, bool rag)
{
    dice d = { seed + 0x9E37, (uint64_t)number << 16 };
    *s = (work_spec){ .submit = msg_init(MSG_SUBMIT) };
    msg_submit *m = &s->submit.submit;
    make_prompt(s, &d);
    m->max_tokens = 1 + roll(&d, roll(&d, 4) ? 40 : 160);
    m->temperature = roll(&d, 3) ? 0.9 : 0;
    m->top_k = roll(&d, 2) ? 0 : 40;
    m->top_p = roll(&d, 4) ? 1 : 0.9;
    m->seed = number;
    m->n = roll(&d, 5) ? 1 : 2 + roll(&d, WORK_CHOICES - 1);
    m->logprobs = roll(&d, 2) ? 0 : 2;
    m->ignore_eog = roll(&d, 4) > 0;
    m->prefill = roll(&d, 8) ? 0 : 2;
    m->stream = true;
    m->detach = roll(&d, 2);
    if (rag && !roll(&d, 12)) {
        m->rag = true;
        snprintf(s->prompt, sizeof s->prompt, "%s", questions[roll(&d, sizeof questions / sizeof *questions)]);
    }
    if (!roll(&d, 16)) s->cancel_after = 1 + (uint32_t)roll(&d, m->max_tokens);
}

void work_frames(const work_spec *s, view frames[MSG_FRAMES_MAX])
{
    memset(frames, 0, MSG_FRAMES_MAX * sizeof *frames);
    frames[SUBMIT_PROMPT] = (view){ s->prompt, strlen(s->prompt) };
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

static void *grown(void *p, size_t n, size_t size, view v)
{
    char *q = realloc(p, n * size + v.len + 1);
    if (!q) abort();
    if (v.len) memcpy(q + n * size, v.ptr, v.len);
    return q;
}

static bool take_tokens(work_answer *a, const msg_token *m, const view *f)
{
    if (m->index >= WORK_CHOICES) return false;
    work_choice *c = &a->choice[m->index];
    if (!m->n && !f[TOKEN_TEXT].len) return true; /* are you there? */
    if (m->offset != c->n_tok) return false;
    c->tok = grown(c->tok, c->n_tok, sizeof *c->tok, f[TOKEN_TOKENS]);
    c->top = grown(c->top, c->n_top, sizeof *c->top, f[TOKEN_TOP]);
    c->n_tok += m->n;
    c->n_top += m->n_top;
    return text_add(&c->text, f[TOKEN_TEXT].ptr, f[TOKEN_TEXT].len);
}

static bool take_done(work_answer *a, const msg_done *m, view why)
{
    if (m->index >= WORK_CHOICES || a->choice[m->index].done) return false;
    work_choice *c = &a->choice[m->index];
    c->done = true;
    c->finish = m->finish;
    if (m->index + 1 > a->n) a->n = (uint32_t)m->index + 1;
    if (m->code) a->code = m->code, snprintf(a->why, sizeof a->why, "%.*s", (int)why.len, (const char *)why.ptr);
    return m->code || c->n_tok == m->tokens;
}

bool work_take(work_answer *a, const message *m, const view *frame)
{
    if (m->type == MSG_TOKEN) return take_tokens(a, &m->token, frame);
    return take_done(a, &m->done, frame[DONE_TEXT]);
}

void work_free(work_answer *a)
{
    for (uint32_t i = 0; i < WORK_CHOICES; i++) {
        free(a->choice[i].tok);
        free(a->choice[i].top);
        text_free(&a->choice[i].text);
    }
    memset(a, 0, sizeof *a);
}

uint64_t work_tokens(const work_answer *a)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < WORK_CHOICES; i++) n += a->choice[i].n_tok;
    return n;
}

static bool same_choice(const work_choice *g, const work_choice *w, bool prefix, char *why, size_t cap)
{
    size_t n = prefix && g->n_tok < w->n_tok ? g->n_tok : w->n_tok;
    for (size_t i = 0; i < n && i < g->n_tok; i++)
        if (memcmp(&g->tok[i], &w->tok[i], sizeof *g->tok))
            return snprintf(why, cap, "token %zu is %u (%.9g), was %u (%.9g)", i, g->tok[i].id, (double)g->tok[i].logprob, w->tok[i].id, (double)w->tok[i].logprob), false;
    if (g->n_tok != n) return snprintf(why, cap, "%zu tokens, there were %zu", g->n_tok, w->n_tok), false;
    if (prefix) return true;
    if (g->n_top != w->n_top || (g->n_top && memcmp(g->top, w->top, g->n_top * sizeof *g->top))) return snprintf(why, cap, "the log-probabilities differ"), false;
    if (g->text.len != w->text.len || (g->text.len && memcmp(g->text.ptr, w->text.ptr, g->text.len))) return snprintf(why, cap, "the text differs"), false;
    if (g->finish != w->finish) return snprintf(why, cap, "it ended with %s, before with %s", finish_name(g->finish), finish_name(w->finish)), false;
    return true;
}

bool work_same(const work_answer *got, const work_answer *want, bool prefix, char *why, size_t cap)
{
    if (got->code != want->code) return snprintf(why, cap, "error %" PRIu64 ": %s", got->code, got->why), false;
    for (uint32_t i = 0; i < WORK_CHOICES; i++)
        if (!same_choice(&got->choice[i], &want->choice[i], prefix, why, cap)) return false;
    return true;
}
