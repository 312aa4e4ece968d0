#include "ops/cli/paths.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* Owns every guess about the file system. It starts nothing and opens no sockets. */

/* Longest socket name in a run directory is well below this; sockaddr_un has 108 bytes for the whole path. */
enum { DIR_MAX = 80, NAME_DIGITS = 12 };
static const char bundled[] = "sluice-tiny-Q8_0.gguf";

static err_code no_memory(err *e) { return err_set(e, ERR_NOMEM, "out of memory"); }

bool path_is_default_dir(const settings *s) { return !s->dir; }

err_code path_run_dir(text *out, const settings *s, err *e)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    bool ok;
    if (s->dir && !*s->dir) return err_set(e, ERR_USAGE, "--dir wants a directory, not an empty text");
    if (s->dir) ok = text_adds(out, s->dir);
    else if (xdg && *xdg == '/') ok = text_addf(out, "%s/sluice", xdg);
    else ok = text_addf(out, "/tmp/sluice-%u", (unsigned)getuid());
    while (ok && out->len > 1 && out->ptr[out->len - 1] == '/') out->ptr[--out->len] = 0;
    return ok ? ERR_OK : no_memory(e);
}

err_code path_check_dir(const char *dir, bool create, err *e)
{
    struct stat st;
    if (create && strlen(dir) > DIR_MAX)
        return err_set(e, ERR_CONFIG, "%s: a run directory holds sockets, so its path has at most %d bytes", dir, DIR_MAX);
    if (create && mkdir(dir, 0700) && errno != EEXIST) return err_set(e, ERR_IO, "%s: %s", dir, strerror(errno));
    if (lstat(dir, &st)) return err_set(e, errno == ENOENT ? ERR_ABSENT : ERR_IO, "%s: %s", dir, strerror(errno));
    if (S_ISLNK(st.st_mode) && stat(dir, &st)) return err_set(e, ERR_IO, "%s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return err_set(e, ERR_IO, "%s: not a directory", dir);
    if (st.st_uid != getuid()) return err_set(e, ERR_IO, "%s: belongs to user %u, not to you", dir, (unsigned)st.st_uid);
    if (st.st_mode & (S_IWGRP | S_IWOTH)) return err_set(e, ERR_IO, "%s: others may write there (chmod go-w)", dir);
    return ERR_OK;
}

err_code path_private_dir(text *out, err *e)
{
    const char *base[] = { getenv("XDG_RUNTIME_DIR"), getenv("TMPDIR"), "/tmp" };
    for (size_t i = 0; i < sizeof base / sizeof base[0]; i++) {
        if (!base[i] || base[i][0] != '/' || strlen(base[i]) + sizeof "/sluice-" + NAME_DIGITS > DIR_MAX) continue;
        text_clear(out);
        uint64_t name;
        if (getrandom(&name, sizeof name, 0) != sizeof name) return err_set(e, ERR_IO, "no random name for a run directory: %s", strerror(errno));
        if (!text_addf(out, "%s/sluice-%0*" PRIx64, base[i], NAME_DIGITS, name & ((UINT64_C(1) << 4 * NAME_DIGITS) - 1))) return no_memory(e);
        if (!access(base[i], W_OK | X_OK)) return ERR_OK;
    }
    return err_set(e, ERR_IO, "no run directory can be made in $XDG_RUNTIME_DIR, $TMPDIR or /tmp: %s", strerror(errno));
}

void path_remove_dir(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *f;
    while (d && (f = readdir(d)))
        if (strcmp(f->d_name, ".") && strcmp(f->d_name, "..")) unlinkat(dirfd(d), f->d_name, 0);
    if (d) closedir(d);
    rmdir(dir);
}

static err_code self_dir(text *out, err *e)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return err_set(e, ERR_IO, "/proc/self/exe: %s (--bin-dir names the folder)", strerror(errno));
    self[n] = 0;
    *strrchr(self, '/') = 0;
    return text_adds(out, self) ? ERR_OK : no_memory(e);
}

err_code path_program(text *out, const settings *s, const char *name, err *e)
{
    struct stat st;
    err_code rc = s->bin_dir ? text_adds(out, s->bin_dir) ? ERR_OK : no_memory(e) : self_dir(out, e);
    if (rc != ERR_OK) return rc;
    if (!text_addf(out, "/%s", name)) return no_memory(e);
    if (access(out->ptr, X_OK)) return err_set(e, ERR_IO, "%s: %s (--bin-dir names another folder)", out->ptr, strerror(errno));
    if (stat(out->ptr, &st) || !S_ISREG(st.st_mode)) return err_set(e, ERR_IO, "%s: not a program", out->ptr);
    return ERR_OK;
}

err_code path_live_dir(text *out, const settings *s, err *e)
{
    if (s->remote && strncmp(s->remote, "tcp://", 6)) return err_set(e, ERR_USAGE, "--connect wants tcp://HOST:PORT, not \"%.100s\"", s->remote);
    if (s->remote && s->dir && settings_was_given(s, "dir")) return err_set(e, ERR_USAGE, "--connect and --dir exclude each other");
    if (s->remote) return text_adds(out, s->remote) ? ERR_OK : no_memory(e);
    err_code rc = path_run_dir(out, s, e);
    if (rc == ERR_OK) rc = path_check_dir(out->ptr, false, e);
    return rc == ERR_ABSENT ? err_set(e, rc, "no cluster is up in %s (sluice up starts one)", out->ptr) : rc;
}

/* In the tree the programs are in build/MODE, installed ones in PREFIX/bin. */
err_code path_default_model(settings *s, err *e)
{
    static const char *const place[] = { "../../models", "../share/sluice/models" };
    text dir = { 0 }, at = { 0 };
    err_code rc = s->model ? ERR_OK : self_dir(&dir, e);
    for (size_t i = 0; i < 2 && rc == ERR_OK && !s->model; i++) {
        text_clear(&at);
        if (!text_addf(&at, "%s/%s/%s", dir.ptr, place[i], bundled)) rc = no_memory(e);
        else if (!access(at.ptr, R_OK)) s->model = realpath(at.ptr, NULL);
    }
    if (rc == ERR_OK && !s->model)
        rc = err_set(e, ERR_MODEL, "no model: -m FILE names one, and the bundled %s is neither in %s/%s nor in %s/%s", bundled,
                     dir.ptr, place[0], dir.ptr, place[1]);
    text_free(&dir);
    text_free(&at);
    return rc;
}
