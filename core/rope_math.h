#ifndef CORE_ROPE_MATH_H
#define CORE_ROPE_MATH_H
/* Sine, cosine, logarithm and roots in double from IEEE + - * / and fma alone, so that every host computes the same
 * bits. For core/rope.c and the scores of kvstore/policy. Pure; any thread. */

/* An unevaluated sum hi + lo, |lo| <= ulp(hi)/2: about 106 bits. A frequency needs them: its error is multiplied by the
 * position, and at 10^6 a double's own rounding would already be 1e-10 radians. */
typedef struct { double hi, lo; } dd;

/* x / y, by one Newton step on the double quotient; y > 0. */
dd dd_div(dd x, double y);
dd dd_mul(dd x, dd y);
/* Natural logarithm of x > 0 (finite); relative error < 1e-15. */
double math_log(double x);
/* e^x for |x| < 700; relative error < 1e-15 * (1 + |x|). */
double math_exp(double x);
/* The h-th root of x > 0, h >= 1, to double-double precision. */
dd math_root(double x, unsigned h);
/* sin and cos of x for |x| <= 2^42; absolute error < 1e-15. */
void math_sincos(dd x, double *sin, double *cos);
#endif
