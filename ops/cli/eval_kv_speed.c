#include "ops/cli/eval_kv.h"
#include "core/rng.h"
#include "ops/cli/samples.h"
#include <time.h>

/* Tokens a second of processor time, as a busy machine changes it least; with one thread that is the rate of a quiet machine. The
 * policy is on from the first row, as in a cluster, its settlements are in the prompt's time and in decoding's. */

enum { REPEATS = 3, DECODED = 32 };

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static err_code run_once(kv_eval *v, kv_trial *t, samples *prefill, samples *decode, err *e)
{
    uint32_t ids[KVLAB_ROWS], next, n = v->prompt;
    kv_seq *q = NULL;
    double at = cpu_seconds();
    err_code rc = kvlab_new(&v->lab, &t->policy, n, &q, e);
    for (uint32_t done = 0, m; rc == ERR_OK && done < n; done += m) {
        m = n - done < KVLAB_ROWS ? n - done : KVLAB_ROWS;
        for (uint32_t i = 0; i < m; i++) ids[i] = (uint32_t)(rng_u64(v->seed, done + i) % v->lab.V);
        rc = kvlab_feed(&v->lab, q, ids, m, NULL, NULL, e);
    }
    double then = cpu_seconds();
    if (rc == ERR_OK && !v->windows) eval_kv_count(t, q);
    bool ok = samples_add(prefill, n / (then - at));
    next = ids[0];
    for (uint32_t i = 0; rc == ERR_OK && i < DECODED; i++) rc = kvlab_step(&v->lab, &q, &next, 1, e);
    ok = ok && samples_add(decode, DECODED / (cpu_seconds() - then));
    kvlab_drop(&v->lab, &q);
    return rc || ok ? rc : err_set(e, ERR_NOMEM, "out of memory");
}

err_code eval_kv_speed(kv_eval *v, err *e)
{
    err_code rc = ERR_OK;
    for (size_t i = 0; rc == ERR_OK && i < v->n; i++) {
        samples prefill = { 0 }, decode = { 0 };
        for (uint32_t k = 0; rc == ERR_OK && k < REPEATS && !v->trial[i].oracle; k++) rc = run_once(v, &v->trial[i], &prefill, &decode, e);
        v->trial[i].prefill = samples_quantile(&prefill, 0.5);
        v->trial[i].decode = samples_quantile(&decode, 0.5);
        samples_free(&prefill);
        samples_free(&decode);
    }
    return rc;
}
