/* Rows of the journal with any bytes in their columns: a job, events of its log, its answers. Reading gives the job or one that
 * is set aside with words; nothing else.
 * Parser: coordinator/journal_read.c */
#include "coordinator/journal_db.h"
#include "tests/fuzz/kit.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MODEL "0123456789abcdef0123456789abcdef"
enum { ID = 1, V = 1000, HEAD = 512, ITEMS = 4 };
static journal *g;
static sqlite3_stmt *add_job, *add_event, *add_choice;

static void step(sqlite3_stmt *s)
{
    (void)sqlite3_step(s);             /* a key twice is refused: one row less */
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
}

static void begin(void)
{
    err e;
    kit_must(journal_open(&g, ":memory:", MODEL, &e), &e);
    if (sqlite3_prepare_v2(g->db, "INSERT INTO job(id, model, owner, custom_id, submit, prompt, tokens, stop, bias, t_ms, state, error)"
                                  " VALUES(1,'" MODEL "',?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)", -1, &add_job, NULL)
        || sqlite3_prepare_v2(g->db, "INSERT INTO event(job, seq, choice, row, kind, payload) VALUES(1,?1,?2,?3,?4,?5)", -1, &add_event, NULL)
        || sqlite3_prepare_v2(g->db, "INSERT INTO choice(job, idx, done, tokens, top, shown) VALUES(1,?1,?2,?3,?4,?5)", -1, &add_choice, NULL))
        abort();
}

/* ---- columns: what is right, or bytes of the input ---- */

static void bind(sqlite3_stmt *s, int i, const void *p, size_t n) { sqlite3_bind_blob64(s, i, p, n, SQLITE_TRANSIENT); }

/* The next bytes of the input, over `good` or instead of it. */
static void bind_bytes(sqlite3_stmt *s, int i, feed *f, const void *good, size_t good_len)
{
    uint8_t buf[HEAD] = { 0 };
    uint32_t how = take_byte(f), n = how & 1 ? take_byte(f) : 0;
    if (n > f->n) n = (uint32_t)f->n;
    size_t len = how & 2 ? n : good_len > n ? good_len : n;
    if (!(how & 2)) memcpy(buf, good, good_len);
    for (uint32_t k = 0; k < n; k++) buf[k] = how & 4 ? (uint8_t)(buf[k] ^ f->p[k]) : f->p[k];
    f->p += n;
    f->n -= n;
    bind(s, i, buf, len);
}

static void bind_head(sqlite3_stmt *s, int i, feed *f, const message *m)
{
    uint8_t head[HEAD];
    size_t n = sizeof head;
    err e;
    kit_must(msg_encode(m, head, &n, &e), &e);
    bind_bytes(s, i, f, head, n);
}

static void put_job(feed *f)
{
    static const uint32_t ids[3] = { 1, 2, 999 };
    static const bias_rec bias = { 5, 1 };
    message m = msg_init(MSG_SUBMIT);
    uint32_t how = take_byte(f);
    m.submit.ref = 1;
    m.submit.n = 1 + how % 3;
    m.submit.n_tokens = how & 4 ? 3 : 0;
    m.submit.n_bias = how & 8 ? 1 : 0;
    m.submit.deadline_ms = how & 16 ? 1000 : 0;
    bind_bytes(add_job, 1, f, "me", 2);
    bind_bytes(add_job, 2, f, "", 0);
    bind_head(add_job, 3, f, &m);
    bind_bytes(add_job, 4, f, "Once", how & 4 ? 0 : 4);
    bind_bytes(add_job, 5, f, ids, m.submit.n_tokens * sizeof *ids);
    bind_bytes(add_job, 6, f, "end", 4);
    bind_bytes(add_job, 7, f, &bias, m.submit.n_bias * sizeof bias);
    sqlite3_bind_int64(add_job, 8, how & 32 ? (sqlite3_int64)take_u64(f) : 1000);
    sqlite3_bind_int64(add_job, 9, how & 64 ? take_byte(f) % 5 : how & 128 ? ROW_DONE : ROW_OPEN);
    bind_bytes(add_job, 10, f, "why", 3);
    step(add_job);
}

static void put_event(feed *f, int seq)
{
    uint32_t how = take_byte(f);
    sqlite3_bind_int64(add_event, 1, seq);
    sqlite3_bind_int64(add_event, 2, how & 1 ? (sqlite3_int64)take_u64(f) : 0);
    sqlite3_bind_int64(add_event, 3, how & 2 ? (sqlite3_int64)take_u64(f) : seq);
    sqlite3_bind_int64(add_event, 4, how & 4 ? (sqlite3_int64)take_u64(f) : how / 8);
    bind_bytes(add_event, 5, f, "path=i8b32 kv=f16 ctx=2048 rope=short", 37);
    step(add_event);
}

static void put_choice(feed *f, uint32_t i)
{
    answer_token tok[ITEMS] = { 0 };
    cand_rec top[ITEMS] = { { 1, -1 } };
    message m = msg_init(MSG_DONE);
    uint32_t how = take_byte(f);
    m.done.job = 1;
    m.done.index = i;
    m.done.finish = how % 8;
    for (uint32_t k = 0; k < ITEMS; k++) tok[k].rec = (token_rec){ .id = k }, tok[k].text_end = k, tok[k].top_end = k;
    sqlite3_bind_int64(add_choice, 1, how & 128 ? (sqlite3_int64)take_u64(f) : (sqlite3_int64)i);
    bind_head(add_choice, 2, f, &m);
    bind_bytes(add_choice, 3, f, tok, sizeof tok);
    bind_bytes(add_choice, 4, f, top, sizeof top);
    bind_bytes(add_choice, 5, f, "abcd", 4);
    step(add_choice);
}

/* ---- reading ---- */

static void look_at(const job *j)
{
    for (uint32_t i = 0; i < j->n_choices; i++) {
        const choice *c = &j->choice[i];
        for (size_t k = 0; k < c->n_tok; k++)
            if (c->tok[k].text_end > c->shown.len || c->tok[k].top_end > c->n_top) abort();
    }
    log_path path;
    err e = { 0 };
    kit_said(log_read_path(&j->log, &path, &e), &e);
}

static void read_all(void)
{
    job *j = NULL;
    uint64_t *ids;
    size_t n;
    err e = { 0 };
    err_code rc = journal_get(g, ID, V, &j, &e);
    if (rc == ERR_OK && !j) abort();
    if (rc && rc != ERR_ABSENT) abort(); /* damage is set aside in a job of its own */
    if (j && j->failure.code && !j->failure.text[0] && !j->n_choices) abort();
    if (j) look_at(j), job_free(j);
    json_t *list = json_array();
    kit_must(journal_list(g, 10, list, &e), &e);
    kit_must(journal_unfinished(g, &ids, &n, &e), &e);
    json_decref(list);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!g) begin();
    feed f = { data, size };
    uint32_t how = take_byte(&f);
    sqlite3_exec(g->db, "BEGIN", NULL, NULL, NULL);
    put_job(&f);
    for (uint32_t i = 0; i < how % 4; i++) put_event(&f, (int)i);
    for (uint32_t i = 0; i < how / 4 % 4; i++) put_choice(&f, i);
    read_all();
    sqlite3_exec(g->db, "ROLLBACK", NULL, NULL, NULL);
    return 0;
}
