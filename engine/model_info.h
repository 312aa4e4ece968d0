#ifndef ENGINE_MODEL_INFO_H
#define ENGINE_MODEL_INFO_H
/* What is in a GGUF: keys, tensors, parameters and bytes per type, digest, tokenizer. Any architecture; nothing is loaded. */
#include "core/err.h"
#include <stdbool.h>
#include <stdio.h>

/* json: one object and a newline. ERR_MODEL and ERR_IO as gguf_open; ERR_IO when `out` does not take it. */
err_code model_info_print(const char *path, bool json, FILE *out, err *e);
#endif
