/* Hand-made STEPs on one and on two stages: trees of rows, forks, truncation, and steps that are wrong. */
#include "tests/flow/rig_low.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(tree, .timeout = 60);

#define N_CTX 128u
#define ROWS 20u

static const char *model_file(void) { return support_root("models/sluice-tiny-aux-Q8_0.gguf"); }

typedef struct { low_rig r; uint32_t token[64]; float *line; } world;   /* line [ROWS][V]: the tokens in a line, one step a row */

static const float *line_row(const world *w, uint32_t i) { return w->line + (size_t)i * w->r.V; }

/* One row and its logits; the row before it is committed first. */
static void plain_row(low_rig *r, uint64_t session, uint32_t row, uint32_t token, float *out)
{
    low_step s = low_begin(r);
    if (row) low_op(&s, OP_COMMIT, session, row - 1, 0);
    low_row(&s, session, row, row, MSG_NO_ROW, token);
    low_send(r, &s);
    low_result(r, &s);
    cr_assert(low_logits(r, 0, out), "row %u failed with status %u", row, low_result_row(r, 0).status);
}

static void world_open(world *w, uint32_t stages)
{
    uint64_t seed = support_seed();
    low_open(&w->r, model_file(), stages, isa_supported() >> ISA_AVX2 & 1 ? ISA_AVX2 : ISA_PLAIN, N_CTX);
    for (uint32_t i = 0; i < 64; i++) w->token[i] = (uint32_t)support_draw(seed, i, w->r.V);
    w->line = calloc((size_t)ROWS * w->r.V, sizeof *w->line);
    cr_assert_not_null(w->line);
    low_session(&w->r, 1);
    for (uint32_t i = 0; i < ROWS; i++) plain_row(&w->r, 1, i, w->token[i], w->line + (size_t)i * w->r.V);
    low_drop(&w->r, 1);
}

static void world_close(world *w)
{
    low_close(&w->r);
    free(w->line);
}

/* Logits of result row i are those of row `at` of the line. */
static void same(const world *w, uint32_t i, uint32_t at, const char *what)
{
    float *got = malloc(w->r.V * sizeof *got);
    cr_assert_not_null(got);
    cr_expect(low_logits(&w->r, i, got), "%s: row %u has no logits", what, i);
    cr_expect(support_same(got, line_row(w, at), w->r.V, what), "%s", what);
    free(got);
}

/* Rows [0, n) of the line in one step, for a session that is open and empty. */
static void prefill(world *w, uint64_t session, uint32_t n)
{
    low_step s = low_begin(&w->r);
    for (uint32_t i = 0; i < n; i++) low_row(&s, session, i, i, i ? i - 1 : MSG_NO_ROW, w->token[i]);
    low_send(&w->r, &s);
    low_result(&w->r, &s);
    for (uint32_t i = 0; i < n; i++) same(w, i, i, "prompt in one step");
}

/* ---- trees ------------------------------------------------------------------------------------------------------------ */

/* Behind committed row 7 come two branches in one step, their rows mixed: 8-10-12 with the line's tokens, 9-11 with others.
 * The next step commits one branch and goes on from it. */
static low_step two_branches(world *w, uint64_t session)
{
    low_step s = low_begin(&w->r);
    low_op(&s, OP_COMMIT, session, 7, 0);
    low_row(&s, session, 8, 8, 7, w->token[8]);
    low_row(&s, session, 9, 8, 7, w->token[40]);
    low_row(&s, session, 10, 9, 8, w->token[9]);
    low_row(&s, session, 11, 9, 9, w->token[41]);
    low_row(&s, session, 12, 10, 10, w->token[10]);
    low_send(&w->r, &s);
    return s;
}

/* The other branch in a line of its own: [2][V]. */
static void other_line(world *w, uint64_t session, float *out)
{
    low_session(&w->r, session);
    prefill(w, session, 8);
    for (uint32_t i = 0; i < 2; i++) plain_row(&w->r, session, 8 + i, w->token[40 + i], out + (size_t)i * w->r.V);
    low_drop(&w->r, session);
}

static void check_branches(world *w)
{
    float *other = malloc(2 * w->r.V * sizeof *other), *got = malloc(w->r.V * sizeof *got);
    cr_assert(other && got);
    other_line(w, 10, other);
    low_session(&w->r, 11);
    prefill(w, 11, 8);
    low_step s = two_branches(w, 11);
    low_result(&w->r, &s);
    same(w, 0, 8, "branch A, first row");
    same(w, 2, 9, "branch A, second row");
    same(w, 4, 10, "branch A, third row");
    for (uint32_t i = 0; i < 2; i++) {
        cr_assert(low_logits(&w->r, 1 + 2 * i, got));
        cr_expect(support_same(got, other + (size_t)i * w->r.V, w->r.V, "branch B"));
    }
    cr_expect(memcmp(other, line_row(w, 8), w->r.V * sizeof *other), "both branches have the same logits: nothing was tested");
    free(other);
    free(got);
}

