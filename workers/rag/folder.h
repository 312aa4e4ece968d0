#ifndef RAG_FOLDER_H
#define RAG_FOLDER_H
/* Which files make up a corpus: every .txt, .md and .jsonl below a folder, or one such file, in the byte order of their
 * paths. Hidden entries and links to folders are left out (a link to a file is followed); nothing is opened here but folders. */
#include "core/buf.h"

typedef enum { FILE_OTHER, FILE_TXT, FILE_MD, FILE_JSONL } file_kind;

/* By the ending of the name, without case. */
file_kind file_kind_of(const char *path);

/* `path` opens the file; `source` (inside path) is what passages cite: the path below the folder. */
typedef struct {
    char *path;
    const char *source;
} folder_file;

typedef struct {
    folder_file *at;
    size_t count, cap;
    uint64_t bad;               /* folders that could not be read, where skip_bad let them pass */
} folder;

/* List `root` into *out (start with {0}; folder_free in any case). ERR_IO names a folder that cannot be read (unless
 * skip_bad); ERR_INPUT when root is a file of another kind or holds none of ours. */
err_code folder_list(folder *out, const char *root, bool skip_bad, err *e);
void folder_free(folder *f);
#endif
