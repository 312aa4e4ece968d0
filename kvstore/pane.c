#include "kvstore/pane_impl.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OUT_HEAD = 8, OUT_BYTES = 4, CHANNEL_BITS = 11 };
_Static_assert((KV_MAX_D - 1) >> CHANNEL_BITS == 0, "a channel fits its bits of an outlier's place");

static uint32_t bits_of(const pane_kind *k)
{
    return k->pack.kind == KV_PACK_Q8 ? 8 : k->pack.kind == KV_PACK_Q4 ? 4 : k->pack.bits;
}

static bool is_scaled_by_row(const pane_kind *k)
{
    return k->pack.kind == KV_PACK_Q8 || k->pack.kind == KV_PACK_Q4 || k->pack.kind == KV_PACK_TOKEN;
}

/* Scales and minima of a pane: how many f16 of each. */
static size_t scales_of(const pane_kind *k)
{
    uint32_t G = pane_groups(k->d);
    switch (k->pack.kind) {
    case KV_PACK_Q8: case KV_PACK_Q4: case KV_PACK_TOKEN: return (size_t)PANE_ROWS * G;
    case KV_PACK_CHANNEL: return k->turned ? k->d : (size_t)PANE_GROUP * G;
    default: return k->key ? 0 : PANE_ROWS;
    }
}

static bool has_min(const pane_kind *k) { return k->pack.kind != KV_PACK_Q8 && k->pack.kind != KV_PACK_Q4; }

static size_t outlier_bytes(const pane_kind *k)
{
    return k->pack.kind == KV_PACK_NUQ ? (OUT_HEAD + (size_t)pane_outliers(k->d) * OUT_BYTES + 7) / 8 * 8 : 0;
}

static size_t codes_at(const pane_kind *k)
{
    return outlier_bytes(k) + scales_of(k) * (k->pack.small ? 1 : sizeof(f16)) * (has_min(k) ? 2 : 1);
}

/* Groups of 32 codes in a pane. */
static size_t code_groups(const pane_kind *k) { return k->turned ? k->d : (size_t)PANE_ROWS * pane_groups(k->d); }

static size_t row_codes(const pane_kind *k) { return (size_t)pane_groups(k->d) * 4 * bits_of(k); }

static size_t raw_elem(const pane_kind *k) { return k->exact == KV_F32 ? 4 : 2; }

size_t pane_bytes(const pane_kind *k)
{
    size_t n = k->pack.kind == KV_PACK_RAW ? (k->rows ? k->rows : PANE_ROWS) * k->d * raw_elem(k) : codes_at(k) + code_groups(k) * 4 * bits_of(k);
    return (n + 63) / 64 * 64;
}

size_t pane_bytes_of(const pane_kind *k, uint32_t n)
{
    if (k->pack.kind == KV_PACK_RAW) return n * k->d * raw_elem(k);
    if (k->turned || n >= PANE_ROWS) return pane_bytes(k);
    size_t shared = is_scaled_by_row(k) ? 0 : codes_at(k);
    return shared + n * (row_codes(k) + (shared ? 0 : codes_at(k) / PANE_ROWS));
}

bool pane_row_alone(const pane_kind *k) { return k->pack.kind == KV_PACK_RAW || (is_scaled_by_row(k) && !k->pack.small); }

/* ---- Hadamard ------------------------------------------------------------------------------------------------------ */

void pane_hadamard(float *x, uint32_t d)
{
    uint32_t block = d & (~d + 1);
    float norm = 1.0f / sqrtf((float)block);
    for (uint32_t h = 1; h < block; h *= 2)
        for (uint32_t i = 0; i < d; i += 2 * h)
            for (uint32_t j = i; j < i + h; j++) {
                float a = x[j], b = x[j + h];
                x[j] = a + b;
                x[j + h] = a - b;
            }
    for (uint32_t i = 0; i < d; i++) x[i] *= norm;
}

/* ---- encoding ------------------------------------------------------------------------------------------------------ */

/* Beyond the largest half there is infinity, and 0 * infinity at decoding. */
static f16 half_of(float x) { return vec_f16(x > 65504 ? 65504 : x < -65504 ? -65504 : x); }

