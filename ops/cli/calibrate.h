#ifndef CLI_CALIBRATE_H
#define CLI_CALIBRATE_H
/* sluice calibrate: the framework that its sections share. A section is a line of the table in calibrate.c and a function in a file
 * of its own, which puts what it finds into the profile. Everything runs in this process, over engine/lab.h.
 *
 * How a section survives an interruption: what it adds up lies in blocks of calibrate_block, and it says with calibrate_tick when
 * they are consistent. Every so often they are written to the state file (PROFILE.partial); the next run with the same model,
 * text and options finds them filled. */
#include "core/settings.h"
#include "engine/lab.h"
#include "engine/profile.h"
#include "engine/tokenizer.h"
#include "ops/cli/calibrate_state.h"
#include "ops/cli/progress.h"
#include <jansson.h>

typedef struct {
    const settings *s;
    gguf *g;                   /* the model */
    model_shape shape;
    tokenizer *tok;
    uint32_t bos;              /* TOKEN_NONE: none */
    token_list tokens;         /* of the text, without BOS */
    view text;                 /* the text itself: documents are parted by blank lines, if a section wants any */
    path_id path;
    uint32_t window;           /* tokens of a sequence, BOS included: --ctx-size, or the context up to 2048 */
    profile_section section;   /* that is being made */
    profile_writer *out;       /* put results here */
    const char *auxiliary;     /* digest of the auxiliary model: predict sets it before it returns; NULL: stays as it was */
    calibrate_state *state;
    progress bar;
} calibration;

/* Memory of the running section under a name, zeroed, or as it was when an earlier run stopped (*found). The same name and size
 * give the same block. NULL: out of memory. Freed with the calibration. */
void *calibrate_block(calibration *c, const char *name, size_t bytes, bool *found);
/* Blocks are consistent now, and the section has done `done` of `total`. ERR_CANCELLED after a signal (the state is on disk). */
err_code calibrate_tick(calibration *c, uint64_t done, uint64_t total, err *e);
/* Windows of `window` tokens in the text, and the i-th one with BOS in front (ids [window]). They do not overlap. */
size_t calibrate_windows(const calibration *c);
void calibrate_fill(const calibration *c, size_t i, uint32_t *ids);
/* A lab over the model with the options given on the command line; path, threads, packing and context filled in. */
err_code calibrate_lab(calibration *c, lab_options o, lab **out, err *e);

/* A section (in the table of calibrate.c). summary: an object; what is put there is printed with --json. When it fails nothing of it
 * goes into the profile. */
typedef err_code calibrate_run(calibration *c, json_t *summary, err *e);
calibrate_run calibrate_kv;
calibrate_run calibrate_predict;
#endif
