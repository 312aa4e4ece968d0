/* Logits and greedy tokens against llama.cpp's (refs in the shared data): a cluster of two stages, prompt and decode rows,
 * every instruction set of the machine. Prints one table row a
 * model and way. */
#include "tests/flow/rig.h"
#include "tests/support.h"
#include "tests/support_kl.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdlib.h>

TestSuite(golden, .timeout = 300);

#define F32_MAX 2e-3            /* of the largest |logit|: two ways of rounding in f32, over five to twelve layers */

typedef struct {
    char name[64], file[256];
    bool f32, truth;            /* truth: a dequantised reference is there */
    uint32_t V, n, n_greedy;
    uint32_t *prompt, *greedy;
    float *logits, *right;      /* [n][V] llama.cpp's, and the right ones (NULL without truth) */
} ref;

static const char *const roles[] = { "prompt", "decode" };   /* as SUBMIT.role numbers them */

/* ---- reading refs -------------------------------------------------------------------------------------------------- */

static uint32_t *read_ids(json_t *list, uint32_t *n)
{
    *n = (uint32_t)json_array_size(list);
    uint32_t *id = calloc(*n + 1, sizeof *id);
    for (uint32_t i = 0; i < *n; i++) id[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return id;
}

static float *read_rows(const char *name, const char *suffix, size_t n)
{
    char file[160];
    snprintf(file, sizeof file, "data/refs/%s.%s", name, suffix);
    const char *path = support_shared(file);
    if (!path) return NULL;
    text t = { 0 };
    err e;
    cr_assert_eq(text_read_file(&t, path, 1u << 30, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(t.len, n * sizeof(float), "%s has %zu bytes", file, t.len);
    float *x = malloc(t.len);
    memcpy(x, t.ptr, t.len);
    text_free(&t);
    return x;
}

static ref ref_read(const char *name)
{
    ref r = { 0 };
    char file[160];
    snprintf(r.name, sizeof r.name, "%s", name);
    snprintf(file, sizeof file, "data/models/%s.gguf", name);
    const char *path = support_shared(file);
    cr_assert_not_null(path, "a ref without its model: %s", name);
    snprintf(r.file, sizeof r.file, "%s", path);
    snprintf(file, sizeof file, "data/refs/%s.json", name);
    json_t *o = json_load_file(support_shared(file), 0, NULL);
    cr_assert_not_null(o, "%s is no JSON", file);
    r.V = (uint32_t)json_integer_value(json_object_get(o, "vocab"));
    r.prompt = read_ids(json_object_get(o, "prompt"), &r.n);
    r.greedy = read_ids(json_object_get(o, "greedy"), &r.n_greedy);
    json_decref(o);
    r.logits = read_rows(name, "logits.f32", (size_t)r.n * r.V);
    r.right = read_rows(name, "truth.logits.f32", (size_t)r.n * r.V);
    r.f32 = strlen(name) > 4 && !strcmp(name + strlen(name) - 4, "-f32");
    cr_assert_not_null(r.logits, "a ref without logits: %s", name);
    return r;
}

static void ref_free(ref *r)
{
    void *mem[] = { r->prompt, r->greedy, r->logits, r->right };
    for (size_t i = 0; i < sizeof mem / sizeof *mem; i++) free(mem[i]);
}

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

typedef struct { char at[64][64]; size_t n; } names;

static names ref_names(void)
{
    names l = { .n = 0 };
    DIR *d = opendir(support_shared("data/refs"));
    cr_assert_not_null(d);
    for (const struct dirent *f; l.n < 64 && (f = readdir(d));) {
        size_t n = strlen(f->d_name);
        if (n > 5 && n < 64 && !strcmp(f->d_name + n - 5, ".json")) snprintf(l.at[l.n++], sizeof l.at[0], "%.*s", (int)n - 5, f->d_name);
    }
    closedir(d);
    qsort(l.at, l.n, sizeof l.at[0], by_name);
    return l;
}

/* ---- distances ----------------------------------------------------------------------------------------------------- */

static double far(const float *a, const float *b, size_t n)    /* max |a - b| / max |b| */
{
    double most = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= most)) most = d;
        if (fabs((double)b[i]) > size) size = fabs((double)b[i]);
    }
    return most / size;
}

/* ---- the checks ---------------------------------------------------------------------------------------------------- */

