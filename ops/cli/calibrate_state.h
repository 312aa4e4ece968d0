#ifndef CLI_CALIBRATE_STATE_H
#define CLI_CALIBRATE_STATE_H
/* What an unfinished calibration knows: named blocks of memory, written whole to one file now and then. Bound to a key; a file with
 * another key, or a damaged one, is as if it were not there. Refuses to know what is in a block. One thread. */
#include "core/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct calibrate_state calibrate_state;
/* key: everything that the blocks depend on, as text. The file need not exist. ERR_NOMEM. */
err_code calibrate_state_open(calibrate_state **out, const char *file, const char *key, err *e);
void calibrate_state_close(calibrate_state **s);
/* See calibrate_block. */
void *calibrate_state_block(calibrate_state *s, const char *name, size_t bytes, bool *found);
/* All blocks to the file (temporary name, fsync, rename). ERR_IO. */
err_code calibrate_state_save(calibrate_state *s, err *e);
/* The same if the last time is a while ago: ten seconds, and twenty times what writing took. */
err_code calibrate_state_save_sometimes(calibrate_state *s, err *e);
/* Did the file hold something for this key? */
bool calibrate_state_found(const calibrate_state *s);
/* All is done: the file goes. */
void calibrate_state_remove(calibrate_state *s);
#endif
