/* Makes, writes and reads keys. It decides nothing about who may do what, and puts a secret into no message and no log. */
#include "proto/keys.h"
#include "core/buf.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX 4096u   /* a key and a comment */
#define VARIANT sodium_base64_VARIANT_URLSAFE_NO_PADDING

_Static_assert(KEY_BYTES == crypto_box_PUBLICKEYBYTES && KEY_BYTES == crypto_box_SECRETKEYBYTES, "keys are those of crypto_box");
_Static_assert(KEY_TEXT == 3 + sodium_base64_ENCODED_LEN(KEY_BYTES, VARIANT), "a prefix, the characters, a NUL");

/* ---- as text ------------------------------------------------------------------------------------------------------- */

static void show(const char *prefix, const uint8_t *key, char *out)
{
    memcpy(out, prefix, 3);
    sodium_bin2base64(out + 3, KEY_TEXT - 3, key, KEY_BYTES, VARIANT);
}

void key_show(const uint8_t key[static KEY_BYTES], char out[static KEY_TEXT]) { show("pk_", key, out); }

static bool parse(uint8_t *out, const char *prefix, const char *word, size_t n)
{
    size_t got = 0;
    char again[KEY_TEXT];
    if (n != KEY_TEXT - 1 || memcmp(word, prefix, 3)) return false;
    bool ok = !sodium_base642bin(out, KEY_BYTES, word + 3, n - 3, NULL, &got, NULL, VARIANT) && got == KEY_BYTES;
    if (ok) show(prefix, out, again);
    ok = ok && !sodium_memcmp(again, word, n); /* the library takes some bytes above 0x7f for letters */
    sodium_memzero(again, sizeof again);
    return ok;
}

err_code key_parse(uint8_t out[static KEY_BYTES], const char *word, size_t n, err *e)
{
    if (parse(out, "pk_", word, n)) return ERR_OK;
    if (n >= 3 && !memcmp(word, "sk_", 3)) return err_set(e, ERR_CONFIG, "a secret key (sk_...) stands where a public one (pk_...) belongs");
    return err_set(e, ERR_CONFIG, "\"%.*s\" is no public key: want pk_ and 43 characters", (int)(n < 60 ? n : 60), word);
}

/* The first line that is neither empty nor a comment, without white space around it. */
static view first_word(const char *at)
{
    for (const char *end; *at; at = *end ? end + 1 : end) {
        end = at + strcspn(at, "\n");
        const char *from = at + strspn(at, " \t\r");
        if (from < end && *from != '#') return (view){ from, strcspn(from, " \t\r\n") };
    }
    return (view){ "", 0 };
}

/* ---- files --------------------------------------------------------------------------------------------------------- */

/* Credentials of a unit may carry an access list, which shows as rights of the group. */
static bool is_credential(const char *file)
{
    const char *dir = getenv("CREDENTIALS_DIRECTORY");
    size_t n = dir ? strlen(dir) : 0;
    return n && !strncmp(file, dir, n) && file[n] == '/';
}

static err_code check_rights(const struct stat *st, const char *file, bool secret, err *e)
{
    mode_t bad = secret ? S_IRWXG | S_IRWXO : S_IWGRP | S_IWOTH;
    if (is_credential(file)) bad &= ~(mode_t)(S_IRGRP | S_IXGRP);
    if (!S_ISREG(st->st_mode)) return err_set(e, ERR_DENIED, "%s: not a plain file", file);
    if (st->st_uid != geteuid() && st->st_uid != 0)
        return err_set(e, ERR_DENIED, "%s: belongs to user %u, not to you", file, (unsigned)st->st_uid);
    if (st->st_mode & bad)
        return err_set(e, ERR_DENIED, "%s: mode %04o, others may %s it (chmod %s)", file, (unsigned)(st->st_mode & 07777), secret ? "use" : "change",
                       secret ? "600" : "go-w");
    return ERR_OK;
}

err_code key_file_open(int *fd, const char *file, bool secret, err *e)
{
    struct stat st;
    *fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (*fd < 0) return err_set(e, ERR_IO, "%s: %s", file, strerror(errno));
    err_code rc = fstat(*fd, &st) ? err_set(e, ERR_IO, "%s: %s", file, strerror(errno)) : check_rights(&st, file, secret, e);
    if (rc) close(*fd), *fd = -1;
    return rc;
}

static err_code read_small(int fd, const char *file, char buf[static FILE_MAX], err *e)
{
    size_t n = 0;
    ssize_t got = 1;
    while (n < FILE_MAX - 1 && got > 0) {
        got = read(fd, buf + n, FILE_MAX - 1 - n);
        if (got < 0 && errno == EINTR) got = 1;
        else if (got > 0) n += (size_t)got;
    }
    buf[n] = 0;
    if (got < 0) return err_set(e, ERR_IO, "%s: %s", file, strerror(errno));
    return got ? err_set(e, ERR_CONFIG, "%s: longer than %u bytes, so it is no key file", file, FILE_MAX - 1) : ERR_OK;
}

