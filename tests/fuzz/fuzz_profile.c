/* Any bytes as a model's profile: opened, printed, its sections looked at, its KV tables and stand-ins taken for a small model as stages do.
 * Parser: engine/profile.c engine/profile_kv.c engine/profile_info.c engine/stand_in.c */
#include "engine/profile.h"
#include "engine/profile_kv.h"
#include "engine/stand_in.h"
#include "tests/fuzz/kit.h"
#include "tests/fuzz/made.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

#define DIGEST "0123456789abcdef0123456789abcdef"
enum { KV = 1 << PROFILE_KV, ROUTE = 1 << PROFILE_ROUTE, STAND = 1 << PROFILE_STAND, RANK = 8 };

/* `pick` says which tables are there, and spoils some of their values. */
static void put_kv(profile_writer *w, const model_shape *s, uint32_t pick)
{
    static const struct { const char *name; uint32_t per_head; float from, step; } tables[] = {
        { "k_lo", 1, -1, 0 }, { "k_hi", 1, 1, 0 }, { "local", 0, 1, 0 }, { "alpha", 0, 0.5f, 0 },
    };
    float x[256], book[16];
    for (uint32_t l = 0; l < s->L; l++) {
        for (uint32_t t = 0; t < 4; t++) {
            for (uint32_t i = 0; i < 256; i++) x[i] = tables[t].from * (pick % 11 == t + 1 ? -1.5f : 1);
            if (pick >> t & 1) profile_put_floats(w, PROFILE_KV, l, tables[t].name, WTYPE_F32, tables[t].per_head ? s->d : s->K, tables[t].per_head ? s->K : 1, x);
        }
        for (uint32_t i = 0; i < 16; i++) book[i] = (float)i * (pick % 13 == 5 ? -0.1f : 0.1f) - 0.5f;
        if (pick & 16) profile_put_floats(w, PROFILE_KV, l, "lut_k2", WTYPE_F32, 4, 1, book);
        if (pick & 32) profile_put_floats(w, PROFILE_KV, l, "qnorm_k2", WTYPE_F32, 2, 1, (float[]){ 1, 0 });
        if (pick & 64) profile_put_floats(w, PROFILE_KV, l, "semantic", WTYPE_F32, 4, 1, (float[]){ 1, 2, 3, pick % 17 == 3 ? 0.5f : 4 });
    }
    for (uint32_t i = 0; i < 256; i++) x[i] = pick % 19 == 4 ? 2 : 0.5f;
    if (pick & 128) profile_put_floats(w, PROFILE_KV, PROFILE_WHOLE, "layer_error", WTYPE_F32, s->L, 1, x);
}

static void put_stand_ins(profile_writer *w, const model_shape *s, uint32_t pick)
{
    double order[256], ratio[256];
    float *x = calloc((size_t)s->D * RANK, sizeof *x);
    if (!x) abort();
    for (uint32_t l = 0; l < s->L; l++) {
        wtype t = pick % 23 == 7 ? WTYPE_F32 : stand_in_type(s, RANK);
        order[l] = pick % 29 == 8 ? 0 : l;
        ratio[l] = pick % 31 == 9 ? -1 : 1.5;
        profile_put_floats(w, PROFILE_STAND, l, "a", t, s->D, RANK, x);
        profile_put_floats(w, PROFILE_STAND, l, "b", t, RANK, s->D, x);
        profile_put_floats(w, PROFILE_STAND, l, "bias", WTYPE_F32, s->D, 1, x);
    }
    profile_put_number(w, PROFILE_STAND, "rank", pick % 37 == 10 ? 1e6 : RANK);
    profile_put_numbers(w, PROFILE_STAND, "order", order, s->L);
    profile_put_numbers(w, PROFILE_ROUTE, "ratio_attn", ratio, s->L);
    profile_put_numbers(w, PROFILE_ROUTE, "ratio_ffn", ratio, s->L);
    free(x);
}

static size_t begin_with(uint32_t pick, uint8_t *out, size_t max)
{
    model_shape s = made_shape();
    profile_writer *w;
    err e;
    char path[128];
    snprintf(path, sizeof path, "%s", kit_path("begin.profile.gguf"));
    unlink(path);
    if (s.d * s.K > 256 || s.L > 256) abort();
    kit_must(profile_writer_open(&w, path, &(profile_binding){ DIGEST, pick % 3 ? "" : DIGEST, "i8b32" }, s.L, KV | ROUTE | STAND, &e), &e);
    put_kv(w, &s, pick);
    put_stand_ins(w, &s, pick);
    profile_put_numbers(w, PROFILE_ROUTE, "auc", (double[]){ 0.25, 0.5 }, 2);
    profile_put_text(w, PROFILE_ROUTE, "text", "words");
    profile_put_number(w, PROFILE_KV, "base", pick);
    kit_must(profile_writer_commit(w, &e), &e);
    profile_writer_close(&w);
    size_t n = kit_read(path, out, max);
    unlink(path);
    return n;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return kit_mutate(data, size, max, seed, begin_with);
}

static void look_at(const profile *p, profile_section s)
{
    double x[2];
    view v;
    err e = { 0 };
    if (profile_has(p, s) != !profile_need(p, s, &e)) abort();
    (void)profile_number(p, s, "base", x), (void)profile_numbers(p, s, "auc", x, 2);
    if (profile_text(p, s, "text", &v) && v.len && !memchr(v.ptr, 'w', v.len)) return;
    for (uint32_t l = 0; l < profile_layers(p) && l < 8; l++) {
        profile_data m;
        err_code rc = profile_map(p, s, l, "k_lo", &m, &e);
        kit_said(rc, &e);
        if (!rc) profile_unmap(&m);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static FILE *nowhere;
    model_shape s = made_shape();
    profile *p;
    profile_kv *t;
    err e = { 0 };
    if (!nowhere) nowhere = fopen("/dev/null", "we");
    const char *path = kit_file(0, data, size);
    err_code rc = profile_open(&p, path, &(profile_binding){ 0 }, &e);
    kit_said(rc, &e);
    if (rc) return 0;
    for (int i = 0; i < PROFILE_SECTIONS; i++) look_at(p, (profile_section)i);
    for (int json = 0; json < 2; json++) kit_must(profile_print(p, json, nowhere, &e), &e);
    if (profile_layers(p) == s.L) {
        rc = profile_kv_open(&t, p, &s, 0, s.L, &e);
        kit_said(rc, &e);
        if (!rc && t) profile_kv_close(&t);
        stand_ins *x;
        rc = stand_ins_open(&x, p, &s, 0, s.L, &e);
        kit_said(rc, &e);
        if (!rc) stand_ins_close(&x);
    }
    profile_close(&p);
    rc = profile_open(&p, path, &(profile_binding){ DIGEST, "", "i8b32" }, &e);
    kit_said(rc, &e);
    if (!rc) profile_close(&p);
    return 0;
}
