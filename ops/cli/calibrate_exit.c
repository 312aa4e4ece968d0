#include "ops/cli/calibrate_exit.h"
#include "engine/linfit.h"
#include <stdlib.h>

#define RIDGE 0.3                 /* hazards of layers that few documents reach, or none leaves, stay finite */
#define NEVER -15.0               /* logit of a hazard that no document showed */

static uint32_t depth_of(const double *damage, uint32_t L)
{
    uint32_t l = 0;
    while (l + 2 < L && damage[l] > EXIT_DELTA) l++;
    return l + 2 < L ? l : L - 1;
}

err_code calibrate_exit(const double *damage, const double *entropy, uint32_t n, uint32_t L, double *bias, double *slope, double *shares, err *e)
{
    double *x = malloc(2 * (size_t)n * sizeof *x), *y = x ? x + n : NULL;
    err_code rc = x ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
    for (uint32_t l = 0; !rc && l < L; l++) {
        uint32_t at_risk = 0, out = 0;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t depth = depth_of(damage + (size_t)i * L, L);
            if (depth < l) continue;
            x[at_risk] = entropy[i];
            y[at_risk++] = depth == l;
            out += depth == l;
        }
        shares[l] = (double)out / n;
        bias[l] = NEVER;
        slope[l] = 0;
        if (out && out < at_risk) rc = linfit_logistic(x, y, at_risk, 1, RIDGE, &slope[l], &bias[l], e);
        else if (out) bias[l] = -NEVER;
    }
    free(x);
    return rc;
}
