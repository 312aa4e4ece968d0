#ifndef COORDINATOR_ADAPTER_H
#define COORDINATOR_ADAPTER_H
/* LoRA adapters as clients ask for them: is the file there, does it fit the model, what does it contain? The stages load it;
 * here only its digest is kept, so that a batch of jobs reads the file once. Main thread only. */
#include "engine/lora.h"
#include "proto/message.h"
#include <time.h>

typedef struct { uint64_t dev, ino, size; struct timespec changed; char digest[33]; } adapter_seen;
/* Files seen last, the oldest is replaced; a client that alternates among more of them waits for the hash each time. */
typedef struct { adapter_seen at[16]; uint32_t next; } adapter_list;

/* Check the adapter of a SUBMIT (none: ERR_OK) against the model and write its digest into it. ERR_INPUT: no absolute path, or
 * the digest that the client wants is another one; ERR_IO and ERR_MODEL as from gguf_open and lora_open. */
err_code adapter_check(adapter_list *l, const model_shape *s, msg_submit *ask, err *e);
#endif