static void put_code(uint8_t *g, uint32_t bits, uint32_t i, uint32_t code)
{
    switch (bits) {
    case 8: g[i] = (uint8_t)code; break;
    case 4: g[i % 16] = (uint8_t)(g[i % 16] | code << (i / 16 * 4)); break;
    default:
        g[i % 8] = (uint8_t)(g[i % 8] | (code & 3) << (i / 8 * 2));
        if (bits == 3) g[8 + i / 8] = (uint8_t)(g[8 + i / 8] | code >> 2 << (i % 8));
    }
}

/* round((x - m) / s) within the codes; s 0: all the same. Floats from 2^23 on are whole numbers, so adding that much rounds as
 * rintf does, to even, without a call. */
static uint32_t code_of(float x, float s, float m, uint32_t bits)
{
    const float whole = 0x1.8p23f;
    float top = (float)((1u << bits) - 1), q = s > 0 || s < 0 ? (x - m) / s : 0;
    q = q > 0 ? q < top ? q : top : 0;
    return (uint32_t)(int32_t)((q + whole) - whole);
}

typedef struct { float lo, hi, far; } extent;   /* far: the one with the largest magnitude */

/* Of n values, `step` floats apart. */
static extent extent_of(const float *x, uint32_t n, size_t step)
{
    extent e = { x[0], x[0], x[0] };
    for (uint32_t i = 1; i < n; i++) {
        float v = x[i * step];
        if (v < e.lo) e.lo = v;
        if (v > e.hi) e.hi = v;
        if (fabsf(v) > fabsf(e.far)) e.far = v;
    }
    return e;
}

/* A scale and the minimum that belongs to it; for Q8 and Q4 only the scale is kept. */
static f16 scale_of(const pane_kind *k, const extent *e)
{
    if (k->pack.kind == KV_PACK_Q8) return half_of(fabsf(e->far) / 127);
    if (k->pack.kind == KV_PACK_Q4) return half_of(e->far / -8);
    return half_of((e->hi - e->lo) / (float)((1u << bits_of(k)) - 1));
}

static float fixed_min(const pane_kind *k, float s) { return k->pack.kind == KV_PACK_Q8 ? -128 * s : -8 * s; }

/* ---- encoding: scales and minima ----------------------------------------------------------------------------------- */

typedef struct { float s, m; } line;   /* an element is code * s + m */

enum { SMALL_MANTISSA = 7, SMALL_MOST = 0xf7 };   /* bits of an f16 left out; the largest finite one */

static float small_scale(uint8_t b) { return vec_f32((f16)(b << SMALL_MANTISSA)); }
static float small_min(float s, uint32_t bits, int8_t z) { return s * ((float)(1u << bits) / 16) * (float)z; }

/* Scales tried. What a prompt holds to be found again lies at the ends of some channels of keys (names, numbers): cutting them costs
 * copies over a distance, though the mean error falls. Values take it. */
enum { KEY_TRIED = 1, VALUE_TRIED = 4 };

/* The smallest scale that is not below x. */
static uint8_t small_above(float x)
{
    uint8_t lo = 0, hi = SMALL_MOST;
    while (lo < hi) {
        uint8_t mid = (uint8_t)((lo + hi) / 2);
        if (small_scale(mid) >= x) hi = mid;
        else lo = (uint8_t)(mid + 1);
    }
    return lo;
}

/* A small scale has 3 bits of mantissa behind the point and a minimum is a multiple of a sixteenth of it: code * s + m is exact. */
static float squared_error(const float *x, uint32_t n, size_t step, line l, uint32_t bits)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        float d = (float)code_of(x[i * step], l.s, l.m, bits) * l.s + l.m - x[i * step];
        sum += d * d;
    }
    return sum;
}

/* Of the scale that just holds all values and some smaller ones (`tried` in all), which lose at the ends and win between, the best.
 * The grid lies in the middle of the values; a scale is large enough for their minimum to be near one. */
