#ifndef ENGINE_MODEL_RANDOM_H
#define ENGINE_MODEL_RANDOM_H
/* GGUF files of random weights in the shapes of real models, for benches and tests: what a model costs does not depend on
 * what it knows. The vocabulary is valid and of the right size, and any GGUF program can load the file. The same shape,
 * quant and seed give the same bytes. Quantised blocks are drawn directly, so a file is written as fast as the disk. */
#include "engine/gguf_write.h"

typedef void model_random_progress(void *arg, uint64_t bytes_done, uint64_t bytes_total);

/* shape: a name of model_random_shape; quant: F32 F16 Q8_0 Q4_0 Q4_K Q6_K. Norms and biases are F32; a matrix whose rows
 * do not divide into blocks falls back to Q8_0, then F16. `progress` may be NULL; it is called about once a MiB.
 * ERR_INPUT names an unknown shape or quant; ERR_IO; ERR_NOMEM. On failure an older file of that name stays. */
err_code model_random_write(const char *shape, const char *quant, uint64_t seed, const char *path, model_random_progress *progress,
                            void *arg, err *e);
/* The i-th shape's name, and a line about it; NULL behind the last. */
const char *model_random_shape(size_t i, const char **about);
/* The i-th weight type's name; NULL behind the last. */
const char *model_random_quant(size_t i);

/* Vocabulary keys for n tokens (engine/random_vocab.c): SPM when pre is NULL, else byte-level BPE for that
 * pre-tokenizer. n must hold the bytes and the special tokens (ERR_INPUT). */
err_code random_vocab_write(gguf_writer *w, const char *pre, uint32_t n, err *e);
#endif
