#ifndef TESTS_FUZZ_MADE_H
#define TESTS_FUZZ_MADE_H
/* Small well-formed GGUF files for fuzz targets to begin with. What is wrong in them aborts. One thread. */
#include "engine/gguf_write.h"
#include "engine/model.h"

/* Every variant of a kind is made once and kept; `pick` chooses one (modulo how many there are). */
typedef enum { MADE_PLAIN, MADE_LORA, MADE_MODEL, MADE_VOCAB } made_kind;
/* The file's bytes; valid for the process. */
view made_file(made_kind kind, uint32_t pick);
/* The shape that adapters of MADE_LORA are for. */
model_shape made_shape(void);
#endif