static line small_line(const float *x, uint32_t n, size_t step, const extent *e, uint32_t bits, uint32_t tried, uint8_t *scale, int8_t *min)
{
    float top = (float)((1u << bits) - 1), unit = (float)(1u << bits) / 16, far = fabsf(e->far) / (127 * unit), best = INFINITY;
    uint8_t first = small_above(fmaxf((e->hi - e->lo) / top, far)), least = small_above(far);
    line out = { 0, 0 };
    for (uint8_t b = first, i = 0; i < tried && b >= least; b--, i++) {
        float s = small_scale(b), z = s > 0 ? rintf(((e->hi + e->lo) / 2 - s * top / 2) / (s * unit)) : 0;
        int8_t zero = (int8_t)(z > 127 ? 127 : z < -127 ? -127 : z);
        line l = { s, small_min(s, bits, zero) };
        float error = tried > 1 ? squared_error(x, n, step, l, bits) : 0;
        if (error < best) best = error, out = l, *scale = b, *min = zero;
        if (!b) break;
    }
    return out;
}

/* Scale and minimum `at` of a pane for n values, `step` floats apart. */
static line put_line(const pane_kind *k, unsigned char *out, size_t at, const float *x, uint32_t n, size_t step)
{
    f16 *scale = (f16 *)(void *)out, *min = scale + scales_of(k);
    extent e = extent_of(x, n, step);
    if (k->pack.small) return small_line(x, n, step, &e, bits_of(k), k->key ? KEY_TRIED : VALUE_TRIED, out + at, (int8_t *)out + scales_of(k) + at);
    line l = { vec_f32(scale[at] = scale_of(k, &e)), 0 };
    l.m = has_min(k) ? vec_f32(min[at] = half_of(e.lo)) : fixed_min(k, l.s);
    return l;
}

static void encode_by_row(const pane_kind *k, const float *x, uint32_t n, unsigned char *out)
{
    uint32_t G = pane_groups(k->d), bits = bits_of(k);
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t g = 0; g < G; g++) {
            uint32_t at = g * PANE_GROUP, m = k->d - at < PANE_GROUP ? k->d - at : PANE_GROUP;
            const float *v = x + (size_t)r * k->d + at;
            line l = put_line(k, out, r * G + g, v, m, 1);
            uint8_t *codes = out + codes_at(k) + r * row_codes(k) + (size_t)g * 4 * bits;
            for (uint32_t i = 0; i < m; i++) put_code(codes, bits, i, code_of(v[i], l.s, l.m, bits));
        }
}

static void encode_by_channel(const pane_kind *k, const float *x, uint32_t n, unsigned char *out)
{
    uint32_t bits = bits_of(k);
    for (uint32_t c = 0; c < k->d; c++) {
        line l = put_line(k, out, c, x + c, n, k->d);
        uint8_t *codes = out + codes_at(k) + (size_t)(c / PANE_GROUP) * 4 * bits;
        for (uint32_t r = 0; r < n; r++) {
            uint32_t code = code_of(x[(size_t)r * k->d + c], l.s, l.m, bits);
            if (k->turned) put_code(out + codes_at(k) + (size_t)c * 4 * bits, bits, r, code);
            else put_code(codes + r * row_codes(k), bits, c % PANE_GROUP, code);
        }
    }
}

/* ---- encoding: codebooks ------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    const float *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Scale and middle of element c of a row; range and middle are the row's own (V). */
typedef struct { float s, mid; } span;

static span span_of(const pane_kind *k, uint32_t c, f16 range, f16 middle)
{
    if (k->key) return (span){ (k->hi[c] - k->lo[c]) / 2, (k->hi[c] + k->lo[c]) / 2 };
    return (span){ vec_f32(range), vec_f32(middle) };
}

static float normal(span p, float x) { return p.s > 0 ? (x - p.mid) / p.s : 0; }

static uint32_t nearest(const float *book, uint32_t size, float x)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < size; i++)
        if (fabsf(book[i] - x) < fabsf(book[best] - x)) best = i;
    return best;
}

/* What is lost of a key's element: beyond its channel's thresholds while there is no book yet; with one, by the nearest code. The
 * paper keeps those apart that lie beyond the thresholds; where they are fewer than there is room for, or more (prompts hold what no
 * text foretells), what the book misses most is the same rule and leaves no room empty. */
static float lost_key(const pane_kind *k, uint32_t c, float v)
{
    if (!k->book) return v > k->hi[c] ? v - k->hi[c] : k->lo[c] - v;
    span p = span_of(k, c, 0, 0);
    return fabsf(k->out_book[nearest(k->book, 1u << bits_of(k), normal(p, v))] * p.s + p.mid - v);
}

