/* From a profile's section kv to the tables of a KV store: what is written arrives, a stage gets its layers only, what cannot be is
 * refused by name, and what is left out is missed by the policies that need it. */
#include "engine/profile_kv.h"
#include "kvstore/policy.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { L = 4, H = 6, K = 3, D = 8, ALL = 99 };
static const profile_binding bound = { "0123456789abcdef0123456789abcdef", NULL, "i8b32" };
static char path[128];

static model_shape shape(void) { return (model_shape){ .L = L, .H = H, .K = K, .d = D }; }

static void make_path(void)
{
    snprintf(path, sizeof path, "%s/m.profile.gguf", support_tmpdir());
    unlink(path);
}
TestSuite(profile_kv, .init = make_path);

/* Thing number `bad` is spoilt, number `absent` left out (ALL: none). */
static const char *const things[] = { "k_lo", "k_hi", "lut_k2", "lut_v2", "lut_k3", "lut_v3", "lut_k4", "lut_v4",
                                      "qnorm_k2", "qnorm_v2", "local", "alpha", "semantic", "layer_error" };
enum { THINGS = sizeof things / sizeof *things };

static void thing(int t, uint32_t layer, float *x, uint32_t *n0, uint32_t *n1)
{
    *n1 = t < 2 ? K : 1;
    *n0 = t < 2 ? D : t < 8 ? 1u << (2 + (t - 2) / 2) : t < 10 ? 2 : t < 12 ? K : t == 12 ? 4 : L;
    for (uint32_t i = 0; i < *n0 * *n1; i++)
        x[i] = t == 0 ? -1 - (float)(i + layer) : t == 1 ? 1 + (float)(i + layer) : t < 8 ? -1 + (2 * (float)i + 1) / (float)*n0
               : t < 10 ? 1 - (float)i : t == 10 ? (float)((i + layer) % 2) : t == 11 ? 0.25f * (float)i : t == 12 ? (float)(i + layer) : 1.0f / L;
}

static void spoil(int t, float *x)
{
    static const float wrong[] = { 1e6f, 1e6f, 2, 2, 2, 2, 2, 2, -1, 0, 0.5f, 1.5f, 1.25f, -0.1f };
    x[0] = wrong[t];
}

static void write_file(int bad, int absent)
{
    profile_writer *w;
    err e;
    cr_assert_eq(profile_writer_open(&w, path, &bound, L, 1u << PROFILE_KV, &e), ERR_OK, "%s", e.text);
    for (int t = 0; t < THINGS; t++)
        for (uint32_t l = 0; l < L; l++) {
            float x[64];
            uint32_t n0, n1;
            if (t == absent || (t == 13 && l)) continue;
            thing(t, l, x, &n0, &n1);
            if (t == bad) spoil(t, x);
            profile_put_floats(w, PROFILE_KV, t == 13 ? PROFILE_WHOLE : l, things[t], WTYPE_F32, n0, n1, x);
        }
    cr_assert_eq(profile_writer_commit(w, &e), ERR_OK, "%s", e.text);
    profile_writer_close(&w);
}

static err_code tables(profile_kv **t, const model_shape *s, uint32_t first, uint32_t last, err *e)
{
    profile *p;
    cr_assert_eq(profile_open(&p, path, &bound, e), ERR_OK, "%s", e->text);
    err_code rc = profile_kv_open(t, p, s, first, last, e);
    profile_close(&p);
    return rc;
}

Test(profile_kv, a_stage_gets_its_layers)
{
    model_shape s = shape();
    profile_kv *t;
    err e;
    write_file(ALL, ALL);
    cr_assert_eq(tables(&t, &s, 1, 3, &e), ERR_OK, "%s", e.text);
    const kv_tables *k = profile_kv_tables(t);
    cr_assert(k->first == 1 && k->last == 3);
    cr_assert_eq(k->k_lo[0], -2, "layer 1");
    cr_assert_eq(k->k_hi[K * D + 1], 4, "layer 2, channel 1");
    cr_assert_eq(k->lut_v[3][8 + 7], 0.875f);
    cr_assert_eq(k->qnorm_k[2][0], 1);
    cr_assert_null(k->qnorm_k[3]);
    cr_assert(k->local[0] == 1 && k->local[1] == 0 && k->local[K] == 0);
    cr_assert_eq(k->alpha[K + 2], 0.5f);
    cr_assert(k->semantic[0] == 1 && k->semantic[4 + 3] == 5);
    cr_assert_eq(k->layer_error[3], 0.25f, "of all layers");
    profile_kv_close(&t);
}