/* An f32 file is held against llama.cpp's logits; another one by its distance from the truth, or, where llama.cpp left no
 * truth (its arithmetic is the file's own then), from llama.cpp. */
static bool check_rows(const ref *r, const rig_job *j, const char *role, const char *isa_word)
{
    bool ok;
    if (j->fail.code || j->n_full != r->n || j->vocab != r->V) {
        printf("# %s %s: %u rows of %u came: %s\n", r->name, role, j->n_full, j->vocab, j->fail.text);
        return false;
    }
    if (r->f32) {
        double d = far(j->full, r->logits, (size_t)r->n * r->V);
        ok = d <= F32_MAX;
        printf("# %-26s %-6s %-10s max|d|/max|l| %.2e  (limit %.1e)                      %s\n", r->name, role, isa_word, d, F32_MAX, ok ? "ok" : "FAIL");
    } else {
        double own = r->right ? support_mean_kl(r->right, r->logits, r->n, r->V) : 0;
        double kl = support_mean_kl(r->right ? r->right : r->logits, j->full, r->n, r->V);
        double limit = support_kl_limit(own);
        ok = kl <= limit;
        printf("# %-26s %-6s %-10s KL(%s||ours) %.2e  llama.cpp %.2e  limit %.2e  %s\n", r->name, role, isa_word, r->right ? "truth" : "llama", kl, own,
               limit, ok ? "ok" : "FAIL");
    }
    return ok;
}

static uint32_t agree(const ref *r, const rig_choice *c)
{
    uint32_t n = 0;
    while (n < r->n_greedy && n < c->n_tok && c->tok[n].id == r->greedy[n]) n++;
    return n;
}

static bool check_greedy(const ref *r, rig *g, const char *isa_word)
{
    rig_job *j = rig_do(g, rig_generate(r->n_greedy), &(rig_input){ .ids = r->prompt, .n = r->n });
    uint32_t n = agree(r, &j->choice[0]);
    bool ok = !j->fail.code && (n == r->n_greedy || !r->f32);
    printf("# %-26s greedy %-10s %u of %u tokens as llama.cpp%s  %s\n", r->name, isa_word, n, r->n_greedy, r->f32 ? "" : " (only reported)", ok ? "ok" : "FAIL");
    return ok;
}

typedef enum { GOOD, BAD, SKIPPED } outcome;

static outcome check_isa(const ref *r, isa use)
{
    err e;
    rig *g = rig_try_open(&(rig_options){ .model = r->file, .stages = 2, .use = use, .kv = "f32", .packed = true }, &e);
    if (!g && strstr(e.text, "cannot compute with")) return printf("# %-26s SKIPPED: %s\n", r->name, e.text), SKIPPED;
    if (!g) return printf("# %-26s FAIL: %s\n", r->name, e.text), BAD;
    bool ok = true;
    for (uint32_t role = 0; role < 2; role++) {
        rig_job *j = rig_do(g, rig_score(role), &(rig_input){ .ids = r->prompt, .n = r->n });
        ok &= check_rows(r, j, roles[role], isa_name(use));
    }
    ok &= check_greedy(r, g, isa_name(use));
    rig_close(&g);
    return ok ? GOOD : BAD;
}

static outcome check_ref(const char *name)
{
    ref r = ref_read(name);
    outcome worst = GOOD;
    for (int i = 0; i < ISA_COUNT; i++) {
        if (!(isa_supported() >> i & 1)) continue;
        outcome o = check_isa(&r, (isa)i);
        if (o != GOOD) worst = o;
        if (o == SKIPPED) break;
    }
    ref_free(&r);
    fflush(stdout);
    return worst;
}

Test(golden, logits_and_greedy_tokens_are_those_of_llama_cpp)
{
    SHARED_OR_SKIP(dir, "data/refs");
    (void)dir;
    names l = ref_names();
    uint32_t count[3] = { 0 };
    for (size_t i = 0; i < l.n; i++) {
        outcome o = check_ref(l.at[i]);
        count[o]++;
        cr_expect_neq(o, BAD, "%s", l.at[i]);
    }
    printf("# %u models agree, %u do not, %u skipped: their type is not supported\n", count[GOOD], count[BAD], count[SKIPPED]);
    cr_expect_geq(count[GOOD], 13, "only %u models were compared", count[GOOD]);
}