/* How far an element lies outside: of K by what is lost of it; of V from its row's median, in the row's mean deviations. Elements
 * that are no candidates are left out. */
static uint32_t candidates_key(const pane_kind *k, const float *x, uint32_t n, pane_outlier *to)
{
    uint32_t m = 0;
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t c = 0; c < k->d; c++) {
            float lost = lost_key(k, c, x[(size_t)r * k->d + c]);
            if (lost > 0) to[m++] = (pane_outlier){ lost, (uint16_t)(r << CHANNEL_BITS | c) };
        }
    return m;
}

static uint32_t candidates_value(const pane_kind *k, const float *x, uint32_t n, pane_outlier *to)
{
    float sorted[KV_MAX_D];
    for (uint32_t r = 0; r < n; r++) {
        const float *v = x + (size_t)r * k->d;
        memcpy(sorted, v, k->d * sizeof *v);
        qsort(sorted, k->d, sizeof *sorted, ascending);
        float median = sorted[k->d / 2], spread = 0;
        for (uint32_t c = 0; c < k->d; c++) spread += fabsf(v[c] - median);
        for (uint32_t c = 0; c < k->d; c++)
            to[r * k->d + c] = (pane_outlier){ spread > 0 ? fabsf(v[c] - median) / spread : 0, (uint16_t)(r << CHANNEL_BITS | c) };
    }
    return n * k->d;
}

/* Range and middle of what is left of a row when the outliers are out. */
static void row_range(const pane_kind *k, const float *v, const uint8_t *is_out, f16 *range, f16 *middle)
{
    float lo = INFINITY, hi = -INFINITY;
    for (uint32_t c = 0; c < k->d; c++)
        if (!is_out[c]) lo = v[c] < lo ? v[c] : lo, hi = v[c] > hi ? v[c] : hi;
    if (lo > hi) lo = hi = 0;
    *range = half_of((hi - lo) / 2);
    *middle = half_of((hi + lo) / 2);
}

/* The `room` farthest of m candidates to the front, the farthest first and of equal ones the one that came first: there is room for one
 * in a hundred, so most are looked at once. */
static uint16_t farthest_first(pane_outlier *cand, uint32_t m, uint32_t room)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m; i++) {
        pane_outlier x = cand[i];
        if (n == room && !(x.far > cand[n - 1].far)) continue;
        if (n < room) n++;
        uint32_t at = n - 1;
        for (; at && cand[at - 1].far < x.far; at--) cand[at] = cand[at - 1];
        cand[at] = x;
    }
    return (uint16_t)n;
}

/* The outliers of a pane, the farthest first, at most as many as it has room for; w->is_out marks them. */
static uint16_t outliers_of(const pane_kind *k, const float *x, uint32_t n, pane_work *w)
{
    uint32_t m = k->key ? candidates_key(k, x, n, w->cand) : candidates_value(k, x, n, w->cand);
    uint16_t count = farthest_first(w->cand, m, pane_outliers(k->d));
    memset(w->is_out, 0, (size_t)n * k->d);
    for (uint32_t i = 0; i < count; i++)
        w->is_out[(size_t)(w->cand[i].place >> CHANNEL_BITS) * k->d + (w->cand[i].place & ((1u << CHANNEL_BITS) - 1))] = 1;
    return count;
}

void pane_normal(const pane_kind *k, const float *x, uint32_t n, float *out, float *scale, pane_work *w)
{
    outliers_of(k, x, n, w);
    for (uint32_t r = 0; r < n; r++) {
        f16 range = 0, middle = 0;
        if (!k->key) row_range(k, x + (size_t)r * k->d, w->is_out + (size_t)r * k->d, &range, &middle);
        for (uint32_t c = 0; c < k->d; c++) {
            size_t at = (size_t)r * k->d + c;
            span p = span_of(k, c, range, middle);
            out[at] = w->is_out[at] ? NAN : normal(p, x[at]);
            scale[at] = p.s;
        }
    }
}