static void commit_branch_a(world *w)
{
    for (uint32_t i = 11; i < ROWS; i++) { /* rows 13, 14, ... at positions 11, 12, ... */
        low_step s = low_begin(&w->r);
        low_op(&s, OP_COMMIT, 11, i + 1, 0);
        low_row(&s, 11, i + 2, i, MSG_NO_ROW, w->token[i]);
        low_send(&w->r, &s);
        low_result(&w->r, &s);
        same(w, 0, i, "behind the branch that was committed");
    }
}

static void branches_on(uint32_t stages)
{
    world w;
    world_open(&w, stages);
    check_branches(&w);
    commit_branch_a(&w);
    world_close(&w);
}

Test(tree, a_branch_gives_the_bits_of_the_same_tokens_in_a_line) { branches_on(1); }
Test(tree, branches_hold_on_two_stages) { branches_on(2); }

Test(tree, the_other_branch_can_be_committed_too)
{
    world w;
    world_open(&w, 2);
    low_session(&w.r, 20);
    prefill(&w, 20, 8);
    low_step s = two_branches(&w, 20);
    low_result(&w.r, &s);
    s = low_begin(&w.r);
    low_op(&s, OP_COMMIT, 20, 11, 0);
    low_row(&s, 20, 13, 10, MSG_NO_ROW, w.token[42]);
    low_send(&w.r, &s);
    low_result(&w.r, &s);
    float *tree = malloc(w.r.V * sizeof *tree), *row = malloc(w.r.V * sizeof *row);
    cr_assert(tree && row && low_logits(&w.r, 0, tree));
    low_session(&w.r, 21);
    prefill(&w, 21, 8);
    for (uint32_t i = 0; i < 3; i++) plain_row(&w.r, 21, 8 + i, w.token[40 + i], row);
    cr_expect(support_same(tree, row, w.r.V, "behind branch B"));
    free(tree);
    free(row);
    world_close(&w);
}

/* ---- fork, truncate -------------------------------------------------------------------------------------------------- */

static void fork_on(uint32_t stages)
{
    world w;
    world_open(&w, stages);
    float *row = malloc(w.r.V * sizeof *row);
    cr_assert_not_null(row);
    low_session(&w.r, 30);
    prefill(&w, 30, 8);
    low_step s = low_begin(&w.r);     /* commit, fork, and a row of each in one step; the child's token is another one */
    low_op(&s, OP_COMMIT, 30, 7, 0);
    low_op(&s, OP_FORK, 30, 0, 31);
    low_row(&s, 30, 8, 8, MSG_NO_ROW, w.token[40]);
    low_row(&s, 31, 8, 8, MSG_NO_ROW, w.token[8]);
    low_send(&w.r, &s);
    low_result(&w.r, &s);
    same(&w, 1, 8, "first row of the child");
    plain_row(&w.r, 30, 9, w.token[41], row);
    low_drop(&w.r, 30);               /* the child lives on alone */
    for (uint32_t i = 9; i < ROWS; i++) {
        plain_row(&w.r, 31, i, w.token[i], row);
        cr_expect(support_same(row, line_row(&w, i), w.r.V, "child"), "row %u", i);
    }
    free(row);
    world_close(&w);
}

Test(tree, a_fork_goes_on_by_itself_with_the_same_bits) { fork_on(1); }
Test(tree, a_fork_holds_on_two_stages) { fork_on(2); }

static void truncate_on(uint32_t stages)
{
    world w;
    world_open(&w, stages);
    float *row = malloc(w.r.V * sizeof *row);
    cr_assert_not_null(row);
    low_session(&w.r, 40);
    prefill(&w, 40, 12);
    for (uint32_t at = 5; at < 12; at += 6) { /* into the middle of what was committed, then of what is tentative */
        low_step s = low_begin(&w.r);
        if (at == 5) low_op(&s, OP_COMMIT, 40, 11, 0);
        low_op(&s, OP_TRUNCATE, 40, at, 0);
        for (uint32_t i = at; i < 14; i++) low_row(&s, 40, i, i, i == at ? MSG_NO_ROW : i - 1, w.token[i]);
        low_send(&w.r, &s);
        low_result(&w.r, &s);
        for (uint32_t i = at; i < 14; i++) same(&w, i - at, i, "after TRUNCATE");
        s = low_begin(&w.r);
        low_op(&s, OP_COMMIT, 40, 13, 0);
        low_send(&w.r, &s);
        low_result(&w.r, &s);
    }
    plain_row(&w.r, 40, 14, w.token[14], row);
    cr_expect(support_same(row, line_row(&w, 14), w.r.V, "going on after TRUNCATE"));
    free(row);
    world_close(&w);
}

