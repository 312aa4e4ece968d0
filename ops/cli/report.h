#ifndef CLI_REPORT_H
#define CLI_REPORT_H
/* The coordinator's JSON reports, and what a finished job cost, as text for people. Missing fields print as "-". */
#include "ops/cli/answer.h"
#include <stdio.h>

void report_status(FILE *out, const json_t *status);
void report_jobs(FILE *out, const json_t *jobs);
/* One line a stage: layers, cores, pid, memory. */
void report_stages(FILE *out, const json_t *status);
/* Tokens, times, rates, KV bytes, passages. */
void report_answer(FILE *out, const answer *a, uint64_t kv_bytes);
/* Sum over the stages. */
uint64_t report_kv_bytes(const json_t *status);
/* 1234567 -> "1.2 MB"; buf is returned. */
const char *report_bytes(uint64_t n, char buf[static 16]);
#endif
