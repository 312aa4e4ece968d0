/* Architectures against a peer's logits (tests/data/arch-*.json say how they were made): random models that this test writes
 * itself, through a cluster of two stages, prompt and decode rows, plain C and AVX2. Prints one table row a model and way. */
#include "engine/model_random.h"
#include "tests/flow/rig.h"
#include "tests/support.h"
#include "tests/support_kl.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdlib.h>

TestSuite(arch, .timeout = 300);

#define F32_MAX 2e-3            /* of the largest |logit|: two ways of rounding in f32 */
#define MOST 64u                /* positions, columns */

typedef struct {
    char name[96], shape[32], quant[8], file[256];
    uint32_t seed, ctx, n, n_cols, ids[MOST], best[MOST], col[MOST];
    double logit[MOST][MOST], max, own_kl;
} ref;

/* ---- reading refs -------------------------------------------------------------------------------------------------- */

static uint32_t read_ids(const json_t *o, const char *key, uint32_t *out)
{
    const json_t *list = json_object_get(o, key);
    uint32_t n = (uint32_t)json_array_size(list);
    cr_assert(n > 0 && n <= MOST, "%s: %u", key, n);
    for (uint32_t i = 0; i < n; i++) out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return n;
}

static void read_ref(ref *r, const char *name)
{
    char path[160];
    snprintf(path, sizeof path, "tests/data/%s", name);
    json_t *o = json_load_file(support_root(path), 0, NULL);
    cr_assert_not_null(o, "%s is no JSON", name);
    *r = (ref){ .seed = (uint32_t)json_integer_value(json_object_get(o, "seed")),
                .ctx = (uint32_t)json_integer_value(json_object_get(o, "n_ctx")),
                .max = json_number_value(json_object_get(o, "max")), .own_kl = json_number_value(json_object_get(o, "own_kl")) };
    snprintf(r->name, sizeof r->name, "%.*s", (int)strlen(name) - 10, name + 5);
    snprintf(r->shape, sizeof r->shape, "%s", json_string_value(json_object_get(o, "shape")));
    snprintf(r->quant, sizeof r->quant, "%s", json_string_value(json_object_get(o, "quant")));
    r->n = read_ids(o, "tokens", r->ids);
    cr_assert_eq(read_ids(o, "best", r->best), r->n);
    r->n_cols = read_ids(o, "columns", r->col);
    for (uint32_t i = 0; i < r->n; i++)
        for (uint32_t k = 0; k < r->n_cols; k++)
            r->logit[i][k] = json_number_value(json_array_get(json_array_get(json_object_get(o, "logits"), i), k));
    json_decref(o);
}

static void make_model(const char *shape, const char *quant, uint64_t seed, char *path, size_t cap)
{
    err e = { 0 };
    snprintf(path, cap, "%s/%s-%s.gguf", support_tmpdir(), shape, quant);
    cr_assert_eq(model_random_write(shape, quant, seed, path, NULL, NULL, &e), ERR_OK, "%s", e.text);
}

/* ---- distances ----------------------------------------------------------------------------------------------------- */

/* Largest distance of the logits that the ref has, as a part of the largest logit. */
static double far(const ref *r, const rig_job *j)
{
    double most = 0;
    for (uint32_t i = 0; i < r->n; i++)
        for (uint32_t k = 0; k < r->n_cols; k++) {
            double d = fabs((double)j->full[(size_t)i * j->vocab + r->col[k]] - r->logit[i][k]);
            if (!(d <= most)) most = d;
        }
    return most / r->max;
}

/* The peer's best token is ours too, or ours is better by less than the tolerance. */
static uint32_t best_differ(const ref *r, const rig_job *j)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        const float *row = j->full + (size_t)i * j->vocab;
        float top = row[0];
        for (uint32_t k = 1; k < j->vocab; k++) top = row[k] > top ? row[k] : top;
        n += !((double)(top - row[r->best[i]]) <= 2 * F32_MAX * r->max);
    }
    return n;
}

/* ---- the checks ---------------------------------------------------------------------------------------------------- */

static const char *const roles[] = { "prompt", "decode" };

static rig *open_ref(const ref *r, isa use, const char *arith)
{
    return rig_open(&(rig_options){ .model = r->file, .stages = 2, .use = use, .kv = "f16", .ctx = r->ctx, .arith = arith });
}

static rig_job *score(rig *g, const ref *r, uint32_t role)
{
    rig_job *j = rig_do(g, rig_score(role), &(rig_input){ .ids = r->ids, .n = r->n });
    cr_assert(!j->fail.code && j->n_full == r->n && j->vocab > r->col[r->n_cols - 1], "%s: %s", r->name, j->fail.text);
    return j;
}