static void encode_by_book(const pane_kind *k, const float *x, uint32_t n, unsigned char *out, pane_work *w)
{
    uint32_t bits = bits_of(k);
    uint16_t count = outliers_of(k, x, n, w);
    memcpy(out, &count, sizeof count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t r = w->cand[i].place >> CHANNEL_BITS, c = w->cand[i].place & ((1u << CHANNEL_BITS) - 1);
        f16 v = half_of(x[(size_t)r * k->d + c]);
        memcpy(out + OUT_HEAD + i * OUT_BYTES, &w->cand[i].place, 2);
        memcpy(out + OUT_HEAD + i * OUT_BYTES + 2, &v, 2);
    }
    f16 *range = (f16 *)(void *)(out + outlier_bytes(k)), *middle = range + PANE_ROWS;
    for (uint32_t r = 0; r < n; r++) {
        const float *v = x + (size_t)r * k->d;
        f16 row[2] = { 0 };
        if (!k->key) {
            row_range(k, v, w->is_out + (size_t)r * k->d, &row[0], &row[1]);
            range[r] = row[0];
            middle[r] = row[1];
        }
        for (uint32_t c = 0; c < k->d; c++) {
            uint8_t *codes = out + codes_at(k) + r * row_codes(k) + (size_t)(c / PANE_GROUP) * 4 * bits;
            put_code(codes, bits, c % PANE_GROUP, nearest(k->book, 1u << bits, normal(span_of(k, c, row[0], row[1]), v[c])));
        }
    }
}

/* ---- encoding: all ------------------------------------------------------------------------------------------------- */

static void encode_raw(const pane_kind *k, const float *x, uint32_t n, unsigned char *out)
{
    if (k->exact == KV_F32) memcpy(out, x, (size_t)n * k->d * sizeof *x);
    else
        for (size_t i = 0; i < (size_t)n * k->d; i++) {
            f16 h = vec_f16(x[i]);
            memcpy(out + 2 * i, &h, 2);
        }
}

void pane_encode(const pane_kind *k, const float *x, uint32_t n, unsigned char *out, pane_work *w)
{
    assert(n && n <= PANE_ROWS && k->d <= KV_MAX_D);
    memset(out, 0, pane_bytes(k));
    if (k->pack.hadamard) {
        memcpy(w->turned, x, (size_t)n * k->d * sizeof *x);
        for (uint32_t r = 0; r < n; r++) pane_hadamard(w->turned + (size_t)r * k->d, k->d);
        x = w->turned;
    }
    if (k->pack.kind == KV_PACK_RAW) encode_raw(k, x, n, out);
    else if (k->pack.kind == KV_PACK_CHANNEL) encode_by_channel(k, x, n, out);
    else if (k->pack.kind == KV_PACK_NUQ) encode_by_book(k, x, n, out, w);
    else encode_by_row(k, x, n, out);
}

/* ---- decoding ------------------------------------------------------------------------------------------------------ */

pane_decoder pane_decoder_for(isa i)
{
#if defined(__x86_64__)
    if (i >= ISA_AVX512VNNI) return pane_decode_avx512vnni;
    if (i == ISA_AVX2) return pane_decode_avx2;
#endif
    (void)i;
    return pane_decode_plain;
}

static void decode_raw(const pane_reader *rd, const pane_kind *k, const unsigned char *in, uint32_t first, uint32_t n, float *out)
{
    uint32_t ld = pane_ld(k->d);
    for (uint32_t r = 0; r < n; r++, out += ld) {
        const unsigned char *row = in + (size_t)(first + r) * k->d * raw_elem(k);
        if (k->exact == KV_F32) memcpy(out, row, k->d * sizeof *out);
        else rd->vec->from_f16(out, (const f16 *)(const void *)row, k->d);
    }
}

static void small_read(const pane_kind *k, const unsigned char *in, size_t at, uint32_t n, float *s, float *m)
{
    const int8_t *min = (const int8_t *)in + scales_of(k);
    for (uint32_t i = 0; i < n; i++) {
        s[i] = small_scale(in[at + i]);
        m[i] = small_min(s[i], bits_of(k), min[at + i]);
    }
}

