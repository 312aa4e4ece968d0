#ifndef ENGINE_PROFILE_H
#define ENGINE_PROFILE_H
/* A model's profile: what calibration found out about it, in one GGUF file (NAME.profile.gguf). Owns the layout, what the file is
 * bound to, and rewriting it in part; refuses to know what a section means.
 *
 *   key general.architecture "sluice-profile", profile.format, profile.layers (of the model)
 *   key profile.model, profile.auxiliary     digests (gguf_digest) of what was calibrated; "": there is no auxiliary
 *   key profile.path                         the arithmetic: i8b32, f32
 *   key profile.hash                         u64 [tensors] XXH3-64 of each tensor's bytes, in the order of the table
 *   key SECTION.version                      a section is there when its version is
 *   keys SECTION.NAME                        numbers, texts and arrays of numbers
 *   tensors SECTION.LAYER.NAME, SECTION.NAME F32, F16 or Q8_0; the name has no dot. Axes: n0 runs fastest, [n1][n0]
 * A stage reads the tensors of its own layers and no others.
 *
 * A profile is immutable once open: any thread. A writer belongs to one thread. */
#include "core/buf.h"
#include "core/err.h"
#include "engine/gguf.h"
#include "engine/wtype.h"
#include <stdio.h>

/* Sections and the version that this build reads and writes. Another meaning, another version. */
#define PROFILE_SECTION_MAP(X) X(KV, "kv", 1) X(ROUTE, "route", 1) X(PREDICT, "predict", 2) X(FIRST, "first", 1) X(STAND, "stand", 1) X(LIMITS, "limits", 1)
typedef enum {
#define X(N, name, version) PROFILE_##N,
    PROFILE_SECTION_MAP(X)
#undef X
    PROFILE_SECTIONS
} profile_section;
const char *profile_section_name(profile_section s);
uint32_t profile_section_version(profile_section s);

#define PROFILE_WHOLE UINT32_MAX         /* in place of a layer: a tensor of the whole section */

/* What a profile is bound to. To profile_open a NULL asks for nothing; "" for auxiliary: that there is none. */
typedef struct { const char *model, *auxiliary, *path; } profile_binding;

typedef struct profile profile;
/* ERR_CONFIG: bound to something else, both digests (or paths) quoted; ERR_MODEL: no profile, or a damaged one; ERR_IO. */
err_code profile_open(profile **out, const char *file, const profile_binding *want, err *e);
void profile_close(profile **p);
/* The profile a program uses: `asked` (--profile: a file, "none"), or where it is NULL the one beside the model, if there is one and it
 * fits; one that does not is named in the log and left alone. *out NULL: none. ERR as profile_open, of a file that was asked for. */
err_code profile_choose(profile **out, const char *asked, const char *model_file, const profile_binding *want, err *e);
/* "…/NAME.gguf" -> "…/NAME.profile.gguf", where a model's profile is looked for. false: out of memory. */
bool profile_beside(const char *model_file, text *out);

const char *profile_file(const profile *p);
/* 32 hex digits: of every byte that counts. Two processes with the same one have the same profile. */
const char *profile_digest(const profile *p);
profile_binding profile_bound(const profile *p);
uint32_t profile_layers(const profile *p);
/* The version of a section in the file, 0: it is not there. */
uint32_t profile_version(const profile *p, profile_section s);
/* Is the section there, in the version that this build knows? */
bool profile_has(const profile *p, profile_section s);
/* The same for whoever cannot do without it. ERR_CONFIG says what is missing, or both versions. */
err_code profile_need(const profile *p, profile_section s, err *e);

/* Of a section's tensors, names and bytes: another one where any is another. */
uint64_t profile_section_hash(const profile *p, profile_section s);

/* Numbers and texts of a section; false when there is none of that kind. profile_numbers wants exactly n. */
bool profile_number(const profile *p, profile_section s, const char *name, double *out);
bool profile_text(const profile *p, profile_section s, const char *name, view *out);
bool profile_numbers(const profile *p, profile_section s, const char *name, double *out, uint64_t n);

/* NULL when absent. Whatever its shape. */
const gguf_tensor *profile_find(const profile *p, profile_section s, uint32_t layer, const char *name);
/* A tensor as floats, out [n1][n0]. ERR_MODEL: absent, of other dimensions (both quoted), damaged (its hash), or not finite. */
err_code profile_floats(const profile *p, profile_section s, uint32_t layer, const char *name, uint64_t n0, uint64_t n1, float *out,
                        err *e);
/* A tensor as it lies in the file, hash checked, mapped until profile_unmap; for large ones. */
typedef struct { wtype type; uint64_t n0, n1; const void *data; gguf_range range; } profile_data;
err_code profile_map(const profile *p, profile_section s, uint32_t layer, const char *name, profile_data *out, err *e);
void profile_unmap(profile_data *m);

/* A new file in place of `file` (written beside it, then renamed), or a file that was not there. Of `only` (bits 1 << section)
 * nothing is kept; other sections stay as they are. Where `auxiliary` is NULL the old one stays. ERR_CONFIG: what is there is
 * bound to another model or path, or has other layers; ERR_INPUT: it is no profile. */
typedef struct profile_writer profile_writer;
err_code profile_writer_open(profile_writer **out, const char *file, const profile_binding *bound, uint32_t layers, uint32_t only,
                             err *e);
/* Without a commit the old file stays. */
void profile_writer_close(profile_writer **w);
/* Of the sections in `only`. Failures (a name twice, values that are not finite) come out at commit, the first one. */
void profile_put_number(profile_writer *w, profile_section s, const char *name, double x);
void profile_put_text(profile_writer *w, profile_section s, const char *name, const char *x);
void profile_put_numbers(profile_writer *w, profile_section s, const char *name, const double *x, uint64_t n);
/* x [n1][n0] stored as F32, F16 or Q8_0 (n0 a multiple of 32). The data goes to a file at once; names lower-case. */
void profile_put_floats(profile_writer *w, profile_section s, uint32_t layer, const char *name, wtype type, uint64_t n0,
                        uint64_t n1, const float *x);
/* Only now is it known which auxiliary model it is. ERR_NOMEM. */
err_code profile_writer_auxiliary(profile_writer *w, const char *digest, err *e);
err_code profile_writer_commit(profile_writer *w, err *e);

/* `sluice profile info`: sections, versions, digests, tensors by layer, bytes. */
err_code profile_print(const profile *p, bool json, FILE *out, err *e);
#endif