/* Weights turned to f32: the peer's logits, of the file itself or of what it holds. */
static rig_job *check_near(const ref *r, rig *g, uint32_t role, isa use)
{
    rig_job *j = score(g, r, role);
    double d = far(r, j);
    uint32_t n = best_differ(r, j);
    bool ok = d <= F32_MAX && !n;
    printf("# %-22s %-6s %-5s max|d|/max|l| %.2e  (limit %.1e), best token differs %u times  %s\n", r->name, roles[role],
           isa_name(use), d, F32_MAX, n, ok ? "ok" : "FAIL");
    cr_expect(ok, "%s %s %s", r->name, roles[role], isa_name(use));
    return j;
}

static void check_kl(const ref *r, const rig_job *truth, const rig_job *j, uint32_t role, isa use)
{
    double kl = support_mean_kl(truth->full, j->full, r->n, j->vocab), limit = support_kl_limit(r->own_kl);
    bool ok = kl <= limit;
    printf("# %-22s %-6s %-5s KL(truth||ours) %.2e  the peer's %.2e  limit %.2e  %s\n", r->name, roles[role], isa_name(use), kl,
           r->own_kl, limit, ok ? "ok" : "FAIL");
    cr_expect(ok, "%s %s %s", r->name, roles[role], isa_name(use));
}

static void check_isa(const ref *r, isa use)
{
    bool quant = strcmp(r->quant, "F32");
    rig *g = open_ref(r, use, "f32"), *q = quant ? open_ref(r, use, "i8b32") : NULL;
    for (uint32_t role = 0; role < 2; role++) {
        rig_job *truth = check_near(r, g, role, use);
        if (quant) check_kl(r, truth, score(q, r, role), role, use);
    }
    rig_close(&g);
    if (q) rig_close(&q);
    fflush(stdout);
}

static bool is_ref(const char *name, const char *arch)
{
    size_t n = strlen(name);
    return n > 10 && !strncmp(name, "arch-", 5) && !strcmp(name + n - 5, ".json") && strstr(name, arch);
}

static void check_arch(const char *arch, uint32_t want)
{
    static ref r;
    uint32_t n = 0;
    DIR *d = opendir(support_root("tests/data"));
    cr_assert_not_null(d);
    for (const struct dirent *f; (f = readdir(d));) {
        if (!is_ref(f->d_name, arch)) continue;
        read_ref(&r, f->d_name);
        make_model(r.shape, r.quant, r.seed, r.file, sizeof r.file);
        for (isa i = ISA_PLAIN; i <= ISA_AVX2; i++)
            if (isa_supported() >> i & 1) check_isa(&r, i);
        n++;
    }
    closedir(d);
    cr_expect_eq(n, want, "%u refs of %s", n, arch);
}

Test(arch, gemma2_agrees_with_a_peer) { check_arch("gemma2", 3); }
Test(arch, gemma3_agrees_with_a_peer) { check_arch("gemma3", 3); }
Test(arch, phi3_agrees_with_a_peer_with_both_sets_of_rope_factors) { check_arch("phi", 3); }
Test(arch, a_window_in_a_llama_file_is_ignored_as_the_peer_does) { check_arch("mistral", 1); }

/* ---- shapes -------------------------------------------------------------------------------------------------------- */

static model_shape shape_of(const char *name)
{
    char path[256];
    gguf *g;
    model_shape s;
    err e = { 0 };
    make_model(name, "Q8_0", 1, path, sizeof path);
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_shape_read(&s, g, &e), ERR_OK, "%s", e.text);
    gguf_close(&g);
    return s;
}

Test(arch, what_no_key_states_follows_from_the_architecture)
{
    model_shape g2 = shape_of("deep-gemma2"), big = shape_of("deeper-gemma2"), g3 = shape_of("micro-gemma3");
    model_shape p = shape_of("micro-phi"), m = shape_of("micro-mistral");
    cr_expect(g2.look.global_every == 2 && g2.look.scale == 0 && g2.gelu && g2.embed_scale == 8, "gemma2");
    cr_expect(big.look.scale == 0.25f, "27B: 1/sqrt(D/H), not 1/sqrt(d): %g", (double)big.look.scale);
    cr_expect(g3.look.global_every == 6 && g3.look.local_base == 10000 && !(g3.look.soft_cap > 0) && g3.rope.factor == 8, "gemma3");
    cr_expect(p.look.window == 14 && !p.look.global_every && !p.gelu, "phi3");
    cr_expect(p.rope.scaling == ROPE_LONG && p.rope.orig_ctx == 256, "phi3, rope");
    cr_expect(!m.look.window, "a llama file");
}
