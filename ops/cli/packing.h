#ifndef CLI_PACKING_H
#define CLI_PACKING_H
/* Packed weights for people: made with a bar before a cluster starts, and by hand. */
#include "core/settings.h"
#include "engine/pack.h"

/* As the settings say. */
pack_options packing_options(const settings *s);
/* Before processes start that would pack within their time limits: make the packed weights of s->model if they are wanted and
 * not there. A failure is the stages' to tell; Ctrl-C shows in signals_caught. */
void packing_before_start(const settings *s);
/* sluice model pack FILE */
err_code packing_make(settings *s, err *e);
/* sluice model cache [--clear] */
err_code packing_cache(settings *s, err *e);
#endif
