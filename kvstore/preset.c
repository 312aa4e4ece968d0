/* Policies by name: configs/kv/NAME.ini in the tree or the installed copy, or any file. Owns where to look; parses nothing. */
#include "kvstore/preset.h"
#include "core/buf.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Seen from a program: in the tree it is in build/MODE (a test below tests/unit there), installed in PREFIX/bin. */
static const char *const places[] = { "../../configs/kv", "../share/sluice/configs/kv", "../../../../configs/kv" };
enum { PLACES = sizeof places / sizeof *places };
/* A policy is a few lines; more is another file. */
enum { FILE_MOST = 1 << 16 };

static bool is_file(const char *name)
{
    size_t n = strlen(name);
    return strchr(name, '/') || (n > 4 && !strcmp(name + n - 4, ".ini"));
}

static bool self_dir(char *out, size_t cap)
{
    ssize_t n = readlink("/proc/self/exe", out, cap - 1);
    if (n <= 0) return false;
    out[n] = 0;
    *strrchr(out, '/') = 0;
    return true;
}

static int by_name(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* "a, b, c" of what there is in a folder. */
static void list_names(const char *dir, char *out, size_t cap)
{
    DIR *d = opendir(dir);
    char *name[128];
    size_t n = 0, used = 0;
    for (struct dirent *f; d && n < 128 && (f = readdir(d));) {
        size_t len = strlen(f->d_name);
        if (len > 4 && !strcmp(f->d_name + len - 4, ".ini") && (name[n] = strndup(f->d_name, len - 4))) n++;
    }
    if (d) closedir(d);
    qsort(name, n, sizeof *name, by_name);
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        if (used < cap) used += (size_t)snprintf(out + used, cap - used, "%s%s", i ? ", " : "", name[i]);
        free(name[i]);
    }
}

static err_code read_policy(kv_policy *out, const char *path, const char *name, err *e)
{
    text t = { 0 };
    err_code rc = text_read_file(&t, path, FILE_MOST, e);
    if (!rc) rc = kv_policy_parse(out, t.ptr ? t.ptr : "", t.len, path, e);
    if (!rc && (!out->name[0] || !strcmp(out->name, "identity")) && strlen(name) < sizeof out->name)
        memcpy(out->name, name, strlen(name) + 1);
    text_free(&t);
    return rc;
}

err_code kv_policy_load(kv_policy *out, const char *name, err *e)
{
    char self[4096], path[4400], all[400] = "";
    *out = kv_policy_identity();
    if (!strcmp(name, "identity") || !strcmp(name, "none")) return ERR_OK;
    if (is_file(name)) {
        const char *base = strrchr(name, '/') ? strrchr(name, '/') + 1 : name;
        snprintf(path, sizeof path, "%.63s", base);
        if (strlen(path) > 4 && !strcmp(path + strlen(path) - 4, ".ini")) path[strlen(path) - 4] = 0;
        return read_policy(out, name, path, e);
    }
    for (int i = 0; i < PLACES && self_dir(self, sizeof self); i++) {
        snprintf(path, sizeof path, "%s/%s", self, places[i]);
        if (access(path, R_OK)) continue;
        if (!*all) list_names(path, all, sizeof all);
        snprintf(path, sizeof path, "%s/%s/%.200s.ini", self, places[i], name);
        if (!access(path, R_OK)) return read_policy(out, path, name, e);
    }
    return err_set(e, ERR_CONFIG, "KV policy \"%.60s\" is not known (a file, identity%s%s)", name, *all ? ", " : "", all);
}
