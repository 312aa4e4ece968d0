#ifndef COORDINATOR_PLAN_FILE_H
#define COORDINATOR_PLAN_FILE_H
/* A plan that `sluice plan -o FILE` wrote, for the coordinator: which stage has which layers, and the costs behind it, by
 * which the layers are shared out again when the number of stages is another one. Reads only. */
#include "coordinator/costs.h"
#include "coordinator/plan.h"

typedef struct plan_file { costs costs; plan_part part[512]; uint32_t n; } plan_file;

/* ERR_CONFIG names what is wrong with the file; ERR_MODEL: it was made for another model than `digest`. */
err_code plan_file_read(plan_file *p, const char *path, const char *digest, err *e);
/* The parts of the file when it has so many stages, otherwise a split by its costs. */
err_code plan_file_split(const plan_file *p, uint32_t n_stages, plan_part *out, err *e);
#endif
