/* Key files: what is written, who may own and read them, what is refused and with which words. */
#include "proto/keys.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OK(call) do { err_code rc_ = (call); cr_assert_eq(rc_, ERR_OK, "%s: %s", #call, e.text); } while (0)

static char path[160];

static const char *file(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", support_tmpdir(), name);
    return path;
}

static mode_t mode_of(const char *name)
{
    struct stat st;
    cr_assert_eq(stat(file(name), &st), 0, "%s", name);
    return st.st_mode & 07777;
}

static void refused(const char *name, err_code want, const char *word)
{
    key_pair k = { 0 };
    err e = { 0 };
    cr_expect_eq(key_pair_read(&k, file(name), &e), want, "%s: %s", name, e.text);
    cr_expect(strstr(e.text, word), "\"%s\" does not say \"%s\"", e.text, word);
    cr_expect(strstr(e.text, "sk_") == NULL || !strstr(word, "sk_"), "a secret in a message");
    for (size_t i = 0; i < KEY_BYTES; i++) cr_assert_eq(k.secret[i], 0, "a refused key stays in memory");
}

Test(keys, a_pair_comes_back_from_its_files)
{
    err e = { 0 };
    key_pair a, b;
    uint8_t open[KEY_BYTES];
    OK(key_pair_make(&a, &e));
    umask(0);
    OK(key_pair_write(&a, file("host"), false, &e));
    cr_expect_eq(mode_of("host"), 0600);
    cr_expect_eq(mode_of("host.pub"), 0644);
    OK(key_pair_read(&b, file("host"), &e));
    cr_expect_arr_eq(&a, &b, sizeof a);
    OK(key_public(open, file("host.pub"), &e));
    cr_expect_arr_eq(open, a.open, KEY_BYTES);
    key_pair_wipe(&b);
    cr_expect(!memcmp(&b, &(key_pair){ { 0 }, { 0 } }, sizeof b));
}

Test(keys, no_file_is_replaced_without_force)
{
    err e = { 0 };
    key_pair a, b, got;
    OK(key_pair_make(&a, &e));
    OK(key_pair_make(&b, &e));
    cr_assert(memcmp(&a, &b, sizeof a));
    OK(key_pair_write(&a, file("host"), false, &e));
    cr_expect_eq(key_pair_write(&b, file("host"), false, &e), ERR_STATE);
    cr_expect(strstr(e.text, "--force"), "%s", e.text);
    OK(key_pair_read(&got, file("host"), &e));
    cr_expect_arr_eq(&got, &a, sizeof got, "the old key is gone");
    cr_assert_eq(unlink(file("host")), 0);
    cr_expect_eq(key_pair_write(&b, file("host"), false, &e), ERR_STATE, "a public key alone is one, too");
    cr_expect(access(file("host"), F_OK), "a half of a pair was left");
    OK(key_pair_write(&b, file("host"), true, &e));
    OK(key_pair_read(&got, file("host"), &e));
    cr_expect_arr_eq(&got, &b, sizeof got);
    cr_expect_eq(mode_of("host"), 0600);
}

Test(keys, a_secret_that_others_may_use_is_refused)
{
    static const mode_t bad[] = { 0640, 0604, 0660, 0620, 0601, 0777 };
    err e = { 0 };
    key_pair k;
    OK(key_pair_make(&k, &e));
    OK(key_pair_write(&k, file("host"), false, &e));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_assert_eq(chmod(file("host"), bad[i]), 0);
        refused("host", ERR_DENIED, "chmod 600");
    }
    cr_assert_eq(chmod(file("host"), 0400), 0);
    OK(key_pair_read(&k, file("host"), &e));
}

Test(keys, a_secret_of_another_user_is_refused)
{
    err e = { 0 };
    key_pair k;
    if (geteuid()) cr_skip_test("only root can give a file away");
    OK(key_pair_make(&k, &e));
    OK(key_pair_write(&k, file("host"), false, &e));
    cr_assert_eq(chown(file("host"), 12345, (gid_t)-1), 0);
    refused("host", ERR_DENIED, "belongs to user 12345");
}

Test(keys, what_is_no_secret_key_is_refused)
{
    static const char *const bad[] = { "", "\n\n# only a comment\n", "hello\n", "sk_short\n", "sk_!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!\n",
                                       "pk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n", "sk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_assert(support_write(file("bad"), bad[i], strlen(bad[i])));
        cr_assert_eq(chmod(file("bad"), 0600), 0);
        refused("bad", ERR_CONFIG, "no secret key");
    }
    char big[5000];
    memset(big, '#', sizeof big);
    cr_assert(support_write(file("bad"), big, sizeof big));
    refused("bad", ERR_CONFIG, "longer than");
    cr_assert_eq(mkfifo(file("pipe"), 0600), 0);
    refused("pipe", ERR_DENIED, "not a plain file");
    cr_assert_eq(mkdir(file("folder"), 0700), 0);
    refused("folder", ERR_DENIED, "not a plain file");
    refused("absent", ERR_IO, "No such file");
}

Test(keys, text_of_a_key_and_back)
{
    err e = { 0 };
    uint8_t key[KEY_BYTES], got[KEY_BYTES];
    char word[KEY_TEXT];
    for (uint64_t i = 0; i < 200; i++) {
        support_fill_bytes(key, sizeof key, support_seed() + i);
        key_show(key, word);
        cr_assert_eq(strlen(word), KEY_TEXT - 1);
        cr_assert_eq(strspn(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), KEY_TEXT - 1);
        OK(key_parse(got, word, strlen(word), &e));
        cr_assert_arr_eq(got, key, KEY_BYTES);
        cr_assert_eq(key_parse(got, word, KEY_TEXT - 2, &e), ERR_CONFIG);
        word[3 + i % (KEY_TEXT - 4)] = (char)(0x80 + i % 128); /* one spelling: no byte but the 64 letters */
        cr_assert_eq(key_parse(got, word, strlen(word), &e), ERR_CONFIG, "byte %02x", (unsigned)(0x80 + i % 128));
    }
    cr_expect_eq(key_parse(got, "sk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", KEY_TEXT - 1, &e), ERR_CONFIG);
    cr_expect(strstr(e.text, "secret") && !strstr(e.text, "AAAA"), "a secret key must not be quoted: %s", e.text);
}

Test(keys, credentials_of_a_unit_are_found_and_may_have_a_group)
{
    err e = { 0 };
    key_pair k, got;
    char at[300];
    OK(key_pair_make(&k, &e));
    OK(key_pair_write(&k, file("sluice.key"), false, &e));
    cr_assert_eq(chmod(file("sluice.key"), 0440), 0);
    unsetenv("CREDENTIALS_DIRECTORY");
    cr_expect(!key_credential("sluice.key", at, sizeof at));
    refused("sluice.key", ERR_DENIED, "0440");
    setenv("CREDENTIALS_DIRECTORY", support_tmpdir(), 1);
    cr_assert(key_credential("sluice.key", at, sizeof at));
    OK(key_pair_read(&got, at, &e));
    cr_expect_arr_eq(&got, &k, sizeof k);
    cr_assert_eq(chmod(file("sluice.key"), 0444), 0);
    refused("sluice.key", ERR_DENIED, "0444");
    cr_expect(!key_credential("other.key", at, sizeof at));
}

/* In a child: the setting cannot be taken back. */
Test(keys, a_process_with_keys_leaves_no_core)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit l;
        key_protect_process();
        _exit(prctl(PR_GET_DUMPABLE) == 0 && !getrlimit(RLIMIT_CORE, &l) && l.rlim_cur == 0 && l.rlim_max == 0 ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_expect_eq(status, 0);
}