Test(tree, truncate_and_repeat_gives_the_same_bits) { truncate_on(1); }
Test(tree, truncate_holds_on_two_stages) { truncate_on(2); }

/* ---- steps that are wrong ------------------------------------------------------------------------------------------- */

/* After whatever happened a new session computes the line's first rows as before. */
static void still_serves(world *w, uint64_t session, const char *after)
{
    low_session(&w->r, session);
    prefill(w, session, 4);
    low_drop(&w->r, session);
    cr_log_info("serves after %s", after);
}

static void expect_refused(world *w, err_code code, const char *word, const char *what)
{
    const msg_fail *f = low_fail(&w->r, 20000);
    cr_assert_not_null(f, "%s: nobody said FAIL", what);
    cr_expect_eq(f->code, (uint64_t)code, "%s: code %d: %s", what, (int)f->code, f->text);
    cr_expect_not_null(strstr(f->text, word), "%s: \"%s\" does not say \"%s\"", what, f->text, word);
    cr_expect(low_silent(&w->r, 30), "%s: a result came", what);
}

/* A step that a stage must refuse as a whole: one good row, and what `spoil` does to it. */
static void refused(world *w, void (*spoil)(world *, low_step *), err_code code, const char *word, const char *what)
{
    static uint64_t id = 100;
    low_session(&w->r, ++id);
    low_step s = low_begin(&w->r);
    low_row(&s, id, 0, 0, MSG_NO_ROW, w->token[0]);
    spoil(w, &s);
    low_send(&w->r, &s);
    expect_refused(w, code, word, what);
    low_drop(&w->r, id);
    still_serves(w, ++id, what);
}

static void wrong_epoch(world *w, low_step *s) { (void)w, s->head.step.epoch = LOW_EPOCH - 1; }
static void wrong_model(world *w, low_step *s) { (void)w, s->head.step.model = 7; }
static void wrong_token(world *w, low_step *s) { s->row[0].token = w->r.V; }
static void wrong_target(world *w, low_step *s) { s->row[0].target = w->r.V; }
static void wrong_path(world *w, low_step *s) { (void)w, s->row[0].path = PATH_COUNT; }
static void wrong_hop(world *w, low_step *s) { (void)w, s->head.step.hop = s->head.step.n_hops; }
static void wrong_stage(world *w, low_step *s) { (void)w, s->hop[0].stage = 3; }
static void too_many(world *w, low_step *s)
{
    for (uint32_t i = 1; i <= LOW_ROWS; i++) low_row(s, s->row[0].session, i, i, i - 1, w->token[0]);
}

static const struct { void (*spoil)(world *, low_step *); err_code code; const char *word, *what; } wrongs[] = {
    { wrong_epoch, ERR_STATE, "epoch 4", "another epoch" },
    { wrong_model, ERR_STATE, "model 7", "another model" },
    { wrong_token, ERR_PROTO, "token", "a token out of range" },
    { wrong_target, ERR_PROTO, "target", "a target out of range" },
    { wrong_path, ERR_PROTO, "path", "an unknown path" },
    { wrong_hop, ERR_STATE, "hop", "a hop behind the last" },
    { wrong_stage, ERR_STATE, "hop", "a hop of another stage" },
    { too_many, ERR_PROTO, "65 rows", "more rows than the plan allows" },
};

static void wrong_steps_on(uint32_t stages)
{
    world w;
    world_open(&w, stages);
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) refused(&w, wrongs[i].spoil, wrongs[i].code, wrongs[i].word, wrongs[i].what);
    world_close(&w);
}

Test(tree, a_wrong_step_is_refused_and_the_stage_goes_on) { wrong_steps_on(1); }
Test(tree, wrong_steps_are_refused_on_two_stages) { wrong_steps_on(2); }

Test(tree, a_next_hop_that_is_no_stage_is_refused)
{
    world w;
    world_open(&w, 2);
    low_session(&w.r, 50);
    low_step s = low_begin(&w.r);
    s.hop[1].stage = 3;
    low_row(&s, 50, 0, 0, MSG_NO_ROW, w.token[0]);
    low_send(&w.r, &s);
    expect_refused(&w, ERR_PROTO, "next hop 3", "a hop that is no stage");
    still_serves(&w, 51, "a hop that is no stage");
    world_close(&w);
}

