#ifndef COORDINATOR_ADAPTER_H
#define COORDINATOR_ADAPTER_H
/* LoRA adapters as clients ask for them: is the file there, does it fit the model, what does it contain? The stages load it;
 * here only its digest is kept, so that a batch of jobs reads the file once. Reading and hashing a file takes a thread of its
 * own, which is started by the first adapter; all calls are the main thread's. */
#include "engine/lora.h"
#include "proto/message.h"
#include <time.h>

struct adapter_thread;
typedef struct { uint64_t dev, ino, size; struct timespec changed; char digest[33]; } adapter_seen;
/* Files seen last, the oldest is replaced. */
typedef struct { adapter_seen at[16]; uint32_t next; const model_shape *shape; struct adapter_thread *thread; } adapter_list;

void adapters_close(adapter_list *l);
/* Check the adapter of a SUBMIT (none: ERR_OK) and write its digest into it. ERR_INPUT: no absolute path, or the digest that the
 * client wants is another one; ERR_IO: it is not there. *pending: the file has to be read first; adapter_answer says later what
 * came of it, under this job's number. */
err_code adapter_check(adapter_list *l, uint64_t job, msg_submit *ask, bool *pending, err *e);
/* A file that has been read since: its digest, or why->code and text (as from gguf_open and lora_open). false: none. */
bool adapter_answer(adapter_list *l, uint64_t *job, char digest[static 33], err *why);
/* Write the digest into the SUBMIT; ERR_INPUT when it names another one. */
err_code adapter_agree(msg_submit *ask, const char *digest, err *e);
/* Answers are on their way: look for them soon. */
bool adapter_busy(const adapter_list *l);
#endif
