#ifndef TESTS_FUZZ_KIT_H
#define TESTS_FUZZ_KIT_H
/* What fuzz targets share. Every failure of its own ends the process, since nothing here depends on the input. One thread. */
#include "engine/tokenizer.h"

/* abort with the error's text unless ERR_OK. */
void kit_must(err_code rc, const err *e);
/* abort when a reader refused something without saying why. */
void kit_said(err_code rc, const err *e);
/* A folder of this process, removed at exit; a path in it, valid until eight more calls. */
const char *kit_path(const char *name);
/* The bytes as the n-th file (0 to 7) that lives in memory; the path that opens it. */
const char *kit_file(unsigned n, const void *data, size_t size);
/* The 600 made-up pieces of random_vocab_write; pre NULL: SPM. Kept by the caller for the process. */
tokenizer *kit_vocab(const char *pre);

/* For LLVMFuzzerCustomMutator: now and then begins with a well-formed input (`make` writes one of them, chosen by `pick`, and
 * says its size; 0: it does not fit), then mutates as libFuzzer does. Formats may change without making a kept corpus useless. */
typedef size_t kit_maker(uint32_t pick, uint8_t *out, size_t max);
size_t kit_mutate(uint8_t *data, size_t size, size_t max, unsigned seed, kit_maker *make);
/* All of a file; 0: it is larger than max. */
size_t kit_read(const char *path, void *out, size_t max);

/* Numbers taken from the front of an input; 0 when it is used up. */
typedef struct { const uint8_t *p; size_t n; } feed;
uint32_t take_byte(feed *b);
uint32_t take_u32(feed *b);
uint64_t take_u64(feed *b);
#endif