/* s and m of rows [first, first+n), as pane_codes wants them. Room for 32 rows x 32 groups each. */
static void scales_read(const pane_reader *rd, const pane_kind *k, const unsigned char *in, uint32_t first, uint32_t n, float *s,
                        float *m)
{
    const f16 *scale = (const f16 *)(const void *)(in + outlier_bytes(k)), *min = scale + scales_of(k);
    uint32_t G = pane_groups(k->d), ld = pane_ld(k->d);
    if (k->pack.small) {
        small_read(k, in, k->pack.kind == KV_PACK_CHANNEL ? 0 : first * G, k->pack.kind == KV_PACK_CHANNEL ? ld : n * G, s, m);
    } else if (k->pack.kind == KV_PACK_CHANNEL) {
        rd->vec->from_f16(s, scale, ld);
        rd->vec->from_f16(m, min, ld);
    } else if (k->pack.kind == KV_PACK_NUQ && k->key) {
        for (uint32_t c = 0; c < ld; c++) {
            s[c] = c < k->d ? (k->hi[c] - k->lo[c]) / 2 : 0;
            m[c] = c < k->d ? (k->hi[c] + k->lo[c]) / 2 : 0;
        }
    } else if (k->pack.kind == KV_PACK_NUQ) {
        for (uint32_t i = 0; i < n * G; i++) s[i] = vec_f32(scale[first + i / G]), m[i] = vec_f32(min[first + i / G]);
    } else {
        rd->vec->from_f16(s, scale + first * G, n * G);
        if (has_min(k)) rd->vec->from_f16(m, min + first * G, n * G);
        else
            for (uint32_t i = 0; i < n * G; i++) m[i] = fixed_min(k, s[i]);
    }
}

static void outliers_set(const pane_kind *k, const unsigned char *in, uint32_t first, uint32_t n, float *out)
{
    uint16_t count;
    memcpy(&count, in, sizeof count);
    if (count > pane_outliers(k->d)) count = (uint16_t)pane_outliers(k->d);
    for (uint32_t i = 0; i < count; i++) {
        uint16_t place;
        f16 v;
        memcpy(&place, in + OUT_HEAD + i * OUT_BYTES, 2);
        memcpy(&v, in + OUT_HEAD + i * OUT_BYTES + 2, 2);
        uint32_t r = place >> CHANNEL_BITS, c = place & ((1u << CHANNEL_BITS) - 1);
        if (r >= first && r < first + n && c < k->d) out[(size_t)(r - first) * pane_ld(k->d) + c] = vec_f32(v);
    }
}

/* A channel after the other, then rows out of them. */
static void decode_turned(const pane_reader *rd, const pane_kind *k, const unsigned char *in, uint32_t first, uint32_t n, float *out)
{
    float s[KV_MAX_D], m[KV_MAX_D], turned[KV_MAX_D * PANE_ROWS];
    const f16 *scale = (const f16 *)(const void *)in;
    if (k->pack.small) small_read(k, in, 0, k->d, s, m);
    else {
        rd->vec->from_f16(s, scale, k->d);
        rd->vec->from_f16(m, scale + k->d, k->d);
    }
    rd->decode(&(pane_codes){ .codes = in + codes_at(k), .stride = (size_t)4 * bits_of(k), .n = k->d, .groups = 1, .bits = bits_of(k),
                              .s = s, .m = m }, turned);
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t c = 0; c < k->d; c++) out[(size_t)r * pane_ld(k->d) + c] = turned[(size_t)c * PANE_ROWS + first + r];
}

void pane_decode(const pane_reader *rd, const pane_kind *k, const unsigned char *in, uint32_t first, uint32_t n, float *out)
{
    float s[PANE_ROWS * PANE_GROUP], m[PANE_ROWS * PANE_GROUP];
    assert(first + n <= PANE_ROWS);
    if (k->pack.kind == KV_PACK_RAW) {
        decode_raw(rd, k, in, first, n, out);
        return;
    }
    if (k->turned) {
        decode_turned(rd, k, in, first, n, out);
        return;
    }
    scales_read(rd, k, in, first, n, s, m);
    bool by_channel = k->pack.kind == KV_PACK_CHANNEL || (k->pack.kind == KV_PACK_NUQ && k->key);
    pane_codes c = { .codes = in + codes_at(k) + first * row_codes(k), .stride = row_codes(k), .n = n, .groups = pane_groups(k->d),
                     .bits = bits_of(k), .s = s, .m = m, .by_channel = by_channel };
    if (k->pack.kind == KV_PACK_NUQ) c.book = k->out_book;
    rd->decode(&c, out);
    if (k->pack.kind == KV_PACK_NUQ) outliers_set(k, in, first, n, out);
}
