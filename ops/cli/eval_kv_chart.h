#ifndef CLI_EVAL_KV_CHART_H
#define CLI_EVAL_KV_CHART_H
/* Quality against bytes as charts: PREFIX-kl.svg, PREFIX-needles.svg; what was not measured is not drawn. ERR_IO, ERR_NOMEM. */
#include "ops/cli/eval_kv.h"
#include <jansson.h>
err_code eval_kv_draw(const json_t *rows, const char *prefix, err *e);
/* The colour of a policy, by name; a row's "kind". */
const char *eval_kv_kind(const kv_policy *p, bool oracle);
#endif