Test(profile_kv, values_that_cannot_be_are_refused_by_name)
{
    model_shape s = shape();
    for (int i = 0; i < THINGS; i++) {
        profile_kv *t;
        err e;
        write_file(i, ALL);
        cr_assert_eq(tables(&t, &s, 0, L, &e), ERR_MODEL, "%s with a wrong value was taken", things[i]);
        cr_assert_null(t);
        cr_assert(strstr(e.text, things[i]), "%s: %s", things[i], e.text);
    }
}

Test(profile_kv, a_profile_of_other_dimensions_is_refused)
{
    model_shape wide = shape(), many = shape();
    profile_kv *t;
    err e;
    wide.d = D * 2;
    many.K = K + 1;
    write_file(ALL, ALL);
    cr_assert_eq(tables(&t, &wide, 0, L, &e), ERR_MODEL);
    cr_assert(strstr(e.text, "k_lo"), "%s", e.text);
    cr_assert_eq(tables(&t, &many, 0, L, &e), ERR_MODEL);
}

Test(profile_kv, what_is_left_out_is_missed_by_the_policy_that_needs_it)
{
    static const struct { const char *text; int needs; } row[] = {
        { "[format]\nk=nuq3\nv=token4\n", 0 },
        { "[format]\nk=nuq3\nv=token4\n", 4 },
        { "[format]\nk=channel4\nv=nuq2\n", 3 },
        { "[keep]\nscore=position\nroles=razor\nwindow=8\n", 10 },
        { "[keep]\nscore=position\nroles=alpha\nwindow=8\nalpha=0.5\n", 11 },
        { "[keep]\nscore=semantic\nrows=64\n", 12 },
        { "[keep]\nscore=knorm\nbudget=layer-error\nrows=64\n", 13 },
        { "[keep]\nscore=knorm\nrows=64\n", ALL },
    };
    model_shape s = shape();
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        profile_kv *whole, *lacks;
        kv_policy p;
        err e;
        cr_assert_eq(kv_policy_parse(&p, row[i].text, strlen(row[i].text), "test", &e), ERR_OK, "%s", e.text);
        write_file(ALL, ALL);
        cr_assert_eq(tables(&whole, &s, 0, L, &e), ERR_OK, "%s", e.text);
        cr_assert_null(kv_tables_lack(profile_kv_tables(whole), 0, L, &p), "policy %zu", i);
        cr_assert_null(kv_tables_lack(profile_kv_tables(whole), 1, 2, &p));
        cr_assert_eq(kv_tables_lack(NULL, 0, L, &p) == NULL, row[i].needs == ALL);
        cr_assert_eq(kv_tables_lack(profile_kv_tables(whole), 0, L + 1, &p) == NULL, row[i].needs == ALL, "layers beyond the tables");
        write_file(ALL, row[i].needs);
        cr_assert_eq(tables(&lacks, &s, 0, L, &e), ERR_OK, "%s", e.text);
        cr_assert_eq(kv_tables_lack(profile_kv_tables(lacks), 0, L, &p) == NULL, row[i].needs == ALL, "policy %zu", i);
        profile_kv_close(&whole);
        profile_kv_close(&lacks);
    }
}

Test(profile_kv, a_section_that_is_there_for_some_layers_is_refused)
{
    model_shape s = shape();
    profile_kv *t;
    profile_writer *w;
    err e;
    cr_assert_eq(profile_writer_open(&w, path, &bound, L, 1u << PROFILE_KV, &e), ERR_OK);
    profile_put_floats(w, PROFILE_KV, 2, "alpha", WTYPE_F32, K, 1, (float[K]){ 0 });
    cr_assert_eq(profile_writer_commit(w, &e), ERR_OK);
    profile_writer_close(&w);
    cr_assert_eq(tables(&t, &s, 0, L, &e), ERR_MODEL);
    cr_assert(strstr(e.text, "alpha"), "%s", e.text);
    cr_assert_eq(tables(&t, &s, 2, 3, &e), ERR_OK, "that layer alone is whole: %s", e.text);
    profile_kv_close(&t);
}

Test(profile_kv, without_the_section_there_are_no_tables)
{
    model_shape s = shape();
    profile_kv *t;
    profile_writer *w;
    err e;
    cr_assert_eq(profile_writer_open(&w, path, &bound, L, 1u << PROFILE_ROUTE, &e), ERR_OK);
    cr_assert_eq(profile_writer_commit(w, &e), ERR_OK);
    profile_writer_close(&w);
    cr_assert_eq(tables(&t, &s, 0, L, &e), ERR_OK);
    cr_assert_null(t);
    cr_assert_null(profile_kv_tables(t));
}
