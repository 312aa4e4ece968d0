#ifndef ENGINE_PACK_H
#define ENGINE_PACK_H
/* The cache of packed weights: one file a model, made at its first use, mapped by every process of the host afterwards. The
 * name of the file is a hash of what the model file says and holds (its digest, sizes and times of its parts, samples of
 * every tensor) and of the version of the layout, so that a changed model never meets old weights.
 *
 * It is made under a lock (one process packs, the others wait), in a file of another name that is renamed when it is
 * whole. Each tensor has a hash that is checked when a process maps it. When the cache would be larger than its cap, the
 * files that were not used for the longest time go. Whatever fails here costs speed only: the weights are in the GGUF file.
 * Owns the folder and its files; refuses to decide what a tensor is for. Any thread, but one at a time for a pack. */
#include "engine/gguf.h"
#include "engine/kernels.h"

/* Zero: no packed weights. dir NULL: $XDG_CACHE_HOME/sluice, or ~/.cache/sluice. max_bytes 0: no cap. */
typedef struct { bool on; const char *dir; uint64_t max_bytes; } pack_options;
/* Called now and then by the thread that packs, or waits (total 0); false gives up. fn may be NULL. */
typedef struct { bool (*fn)(void *arg, uint64_t done, uint64_t total); void *arg; } pack_meter;

typedef struct pack_file pack_file;
/* The packed weights of g, made if need be with `threads` threads. NULL when they are off or not to be had: then a warning
 * has been logged, unless the model has nothing to pack. */
pack_file *pack_open(const gguf *g, const pack_options *o, uint32_t threads, const pack_meter *m);
void pack_close(pack_file **p);
/* A matrix by tensor name: mapped, checked, *w complete. False when it is not there, not of this shape, or damaged: then the
 * file is removed, or marked by a process that may remove none, so that the next start packs again. *r is the mapping, for
 * gguf_unmap. */
bool pack_find(const pack_file *p, const char *name, wtype t, uint64_t n_out, uint64_t n_in, mat *w, gguf_range *r);

/* The same as a command: makes the file unless it is there (check: and every hash in it is right), says why it cannot. *path
 * (text, cleared) is where it is, *made whether it was made now. */
err_code pack_make(const gguf *g, const pack_options *o, bool check, uint32_t threads, const pack_meter *m, text *path, bool *made,
                   err *e);

typedef struct { char file[64]; char model[256]; uint64_t bytes; int64_t used; } pack_entry;   /* used: unix seconds */
/* The files of a cache folder, the one used last first; *out is malloc'ed. A folder that is not there is empty. */
err_code pack_list(const pack_options *o, pack_entry **out, size_t *n, err *e);
/* Remove all of them, unfinished ones too. */
err_code pack_clear(const pack_options *o, size_t *n, err *e);
/* The folder that the options name. */
err_code pack_dir(text *out, const pack_options *o, err *e);
#endif
