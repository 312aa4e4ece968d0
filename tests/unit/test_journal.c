/* The journal alone: what was written comes back, an end counts once, a damaged row hurts its own job only, and a write that
 * fails leaves nothing half done. */
#include "coordinator/journal.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define MODEL "0123456789abcdef0123456789abcdef"
#define V 1000u

static char path[128];

static void begin(void) { snprintf(path, sizeof path, "%s/journal.db", support_tmpdir()); }

TestSuite(journal, .init = begin, .timeout = 60);

static journal *open_as(const char *digest)
{
    journal *g;
    err e;
    cr_assert_eq(journal_open(&g, path, digest, &e), ERR_OK, "%s", e.text);
    return g;
}

static job *make(uint64_t id, const char *prompt)
{
    packet in = { .head = msg_init(MSG_SUBMIT), .n_frames = 4 };
    job *j;
    err e;
    in.head.submit.ref = 7;
    in.head.submit.seed = 11;
    in.head.submit.priority = 8;
    snprintf(in.head.submit.custom_id, sizeof in.head.submit.custom_id, "job-%u", (unsigned)id);
    for (int i = 0; i < 4; i++) in.frame[i] = (view){ "", 0 };
    in.frame[SUBMIT_PROMPT] = (view){ prompt, strlen(prompt) };
    in.frame[SUBMIT_STOP] = (view){ "end", 4 };
    cr_assert_eq(job_make(id, &in, V, &j, &e), ERR_OK, "%s", e.text);
    snprintf(j->owner, sizeof j->owner, "somebody");
    return j;
}

static void answer(job *j, uint32_t n)
{
    err e;
    for (uint32_t i = 0; i < n; i++) {
        cand_rec top = { i, -0.5f };
        cr_assert(text_add(&j->choice[0].shown, "ab", 2));
        cr_assert_eq(choice_add(&j->choice[0], 100 + i, -1.5f, &top, 1, &e), ERR_OK);
    }
    j->choice[0].done = true;
    j->choice[0].finish = FINISH_LENGTH;
    j->state = JOB_DONE;
}

