#ifndef TESTS_SUPPORT_LORA_H
#define TESTS_SUPPORT_LORA_H
/* Adapter files of random numbers, and the model that one makes when it is merged into its base: W + s * B A, in double. Written
 * from the format alone: nothing of engine/lora.c is used. */
#include "engine/gguf_write.h"
#include "engine/model.h"

typedef struct { char name[GGUF_NAME_MAX]; uint32_t type; uint64_t n_in, n_rows; } adapter_tensor;   /* type: ggml's id */

typedef struct {
    const char *type, *kind, *arch;     /* general.type, adapter.type, general.architecture; NULL: the key is left out */
    float alpha;                        /* 0: left out */
    float size;                         /* items are uniform in +-size */
    uint64_t seed;
    adapter_tensor t[512];
    uint32_t n;
} adapter_file;

/* An adapter of this rank for every matrix of the model (output.weight too when it has one). Types go F32, F16, BF16 in turn
 * when `mixed`. It may be changed before it is written. false, with words: the model cannot be read. */
bool adapter_for(adapter_file *f, const char *model, uint32_t rank, bool mixed, uint64_t seed);
bool adapter_write(const adapter_file *f, const char *path);
/* A base whose adapted tensors are F32, with the adapter added. */
bool adapter_merge(const char *base, const char *adapter, double scale, const char *out);
/* The items of tensor i as a file holds them, widened; free() it. */
float *adapter_items(const adapter_file *f, uint32_t i);
#endif