err_code key_pair_read(key_pair *out, const char *file, err *e)
{
    int fd;
    char buf[FILE_MAX];
    err_code rc = key_file_open(&fd, file, true, e);
    if (rc) return rc;
    rc = read_small(fd, file, buf, e);
    close(fd);
    view w = first_word(buf);
    if (!rc && !parse(out->secret, "sk_", w.ptr, w.len)) rc = err_set(e, ERR_CONFIG, "%s: holds no secret key (sk_ and 43 characters; sluice keygen makes one)", file);
    if (!rc) crypto_scalarmult_base(out->open, out->secret);
    sodium_memzero(buf, sizeof buf);
    if (rc) key_pair_wipe(out);
    return rc;
}

err_code key_public(uint8_t out[static KEY_BYTES], const char *word, err *e)
{
    int fd;
    char buf[FILE_MAX];
    if (!strncmp(word, "pk_", 3) || !strncmp(word, "sk_", 3)) return key_parse(out, word, strlen(word), e);
    err_code rc = key_file_open(&fd, word, false, e);
    if (rc) return rc;
    rc = read_small(fd, word, buf, e);
    close(fd);
    view w = first_word(buf);
    if (!rc && key_parse(out, w.ptr, w.len, e)) rc = err_wrap(e, "%s", word);
    sodium_memzero(buf, sizeof buf);
    return rc;
}

static err_code write_whole(int fd, const char *s, const char *file, err *e)
{
    for (size_t n = strlen(s), at = 0; at < n;) {
        ssize_t w = write(fd, s + at, n - at);
        if (w < 0 && errno != EINTR) return err_set(e, ERR_IO, "%s: %s", file, strerror(errno));
        if (w > 0) at += (size_t)w;
    }
    return fsync(fd) ? err_set(e, ERR_IO, "%s: %s", file, strerror(errno)) : ERR_OK;
}

/* A temporary file beside it, then a move: with `force` the old file is there until the new one is complete; without it the last
 * step is link(), which does not overwrite. */
static err_code put_file(const char *file, mode_t mode, const char *words, bool force, err *e)
{
    char tmp[4096 + 16];
    snprintf(tmp, sizeof tmp, "%s.XXXXXX", file);
    int fd = mkostemp(tmp, O_CLOEXEC);
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", file, strerror(errno));
    err_code rc = write_whole(fd, words, file, e);
    if (!rc && fchmod(fd, mode)) rc = err_set(e, ERR_IO, "%s: %s", file, strerror(errno));
    close(fd);
    if (!rc && (force ? rename(tmp, file) : link(tmp, file)))
        rc = errno == EEXIST ? err_set(e, ERR_STATE, "%s exists; --force replaces it, and who knew the old key must learn the new one", file)
                             : err_set(e, ERR_IO, "%s: %s", file, strerror(errno));
    if (rc || !force) unlink(tmp);
    return rc;
}

static err_code check_absent(const char *file, err *e)
{
    struct stat st;
    if (lstat(file, &st)) return ERR_OK;
    return err_set(e, ERR_STATE, "%s exists; --force replaces it, and who knew the old key must learn the new one", file);
}

err_code key_pair_write(const key_pair *k, const char *file, bool force, err *e)
{
    char pub[4096], words[256], key[KEY_TEXT];
    if (strlen(file) + sizeof ".pub" > sizeof pub) return err_set(e, ERR_CONFIG, "%.60s...: path is too long", file);
    snprintf(pub, sizeof pub, "%s.pub", file);
    err_code rc = force ? ERR_OK : check_absent(file, e);
    if (!rc && !force) rc = check_absent(pub, e);
    show("sk_", k->secret, key);
    snprintf(words, sizeof words, "# sluice secret key. Whoever can read this line can act as its owner.\n%s\n", key);
    if (!rc) rc = put_file(file, 0600, words, force, e);
    sodium_memzero(words, sizeof words);
    sodium_memzero(key, sizeof key);
    if (rc) return rc;
    key_show(k->open, key);
    snprintf(words, sizeof words, "# sluice public key. It goes into the other side's list (--allow) or --server-key.\n%s\n", key);
    rc = put_file(pub, 0644, words, force, e);
    if (rc && !force) unlink(file);
    return rc;
}

/* ---- pairs --------------------------------------------------------------------------------------------------------- */

err_code key_pair_make(key_pair *out, err *e)
{
    if (sodium_init() < 0) return err_set(e, ERR_IO, "no source of random numbers for a key");
    crypto_box_keypair(out->open, out->secret);
    return ERR_OK;
}

void key_pair_wipe(key_pair *k) { sodium_memzero(k, sizeof *k); }

bool key_credential(const char *name, char *path, size_t cap)
{
    const char *dir = getenv("CREDENTIALS_DIRECTORY");
    if (!dir || dir[0] != '/') return false;
    int n = snprintf(path, cap, "%s/%s", dir, name);
    return n > 0 && (size_t)n < cap && !access(path, F_OK);
}

void key_protect_process(void)
{
    prctl(PR_SET_DUMPABLE, 0);
    setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
}