static void add(journal *g, const job *j)
{
    err e;
    cr_assert_eq(journal_add(g, j, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(journal_events(g, j, &e), ERR_OK, "%s", e.text);
    if (j->state == JOB_DONE) cr_assert_eq(journal_end(g, j, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(journal_commit(g, &e), ERR_OK, "%s", e.text);
}

static void fill(journal *g, uint64_t n)
{
    for (uint64_t id = 1; id <= n; id++) {
        job *j = make(id, "once");
        answer(j, 3);
        add(g, j);
        job_free(j);
    }
}

static job *get(journal *g, uint64_t id)
{
    job *j;
    err e;
    cr_assert_eq(journal_get(g, id, V, &j, &e), ERR_OK, "%s", e.text);
    return j;
}

static size_t unfinished(journal *g, uint64_t first[static 4])
{
    uint64_t *ids;
    size_t n;
    err e;
    cr_assert_eq(journal_unfinished(g, &ids, &n, &e), ERR_OK, "%s", e.text);
    for (size_t i = 0; i < n && i < 4; i++) first[i] = ids[i];
    free(ids);
    return n;
}

static void edit(const char *sql)
{
    sqlite3 *db;
    cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK, "%s", sqlite3_errmsg(db));
    sqlite3_close(db);
}

Test(journal, a_job_comes_back_with_its_log)
{
    uint64_t ids[4];
    journal *g = open_as(MODEL);
    job *j = make(5, "Where is it?");
    cr_assert(log_add_path(&j->log, &(log_path){ .path = 0, .kv = 1, .n_ctx = 77 }));
    cr_assert(log_add(&j->log, 0, 0, EVENT_PROMPT, (view){ "Passage. Where is it?", 21 }));
    cr_assert(log_add(&j->log, 0, 9, EVENT_CACHE, (view){ "rows=9", 6 }));
    add(g, j);
    job_free(j);
    journal_close(&g);
    g = open_as(MODEL);
    cr_expect_eq(unfinished(g, ids), 1);
    cr_expect_eq(ids[0], 5);
    j = get(g, 5);
    cr_expect_eq(j->state, JOB_QUEUED);
    cr_expect_eq(j->ask.seed, 11);
    cr_expect_eq(j->ask.priority, 8);
    cr_expect_str_eq(j->owner, "somebody");
    cr_expect(j->prompt.len == 12 && !memcmp(j->prompt.ptr, "Where is it?", 12), "the prompt as it was submitted");
    cr_expect_eq(job_prompt(j).len, 21, "and the one that is tokenized");
    cr_expect_eq(j->log.n, 3);
    cr_expect_eq(j->log.durable, 3);
    cr_expect_eq(j->log.at[2].row, 9);
    log_path p;
    err e;
    cr_assert_eq(log_read_path(&j->log, &p, &e), ERR_OK, "%s", e.text);
    cr_expect(p.path == 0 && p.kv == 1 && p.n_ctx == 77 && !p.rope_long);
    job_free(j);
    journal_close(&g);
}

Test(journal, an_end_counts_once)
{
    uint64_t ids[4];
    err e;
    journal *g = open_as(MODEL);
    fill(g, 1);
    cr_expect_eq(journal_finished(g), 1);
    job *other = make(1, "once");
    answer(other, 2);
    other->choice[0].tok[0].rec.id = 999;
    cr_expect_eq(journal_end(g, other, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(journal_commit(g, &e), ERR_OK);
    cr_expect_eq(journal_finished(g), 1);
    cr_expect_eq(unfinished(g, ids), 0);
    job *j = get(g, 1);
    cr_expect(j->state == JOB_DONE && j->recorded && j->archived);
    cr_expect_eq(j->choice[0].n_tok, 3);
    cr_expect_eq(j->choice[0].tok[0].rec.id, 100, "the first end stays");
    cr_expect_eq(j->choice[0].finish, FINISH_LENGTH);
    cr_expect(j->choice[0].shown.len == 6 && j->choice[0].n_top == 3);
    job_free(j);
    job_free(other);
    journal_close(&g);
}

Test(journal, numbers_are_never_given_twice)
{
    err e;
    journal *g = open_as(MODEL);
    fill(g, 6);
    cr_expect_eq(journal_trim(g, 0, 0, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(journal_commit(g, &e), ERR_OK);
    cr_expect_eq(journal_finished(g), 0);
    journal_close(&g);
    g = open_as(MODEL);
    cr_expect_eq(journal_last_id(g), 6);
    journal_close(&g);
}

Test(journal, the_newest_stay_and_the_aged_go)
{
    err e;
    job *j;
    journal *g = open_as(MODEL);
    fill(g, 5);
    job *open = make(6, "still open");
    add(g, open);
    job_free(open);
    cr_expect_eq(journal_trim(g, 3, 0, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(journal_commit(g, &e), ERR_OK);
    cr_expect_eq(journal_finished(g), 3);
    cr_expect_eq(journal_get(g, 2, V, &j, &e), ERR_ABSENT);
    journal_close(&g);
    edit("UPDATE job SET t_end_ms=t_end_ms-7200000 WHERE id=4; UPDATE job SET t_ms=0 WHERE id=6;");
    g = open_as(MODEL);
    cr_expect_eq(journal_trim(g, 3, 1, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(journal_commit(g, &e), ERR_OK);
    cr_expect_eq(journal_get(g, 4, V, &j, &e), ERR_ABSENT, "two hours are more than one");
    job_free(get(g, 6));
    json_t *list = json_array();
    cr_expect_eq(journal_list(g, 10, list, &e), ERR_OK);
    cr_expect_eq(json_array_size(list), 3);
    cr_expect_eq(json_integer_value(json_object_get(json_array_get(list, 0), "id")), 3);
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(list, 2), "state")), "queued");
    json_decref(list);
    journal_close(&g);
}

Test(journal, jobs_of_another_model_wait_unseen)
{
    uint64_t ids[4];
    err e;
    job *j = make(1, "mine");
    journal *g = open_as(MODEL);
    add(g, j);
    job_free(j);
    journal_close(&g);
    g = open_as("ffffffffffffffffffffffffffffffff");
    cr_expect_eq(unfinished(g, ids), 0);
    cr_expect_eq(journal_get(g, 1, V, &j, &e), ERR_ABSENT);
    cr_expect_eq(journal_last_id(g), 1, "but their numbers are taken");
    journal_close(&g);
}

/* Every way of damage that an edit can make, on a job of its own, between two that are whole. */
Test(journal, a_damaged_record_fails_its_own_job_only)
{
    static const char *const damage[] = {
        "UPDATE job SET submit=x'81' WHERE id=2",          "UPDATE job SET submit=x'' WHERE id=2",
        "UPDATE job SET tokens=x'010203' WHERE id=2",      "UPDATE job SET stop=x'41' WHERE id=2",
        "UPDATE choice SET done=x'00' WHERE job=2",        "UPDATE choice SET tokens=x'0102' WHERE job=2",
        "UPDATE choice SET shown=x'61' WHERE job=2",       "DELETE FROM choice WHERE job=2",
        "UPDATE choice SET idx=9 WHERE job=2",             "INSERT INTO event VALUES(2, 0, 0, 0, 250, x'')",
        "INSERT INTO event VALUES(2, 0, 64, 0, 1, x'')",
    };
    err e;
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        remove(path);
        journal *g = open_as(MODEL);
        fill(g, 3);
        journal_close(&g);
        edit(damage[i]);
        g = open_as(MODEL);
        for (uint64_t id = 1; id <= 3; id++) {
            job *j = get(g, id);
            cr_expect_eq(j->failure.code, id == 2 ? ERR_IO : ERR_OK, "%s: job %d: %s", damage[i], (int)id, j->failure.text);
            if (id == 2) cr_expect(strstr(j->failure.text, "the record of job 2 in the journal is damaged"), "%s", j->failure.text);
            cr_expect(j->state == JOB_DONE && job_is_done(j));
            job_free(j);
        }
        cr_expect_eq(journal_commit(g, &e), ERR_OK);
        journal_close(&g);
    }
}

Test(journal, a_damaged_job_that_was_not_over_gets_its_end)
{
    uint64_t ids[4];
    err e;
    journal *g = open_as(MODEL);
    job *j = make(1, "torn");
    add(g, j);
    job_free(j);
    journal_close(&g);
    edit("UPDATE job SET submit=x'93' WHERE id=1");
    g = open_as(MODEL);
    cr_expect_eq(unfinished(g, ids), 1);
    j = get(g, 1);
    cr_expect(j->state == JOB_DONE && !j->recorded);
    cr_expect_eq(journal_end(g, j, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(journal_commit(g, &e), ERR_OK);
    cr_expect_eq(unfinished(g, ids), 0);
    job_free(j);
    journal_close(&g);
}

Test(journal, a_write_that_fails_leaves_nothing_half_done_and_can_be_done_again)
{
    uint64_t ids[4];
    err e = { 0 };
    struct rlimit whole, small = { 1 << 18, RLIM_INFINITY };
    journal *g = open_as(MODEL);
    fill(g, 2);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &whole);
    small.rlim_max = whole.rlim_max;
    text big = { 0 };
    while (big.len < 1 << 20) cr_assert(text_adds(&big, "a long prompt "));
    job *j = make(3, big.ptr), *k = make(4, "short");
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    err_code rc = journal_add(g, k, &e);
    if (!rc) rc = journal_add(g, j, &e);
    if (!rc) rc = journal_commit(g, &e);
    cr_expect_eq(rc, ERR_IO, "a file that may not grow took a megabyte");
    cr_expect(strstr(e.text, path), "%s", e.text);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &whole), 0);
    cr_expect_eq(journal_finished(g), 2);
    cr_expect_eq(unfinished(g, ids), 0, "job 4 was in the same transaction");
    add(g, j);
    add(g, k);
    cr_expect_eq(unfinished(g, ids), 2);
    job_free(j);
    job_free(k);
    text_free(&big);
    journal_close(&g);
    g = open_as(MODEL);
    cr_expect_eq(unfinished(g, ids), 2);
    job_free(get(g, 1));
    journal_close(&g);
}

Test(journal, a_file_of_another_program_or_version_is_left_alone)
{
    journal *g;
    err e;
    edit("CREATE TABLE x(y); PRAGMA application_id=1;");
    cr_expect_eq(journal_open(&g, path, MODEL, &e), ERR_IO);
    cr_expect(strstr(e.text, "belongs to another program"), "%s", e.text);
    edit("PRAGMA application_id=1397508658;"); /* "SLJ2" */
    cr_expect_eq(journal_open(&g, path, MODEL, &e), ERR_IO);
    cr_expect(strstr(e.text, "older sluice"), "%s", e.text);
}
