/* core/rope_math.h: Taylor and atanh series, long enough for double on the reduced range. Calls nothing of libm but
 * fma and rint, which are exact by definition. */
#include "core/rope_math.h"
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Splits of pi/2 and ln 2: each part is the double nearest to what is left. */
static const double PIO2_HI = 0x1.921fb54442d18p+0, PIO2_MID = 0x1.1a62633145c07p-54, PIO2_LO = -0x1.f1976b7ed8fbcp-110;
static const double LN2_HI = 0x1.62e42fefa39efp-1, LN2_LO = 0x1.abc9e3b39803fp-56;

/* Exact: a + b = hi + lo when |a| >= |b| or a == 0 (Dekker 1971, fast two-sum). */
static dd dd_sum(double a, double b)
{
    double s = a + b;
    return (dd){ s, b - (s - a) };
}

dd dd_mul(dd x, dd y)
{
    double p = x.hi * y.hi, r = fma(x.hi, y.hi, -p);
    return dd_sum(p, fma(x.hi, y.lo, fma(x.lo, y.hi, r)));
}

dd dd_div(dd x, double y)
{
    double q = x.hi / y;
    return dd_sum(q, (fma(-q, y, x.hi) + x.lo) / y);
}

/* x = m 2^e with m in [sqrt(1/2), sqrt 2); ln m = 2 atanh f, f = (m-1)/(m+1), |f| < 0.172: f^25/25 < 1e-20. */
double math_log(double x)
{
    int e;
    double m = frexp(x, &e);
    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2;
        e--;
    }
    double f = (m - 1) / (m + 1), f2 = f * f, s = 0;
    for (int k = 23; k >= 3; k -= 2) s = fma(s, f2, 1.0 / k);
    s = fma(s * f2, f, f);
    return fma((double)e, LN2_HI, fma((double)e, LN2_LO, 2 * s));
}

/* x = n ln2 + r, |r| < 0.35; r^16/16! < 3e-21. */
double math_exp(double x)
{
    double n = rint(x / LN2_HI), r = fma(-n, LN2_LO, fma(-n, LN2_HI, x)), s = 1;
    for (int k = 15; k >= 1; k--) s = fma(s, r / k, 1.0);
    return ldexp(s, (int)n);
}

static dd dd_power(dd x, unsigned h)
{
    dd y = { 1, 0 };
    for (; h; h >>= 1, x = dd_mul(x, x))
        if (h & 1) y = dd_mul(y, x);
    return y;
}

/* One Newton step from a double guess g: its relative error is near 1e-15 and a step squares it. */
dd math_root(double x, unsigned h)
{
    double g = math_exp(math_log(x) / h);
    dd p = dd_power((dd){ g, 0 }, h);
    double miss = ((p.hi - x) + p.lo) / x;
    return dd_sum(g, -g * miss / h);
}

/* Taylor: sin r = r (1 + z S(z)), cos r = 1 + z C(z), z = r^2, |r| <= pi/4; the first terms left out are below 1e-19.
 * Separate products and sums: a table has many entries, and fma() is a call where the CPU is not known. */
#define F3 6.0
#define F4 24.0
#define F5 120.0
#define F6 720.0
#define F7 5040.0
#define F8 40320.0
#define F9 362880.0
#define F10 3628800.0
#define F11 39916800.0
#define F12 479001600.0
#define F13 6227020800.0
#define F14 87178291200.0
#define F15 1307674368000.0
#define F16 20922789888000.0
#define F17 355687428096000.0
#define F18 6402373705728000.0
static const double SIN_C[8] = { -1 / F3, 1 / F5, -1 / F7, 1 / F9, -1 / F11, 1 / F13, -1 / F15, 1 / F17 };
static const double COS_C[9] = { -0.5, 1 / F4, -1 / F6, 1 / F8, -1 / F10, 1 / F12, -1 / F14, 1 / F16, -1 / F18 };

static double sin_core(double r)
{
    double z = r * r, s = 0;
    for (int i = 7; i >= 0; i--) s = s * z + SIN_C[i];
    return r + r * (z * s);
}

static double cos_core(double r)
{
    double z = r * r, s = 0;
    for (int i = 8; i >= 0; i--) s = s * z + COS_C[i];
    return 1 + z * s;
}

/* x - k pi/2 in three parts (Cody and Waite): the first difference is exact, since both terms are multiples of 2^-53
 * below 1 apart; at the end the low word of x is added. */
void math_sincos(dd x, double *sin, double *cos)
{
    double k = rint(x.hi / PIO2_HI);
    double a = fma(-k, PIO2_HI, x.hi), b = fma(-k, PIO2_MID, a), lost = fma(-k, PIO2_MID, a - b);
    double r = b + (lost + fma(-k, PIO2_LO, x.lo));
    double s = sin_core(r), c = cos_core(r);
    unsigned quadrant = (unsigned)(int64_t)k & 3;
    *sin = quadrant & 1 ? c : s;
    *cos = quadrant & 1 ? s : c;
    if (quadrant & 2) *sin = -*sin;
    if (quadrant == 1 || quadrant == 2) *cos = -*cos;
}
