#include "ops/cli/compare.h"
#include <string.h>

/* Bit for bit: a log-probability that differs in its last bit is a difference. Prints nothing. */

static const char *const names[] = { "nothing", "token", "log-probability", "top log-probabilities", "number of tokens", "text", "finish reason",
                                     "number of choices" };
const char *diff_name(diff_kind k) { return names[k]; }

static bool same_tops(const choice *a, const choice *b, size_t at_a, size_t at_b, size_t n)
{
    return at_a + n <= a->n_top && at_b + n <= b->n_top && (!n || !memcmp(a->top + at_a, b->top + at_b, n * sizeof *a->top));
}

/* Of the tokens that both have. */
static diff_kind compare_tokens(const choice *a, const choice *b, size_t *at)
{
    size_t top_a = 0, top_b = 0, n = a->n_tokens < b->n_tokens ? a->n_tokens : b->n_tokens;
    for (*at = 0; *at < n; ++*at) {
        const token_rec *x = &a->token[*at], *y = &b->token[*at];
        if (x->id != y->id) return DIFF_TOKEN;
        if (memcmp(&x->logprob, &y->logprob, sizeof x->logprob)) return DIFF_LOGPROB;
        if (x->n_top != y->n_top || !same_tops(a, b, top_a, top_b, x->n_top)) return DIFF_TOP;
        top_a += x->n_top;
        top_b += y->n_top;
    }
    return DIFF_NONE;
}

static diff_kind compare_rest(const choice *a, const choice *b, bool part)
{
    bool longer = part ? b->n_tokens < a->n_tokens : b->n_tokens != a->n_tokens;
    if (longer) return DIFF_COUNT;
    if (part) return DIFF_NONE; /* held-back text came out at its end */
    if (a->text.len != b->text.len || (a->text.len && memcmp(a->text.ptr, b->text.ptr, a->text.len))) return DIFF_TEXT;
    return a->done.finish != b->done.finish ? DIFF_FINISH : DIFF_NONE;
}

answer_diff answer_compare(const answer *was, const answer *is, bool part)
{
    answer_diff d = { 0 };
    if (part ? is->n_choices < was->n_choices : is->n_choices != was->n_choices) d.kind = DIFF_CHOICES;
    for (uint32_t i = 0; !d.kind && i < was->n_choices; i++) {
        d.choice = i;
        d.kind = compare_tokens(&was->choice[i], &is->choice[i], &d.token);
        d.compared += d.token;
        if (!d.kind) d.kind = compare_rest(&was->choice[i], &is->choice[i], part);
    }
    return d;
}
