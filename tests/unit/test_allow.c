/* The list of peers, and what their roles may say. */
#include "proto/allow.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define OK(call) do { err_code rc_ = (call); cr_assert_eq(rc_, ERR_OK, "%s: %s", #call, e.text); } while (0)
#define A "pk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
#define B "pk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"
#define SECRET "sk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"

static err_code parse(allow_list *l, const char *words, err *e) { return allow_parse(l, words, strlen(words), "list", e); }

static const allow_entry *find(const allow_list *l, const char *key)
{
    uint8_t k[KEY_BYTES];
    cr_assert_eq(key_parse(k, key, strlen(key), NULL), ERR_OK);
    return allow_find(l, k);
}

Test(allow, lines_comments_and_names)
{
    err e = { 0 };
    allow_list l;
    OK(parse(&l, "# who\n\n  \t\r\nstage " A " big-host\r\n\tclient\t" B "\n#rag " B " no\n", &e));
    cr_assert_eq(l.n, 2);
    const allow_entry *a = find(&l, A), *b = find(&l, B);
    cr_assert(a && b);
    cr_expect(a->role == PEER_STAGE && !strcmp(a->name, "big-host"), "%d %s", a->role, a->name);
    cr_expect(b->role == PEER_CLIENT && !b->name[0]);
    cr_expect_null(find(&l, "pk_CAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
    allow_free(&l);
    OK(parse(&l, "", &e));
    cr_expect_eq(l.n, 0);
    OK(parse(&l, "rag " A " last line without an end", &e) == ERR_CONFIG ? ERR_OK : ERR_STATE);
    OK(parse(&l, "rag " A " end", &e));
    cr_expect_eq(l.n, 1);
    allow_free(&l);
}

Test(allow, bad_lines_name_file_line_and_word)
{
    static const struct { const char *words, *says; } bad[] = {
        { "\nboss " A " x\n", "list:2: \"boss\" is no role" },  { "stage\n", "list:1: no key behind the role" },
        { "coordinator " A "\n", "\"coordinator\" is no role" }, { "local " A "\n", "\"local\" is no role" },
        { "stage abc x\n", "\"abc\" is no public key" },         { "stage " SECRET " x\n", "a secret key" },
        { "stage " A "A x\n", "no public key" },                 { "stage " A " x y\n", "\"y\" behind the name" },
        { "stage " A "\nclient " A "\n", "stands there twice" }, { "STAGE " A "\n", "\"STAGE\" is no role" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err e = { 0 };
        allow_list l;
        cr_expect_eq(parse(&l, bad[i].words, &e), ERR_CONFIG, "%s", bad[i].words);
        cr_expect(strstr(e.text, bad[i].says), "\"%s\" does not say \"%s\"", e.text, bad[i].says);
        cr_expect(!strstr(e.text, "sk_AAAA"), "a secret is quoted: %s", e.text);
        cr_expect(!l.at && !l.n);
    }
    err e = { 0 };
    allow_list l;
    char name[200] = "stage " A " ";
    memset(name + strlen(name), 'n', 64);
    cr_expect_eq(parse(&l, name, &e), ERR_CONFIG);
    cr_expect_eq(allow_parse(&l, "a\0b", 3, "list", &e), ERR_CONFIG);
}

Test(allow, random_bytes_are_an_error_or_a_list)
{
    uint64_t seed = support_seed();
    for (uint64_t i = 0; i < 2000; i++) {
        char words[200];
        size_t n = support_draw(seed, i, sizeof words);
        support_fill_bytes(words, n, seed + i);
        for (size_t k = 0; k < n; k++)
            if (support_draw(seed ^ i, k, 3)) words[k] = "stage rag client\n\t#pk_AB"[(unsigned char)words[k] % 24];
        err e = { 0 };
        allow_list l;
        if (allow_parse(&l, words, n, "list", &e)) cr_assert(e.text[0] && !l.at);
        allow_free(&l);
    }
}

Test(allow, a_list_that_others_may_change_is_refused)
{
    err e = { 0 };
    allow_list l;
    char file[160];
    snprintf(file, sizeof file, "%s/allow", support_tmpdir());
    cr_assert(support_write(file, "stage " A "\n", strlen("stage " A "\n")));
    cr_assert_eq(chmod(file, 0644), 0);
    OK(allow_read(&l, file, &e));
    cr_expect_eq(l.n, 1);
    allow_free(&l);
    cr_assert_eq(chmod(file, 0664), 0);
    cr_expect_eq(allow_read(&l, file, &e), ERR_DENIED);
    cr_expect(strstr(e.text, "chmod go-w"), "%s", e.text);
    cr_expect_eq(allow_read(&l, "/nowhere/allow", &e), ERR_IO);
}

/* The whole table: for each role exactly these. */
static bool may(peer_role r, msg_type t)
{
    static const msg_type stage[] = { MSG_HELLO, MSG_READY, MSG_PONG, MSG_STATS, MSG_FAIL, MSG_BYE, MSG_SESSION_READY, MSG_KV_DONE,
                                      MSG_STEP, MSG_RESULT, MSG_KV_ROWS, MSG_POOLED },
                          rag[] = { MSG_READY, MSG_PONG, MSG_STATS, MSG_FAIL, MSG_BYE, MSG_PASSAGES },
                          client[] = { MSG_SUBMIT, MSG_CANCEL, MSG_FETCH, MSG_ASK };
    const msg_type *of = r == PEER_STAGE ? stage : r == PEER_RAG ? rag : client;
    size_t n = r == PEER_STAGE ? sizeof stage / sizeof *stage : r == PEER_RAG ? sizeof rag / sizeof *rag : sizeof client / sizeof *client;
    for (size_t i = 0; i < n; i++)
        if (of[i] == t) return true;
    return false;
}

Test(allow, a_role_may_say_its_own_messages_and_no_other)
{
    for (int t = MSG_NONE + 1; t < 64; t++) {
        if (!strcmp(msg_name((msg_type)t), msg_name((msg_type)63)) && t != 63) continue; /* no message of that number */
        message m = msg_init((msg_type)t);
        err e = { 0 };
        cr_expect_eq(allow_message(PEER_LOCAL, &m, &e), ERR_OK);
        cr_expect_eq(allow_message(PEER_COORDINATOR, &m, &e), ERR_OK);
        for (int r = PEER_CLIENT; r <= PEER_RAG; r++) {
            bool ok = allow_message((peer_role)r, &m, &e) == ERR_OK;
            cr_expect_eq(ok, may((peer_role)r, (msg_type)t), "%s: %s", peer_role_name((peer_role)r), msg_name((msg_type)t));
            if (!ok) cr_expect(strstr(e.text, msg_name((msg_type)t)) && strstr(e.text, peer_role_name((peer_role)r)), "%s", e.text);
        }
    }
    err e = { 0 };
    message h = msg_init(MSG_HELLO);
    h.hello.role = 1;
    cr_expect_eq(allow_message(PEER_STAGE, &h, &e), ERR_DENIED, "a stage says that it is a rag worker");
    cr_expect_eq(allow_message(PEER_RAG, &h, &e), ERR_OK);
}
