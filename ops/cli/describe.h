#ifndef CLI_DESCRIBE_H
#define CLI_DESCRIBE_H
/* The coordinator's JSON reports, and what a finished job cost, as text for people. Missing fields print as "-". */
#include "ops/cli/answer.h"
#include <stdio.h>

void describe_status(FILE *out, const json_t *status);
void describe_jobs(FILE *out, const json_t *jobs);
/* One line a stage: layers, cores, pid, memory. */
void describe_stages(FILE *out, const json_t *status);
/* Tokens, times, rates, KV bytes, passages. */
/* pipeline, local, predict, hybrid, by the number in DONE. */
const char *describe_way(uint64_t mode);
void describe_answer(FILE *out, const answer *a, uint64_t kv_bytes);
/* KV bytes of one job at its end: its rows times what the stages hold a row. (The stages' own counters are of all jobs, and
 * fall when the job ends.) */
uint64_t describe_kv_bytes(const json_t *status, const answer *a);
/* 1234567 -> "1.2 MB"; buf is returned. */
const char *describe_bytes(uint64_t n, char buf[static 16]);
#endif
