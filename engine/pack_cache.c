/* The folder of packed weights: where it is, what is in it, what goes when it is full. Refuses to look at weights. */
#include "engine/pack_impl.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

err_code pack_dir(text *out, const pack_options *o, err *e)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const struct passwd *who = home && *home ? NULL : getpwuid(getuid());
    text_clear(out);
    bool ok;
    if (o->dir) ok = text_adds(out, o->dir);
    else if (cache && cache[0] == '/') ok = text_addf(out, "%s/sluice", cache);   /* a relative one is to be ignored */
    else ok = text_addf(out, "%s/.cache/sluice", home && *home ? home : who ? who->pw_dir : "");
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* A name that this cache gives: 32 hex digits, then the suffix. */
static bool is_ours(const char *name, const char *suffix)
{
    return strspn(name, "0123456789abcdef") == 32 && !strcmp(name + 32, suffix);
}

static bool look_at(int dir, const char *name, pack_entry *out)
{
    struct stat st;
    pack_head h = { 0 };
    if (!is_ours(name, PACK_SUFFIX) || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode)) return false;
    *out = (pack_entry){ .bytes = (uint64_t)st.st_size, .used = st.st_mtim.tv_sec };
    memcpy(out->file, name, strlen(name) + 1);
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0 && read(fd, &h, sizeof h) == (ssize_t)sizeof h && memchr(h.model, 0, sizeof h.model))
        memcpy(out->model, h.model, sizeof out->model);
    if (fd >= 0) close(fd);
    return true;
}

static int later_first(const void *a, const void *b)
{
    const pack_entry *x = a, *y = b;
    return x->used != y->used ? (x->used < y->used) - (x->used > y->used) : strcmp(x->file, y->file);
}

static err_code list_dir(const char *path, pack_entry **out, size_t *n, err *e)
{
    *out = NULL;
    *n = 0;
    DIR *d = opendir(path);
    if (!d) return errno == ENOENT ? ERR_OK : err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    pack_entry one;
    err_code rc = ERR_OK;
    for (struct dirent *f; !rc && (f = readdir(d));) {
        if (!look_at(dirfd(d), f->d_name, &one)) continue;
        pack_entry *more = realloc(*out, (*n + 1) * sizeof one);
        if (!more) rc = err_set(e, ERR_NOMEM, "out of memory");
        else (*out = more)[(*n)++] = one;
    }
    closedir(d);
    if (*n) qsort(*out, *n, sizeof **out, later_first);
    return rc;
}

err_code pack_list(const pack_options *o, pack_entry **out, size_t *n, err *e)
{
    text dir = { 0 };
    err_code rc = pack_dir(&dir, o, e);
    if (!rc) rc = list_dir(dir.ptr, out, n, e);
    text_free(&dir);
    return rc;
}

static err_code remove_file(const char *dir, const char *name, err *e)
{
    text path = { 0 };
    if (!text_addf(&path, "%s/%s", dir, name)) return err_set(e, ERR_NOMEM, "out of memory");
    int bad = unlink(path.ptr) && errno != ENOENT;       /* another process may have been quicker */
    err_code rc = bad ? err_set(e, ERR_IO, "%s: %s", path.ptr, strerror(errno)) : ERR_OK;
    text_free(&path);
    return rc;
}

err_code pack_make_room(const pack_options *o, const char *dir, uint64_t need, err *e)
{
    if (!o->max_bytes) return ERR_OK;
    if (need > o->max_bytes)
        return err_set(e, ERR_FULL, "packed weights of %" PRIu64 " MB, --pack-cap is %" PRIu64 " MB", need >> 20,
                       o->max_bytes >> 20);
    pack_entry *list;
    size_t n;
    uint64_t sum = 0;
    err_code rc = list_dir(dir, &list, &n, e);
    for (size_t i = 0; !rc && i < n; i++) {              /* the first ones that fit may stay */
        sum += list[i].bytes;
        if (sum > o->max_bytes - need) rc = remove_file(dir, list[i].file, e);
    }
    free(list);
    return rc;
}

err_code pack_clear(const pack_options *o, size_t *n, err *e)
{
    text path = { 0 };
    *n = 0;
    err_code rc = pack_dir(&path, o, e);
    DIR *d = rc ? NULL : opendir(path.ptr);
    if (!rc && !d && errno != ENOENT) rc = err_set(e, ERR_IO, "%s: %s", path.ptr, strerror(errno));
    for (struct dirent *f; d && !rc && (f = readdir(d));) {
        bool whole = is_ours(f->d_name, PACK_SUFFIX);
        if (!whole && !(ends_with(f->d_name, ".new") || ends_with(f->d_name, ".lock"))) continue;
        if (!whole && strspn(f->d_name, "0123456789abcdef") != 32) continue;
        rc = remove_file(path.ptr, f->d_name, e);
        *n += whole && !rc;
    }
    if (d) closedir(d);
    text_free(&path);
    return rc;
}