/* Rows of one session fail with a status; another session in the same step is computed. */
static void row_fails(world *w, uint64_t bad, uint32_t row, uint32_t pos, uint32_t parent, err_code code, const char *what)
{
    static uint64_t id = 200;
    low_session(&w->r, ++id);
    low_step s = low_begin(&w->r);
    low_row(&s, id, 0, 0, MSG_NO_ROW, w->token[0]);
    low_row(&s, bad, row, pos, parent, w->token[1]);
    low_row(&s, id + 1, 0, 0, MSG_NO_ROW, w->token[0]);
    s.head.step.n_rows = 2;
    low_send(&w->r, &s);
    const msg_result *m = low_result(&w->r, &s);
    cr_assert_eq(m->n_rows, 2u, "%s", what);
    same(w, 0, 0, "the session beside a bad one");
    cr_expect_eq(low_result_row(&w->r, 1).status, (uint32_t)code, "%s: status %u", what, low_result_row(&w->r, 1).status);
    const msg_fail *f = low_fail(&w->r, 20000);
    cr_expect(f && f->session == bad && f->code == (uint64_t)code, "%s: FAIL %s", what, f ? f->text : "did not come");
    low_drop(&w->r, id++);
}

static void bad_rows_on(uint32_t stages)
{
    world w;
    world_open(&w, stages);
    row_fails(&w, 999, 0, 0, MSG_NO_ROW, ERR_ABSENT, "a session that is not open");
    low_session(&w.r, 60);
    prefill(&w, 60, 4);
    row_fails(&w, 60, 4, 4, 77, ERR_INPUT, "a parent that is not there");
    row_fails(&w, 60, 2, 2, MSG_NO_ROW, ERR_INPUT, "a row index that does not ascend");
    row_fails(&w, 60, 4, N_CTX, 3, ERR_INPUT, "a position beyond the context");
    still_serves(&w, 61, "bad rows");
    world_close(&w);
}

Test(tree, a_bad_row_gets_a_status_and_its_neighbour_is_computed) { bad_rows_on(1); }
Test(tree, bad_rows_hold_on_two_stages) { bad_rows_on(2); }

Test(tree, a_bad_operation_fails_its_session_only)
{
    static const struct { uint32_t kind, row; uint64_t other; err_code code; const char *what; } bad[] = {
        { OP_COMMIT, 50, 0, ERR_INPUT, "COMMIT of a row that is not there" },
        { OP_FORK, 0, 71, ERR_STATE, "FORK into a session that is open" },
        { 9, 0, 0, ERR_PROTO, "an unknown operation" },
    };
    world w;
    world_open(&w, 2);
    low_session(&w.r, 71);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t id = 72 + i;
        low_session(&w.r, id);
        prefill(&w, id, 4);
        low_step s = low_begin(&w.r);
        low_op(&s, bad[i].kind, id, bad[i].row, bad[i].other);
        low_row(&s, bad[i].kind == OP_FORK ? 71 : id, bad[i].kind == OP_FORK ? 0 : 4, bad[i].kind == OP_FORK ? 0 : 4, MSG_NO_ROW, w.token[0]);
        low_send(&w.r, &s);
        low_result(&w.r, &s);
        cr_expect_eq(low_result_row(&w.r, 0).status, (uint32_t)bad[i].code, "%s: status %u", bad[i].what, low_result_row(&w.r, 0).status);
        for (uint32_t k = 0; k < w.r.n; k++) cr_expect_not_null(low_fail(&w.r, 20000), "%s: stage %u said nothing", bad[i].what, k);
    }
    still_serves(&w, 90, "bad operations");
    world_close(&w);
}

/* Straight to the second stage, as the first one would: what arrives there is checked as well. */
Test(tree, a_hidden_tensor_that_does_not_fit_is_refused)
{
    world w;
    world_open(&w, 2);
    float *hidden = calloc(3 * w.r.D, sizeof *hidden);
    cr_assert_not_null(hidden);
    static const struct { uint32_t n_hidden, cut; const char *word; } bad[] = {
        { 0, 0, "no hidden state" }, { 3, 0, "3 hidden rows for 2" }, { 2, 1, "width" },
    };
    for (size_t i = 0; i < 3; i++) {
        low_session(&w.r, 300 + i);
        low_step s = low_begin(&w.r);
        low_row(&s, 300 + i, 0, 0, MSG_NO_ROW, 1);
        low_row(&s, 300 + i, 1, 1, 0, 2);
        s.head.step.hop = 1;
        s.head.step.n_hidden = bad[i].n_hidden;
        s.head.step.dim = w.r.D - bad[i].cut;
        s.hidden = hidden;
        low_send_to(&w.r, &s, 1);
        expect_refused(&w, ERR_PROTO, bad[i].word, "a hidden tensor that does not fit");
    }
    still_serves(&w, 310, "hidden tensors that do not fit");
    free(hidden);
    world_close(&w);
}
