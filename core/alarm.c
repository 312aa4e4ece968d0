#include "core/alarm.h"
#include <math.h>

enum { WINDOW = 24, POINTS = 24, SMOOTH = 8,     /* CSD: half of what is remembered a window, trend over as many places, moving mean */
       PERIOD_MOST = 16, TIMES = 3 };            /* LOOP */

const char *alarm_name(alarm_kind k)
{
    static const char *const names[ALARM_KINDS] = {
#define X(N, n) n,
        ALARM_KIND_MAP(X)
#undef X
    };
    return names[k];
}

void alarm_push(alarm_series *a, float entropy, float margin, uint32_t token)
{
    uint32_t at = (uint32_t)(a->n++ % ALARM_SEEN);
    a->entropy[at] = entropy;
    a->margin[at] = margin;
    a->token[at] = token;
}

/* Place of the token that is `back` before the newest one. */
static uint32_t place(const alarm_series *a, uint32_t back) { return (uint32_t)((a->n - 1 - back) % ALARM_SEEN); }

static double mean_near(const alarm_series *a, const float *x)
{
    double sum = 0;
    if (a->n < ALARM_NEAR) return -INFINITY;
    for (uint32_t i = 0; i < ALARM_NEAR; i++) sum += (double)x[place(a, i)];
    return sum / ALARM_NEAR;
}

/* ---- critical slowing down ------------------------------------------------------------------------------------------ */

static double tau(const double *y, uint32_t n)
{
    int sum = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = i + 1; k < n; k++) sum += (y[k] > y[i]) - (y[k] < y[i]);
    return 2.0 * sum / (n * (n - 1.0));
}

static void figures(const double *x, double *variance, double *lag1)
{
    double mean = 0, v = 0, c = 0;
    for (uint32_t i = 0; i < WINDOW; i++) mean += x[i] / WINDOW;
    for (uint32_t i = 0; i < WINDOW; i++) v += (x[i] - mean) * (x[i] - mean);
    for (uint32_t i = 1; i < WINDOW; i++) c += (x[i] - mean) * (x[i - 1] - mean);
    *variance = v / WINDOW;
    *lag1 = v > 0 ? c / v : 0;
}

static double slowing_down(const alarm_series *a)
{
    enum { USED = WINDOW + POINTS - 1 };
    double x[USED], variance[POINTS], lag1[POINTS];
    _Static_assert(USED + SMOOTH <= ALARM_SEEN, "what is looked at is remembered");
    if (a->n < USED + SMOOTH) return -INFINITY;
    for (uint32_t i = 0; i < USED; i++) {
        uint32_t back = USED - 1 - i;
        double sum = 0;
        for (uint32_t k = 0; k < SMOOTH; k++) sum += (double)a->entropy[place(a, back + k)];
        x[i] = (double)a->entropy[place(a, back)] - sum / SMOOTH;
    }
    for (uint32_t i = 0; i < POINTS; i++) figures(x + i, &variance[i], &lag1[i]);
    double v = tau(variance, POINTS), c = tau(lag1, POINTS);
    return v < c ? v : c;
}

/* ---- loops ------------------------------------------------------------------------------------------------------------ */

static double loop(const alarm_series *a)
{
    uint32_t best = 0, have = a->n < ALARM_SEEN ? (uint32_t)a->n : ALARM_SEEN;
    for (uint32_t p = 1; p <= PERIOD_MOST; p++) {
        uint32_t n = 0;
        while (n + p < have && a->token[place(a, n)] == a->token[place(a, n + p)]) n++;
        if (n >= (TIMES - 1) * p && n > best) best = n;
    }
    return best;
}

double alarm_score(const alarm_series *a, alarm_kind k)
{
    switch (k) {
    case ALARM_ENTROPY: return mean_near(a, a->entropy);
    case ALARM_MARGIN: return a->n < ALARM_NEAR ? -INFINITY : -mean_near(a, a->margin);
    case ALARM_CSD: return slowing_down(a);
    default: return loop(a);
    }
}
