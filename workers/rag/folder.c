#include "workers/rag/folder.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { DEPTH_MAX = 64 };        /* folders inside folders; deeper is a mistake or a trap */

file_kind file_kind_of(const char *path)
{
    static const struct { const char *ending; file_kind kind; } known[] = {
        { ".txt", FILE_TXT }, { ".md", FILE_MD }, { ".jsonl", FILE_JSONL },
    };
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t m = strlen(known[i].ending);
        if (n > m && !strcasecmp(path + n - m, known[i].ending)) return known[i].kind;
    }
    return FILE_OTHER;
}

/* Takes `path` over, also when it fails. */
static err_code folder_add(folder *f, char *path, size_t root_len, err *e)
{
    if (f->count == f->cap) {
        size_t cap = f->cap ? f->cap * 2 : 64;
        folder_file *at = realloc(f->at, cap * sizeof *at);
        if (!at) {
            free(path);
            return err_set(e, ERR_NOMEM, "no memory for a list of %zu files", cap);
        }
        f->at = at;
        f->cap = cap;
    }
    f->at[f->count++] = (folder_file){ path, path + root_len };
    return ERR_OK;
}

static err_code walk(folder *f, const char *dir, size_t root_len, int depth, bool skip_bad, err *e);

static err_code walk_entry(folder *f, const char *dir, const char *name, size_t root_len, int depth, bool skip_bad, err *e)
{
    char *path = NULL;
    const char *slash = dir[strlen(dir) - 1] == '/' ? "" : "/";
    if (asprintf(&path, "%s%s%s", dir, slash, name) < 0) return err_set(e, ERR_NOMEM, "%s: out of memory", dir);
    struct stat own, target;
    bool gone = lstat(path, &own) || stat(path, &target);   /* a dangling link or a file just deleted */
    err_code rc = ERR_OK;
    if (!gone && S_ISDIR(own.st_mode)) {
        rc = walk(f, path, root_len, depth + 1, skip_bad, e);
    } else if (!gone && S_ISREG(target.st_mode) && file_kind_of(name) != FILE_OTHER) {
        return folder_add(f, path, root_len, e);
    }
    free(path);
    return rc;
}

static err_code walk(folder *f, const char *dir, size_t root_len, int depth, bool skip_bad, err *e)
{
    if (depth > DEPTH_MAX) return err_set(e, ERR_INPUT, "%s: more than %d folders deep", dir, DEPTH_MAX);
    DIR *d = opendir(dir);
    if (!d && skip_bad && depth > 0) {
        f->bad++;
        return ERR_OK;
    }
    if (!d) return err_set(e, ERR_IO, "%s: %s", dir, strerror(errno));
    err_code rc = ERR_OK;
    for (struct dirent *x; rc == ERR_OK && (x = readdir(d));) {
        if (x->d_name[0] != '.') rc = walk_entry(f, dir, x->d_name, root_len, depth, skip_bad, e);
    }
    closedir(d);
    return rc;
}

static int by_source(const void *a, const void *b)
{
    return strcmp(((const folder_file *)a)->source, ((const folder_file *)b)->source);
}

static err_code add_single(folder *f, const char *root, err *e)
{
    if (file_kind_of(root) == FILE_OTHER) return err_set(e, ERR_INPUT, "%s: not a folder and not a .txt, .md or .jsonl file", root);
    char *path = strdup(root);
    if (!path) return err_set(e, ERR_NOMEM, "%s: out of memory", root);
    const char *slash = strrchr(path, '/');
    return folder_add(f, path, slash ? (size_t)(slash + 1 - path) : 0, e);
}

err_code folder_list(folder *out, const char *root, bool skip_bad, err *e)
{
    struct stat st;
    if (!*root) return err_set(e, ERR_INPUT, "the corpus folder has an empty name");
    if (stat(root, &st)) return err_set(e, ERR_IO, "%s: %s", root, strerror(errno));
    if (S_ISREG(st.st_mode)) return add_single(out, root, e);
    if (!S_ISDIR(st.st_mode)) return err_set(e, ERR_INPUT, "%s: neither a folder nor a regular file", root);
    size_t len = strlen(root);
    err_code rc = walk(out, root, root[len - 1] == '/' ? len : len + 1, 0, skip_bad, e);
    if (rc != ERR_OK) return rc;
    if (!out->count) return err_set(e, ERR_INPUT, "%s: no .txt, .md or .jsonl file in it", root);
    qsort(out->at, out->count, sizeof *out->at, by_source);
    return ERR_OK;
}

void folder_free(folder *f)
{
    for (size_t i = 0; i < f->count; i++) free(f->at[i].path);
    free(f->at);
    *f = (folder){ 0 };
}
