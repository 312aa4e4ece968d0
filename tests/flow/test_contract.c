/* The numerics contract, bit for bit: random prompts give the same logits, tokens and log-probabilities whatever the number
 * of stages, chunk, threads, neighbours, prefill mode and instruction set. Every single change from a base way of running,
 * then CONTRACT_N (default 2) random combinations for each arithmetic of a model. */
#include "core/clock.h"
#include "engine/model_random.h"
#include "tests/flow/rig.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

TestSuite(contract, .timeout = 600);

#define STAGES_EACH 99u      /* a layer a stage */
#define CHUNK_ALL 512u       /* longer than any prompt here */
#define DECODED 20u          /* rows scored in the decode role, and tokens generated */
#define TOPS 64u             /* log-probabilities compared at each generated token */

/* One way of running a model. kv and path belong to what is computed, the rest must not matter. */
#define ISAS_MIXED ISA_COUNT /* one drawn for each stage */
typedef struct { uint32_t stages, chunk, threads, others; bool local, packed; int use; } way;
typedef struct { const char *kv, *path, *prompt; } arithmetic;   /* prompt NULL: the same */

typedef struct { const char *file; uint32_t L, V, n_ctx; uint64_t seed; uint32_t n; uint32_t ids[512]; } world;

/* What is compared: rows of logits in both roles, a greedy and a drawn continuation. */
typedef struct { rig *g; rig_job *prompt, *decode, *greedy, *drawn; } answers;

static way base = { .stages = 1, .chunk = 64, .threads = 1, .others = 0, .local = false, .packed = false, .use = ISA_PLAIN };
static const arithmetic ariths[] = { { "f16", "i8b32", NULL }, { "f32", "i8b32", NULL }, { "f16", "f32", NULL }, { "f32", "f32", NULL },
                                       { "f16", "i8b32", "bf16amx" } };
enum { ARITHS = sizeof ariths / sizeof *ariths };

static const char *way_text(const way *w, const arithmetic *a)
{
    static char line[176];
    snprintf(line, sizeof line, "stages=%u chunk=%u threads=%u others=%u prefill=%s weights=%s isa=%s kv=%s path=%s%s%s", w->stages, w->chunk, w->threads,
             w->others, w->local ? "local" : "pipeline", w->packed ? "packed" : "file", w->use == ISAS_MIXED ? "mixed" : isa_name((isa)w->use), a->kv, a->path, a->prompt ? " prompts=" : "",
             a->prompt ? a->prompt : "");
    return line;
}

/* ---- a model, a random prompt -------------------------------------------------------------------------------------- */

static void open_world(world *w, const char *path)
{
    err e;
    gguf *f;
    model_shape s;
    cr_assert_eq(gguf_open(&f, path, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(model_shape_read(&s, f, &e), ERR_OK, "%s", e.text);
    *w = (world){ .file = path, .L = s.L, .V = s.V, .n_ctx = s.n_ctx, .seed = support_seed() };
    gguf_close(&f);
    w->n = 66 + (uint32_t)support_draw(w->seed, 0, 24);     /* more than one chunk of 64 */
    for (uint32_t i = 0; i < w->n; i++) w->ids[i] = (uint32_t)support_draw(w->seed, 1 + i, w->V);
    printf("# %s: %u layers, prompt of %u random tokens\n", strrchr(path, '/') + 1, w->L, w->n);
}

/* The i-th of those that the machine has, over and over. */
static isa some_isa(uint64_t i)
{
    uint32_t has[ISA_COUNT], n = 0;
    for (uint32_t k = 0; k < ISA_COUNT; k++)
        if (isa_supported() >> k & 1) has[n++] = k;
    return (isa)has[i % n];
}

static uint32_t isa_number(void) { return (uint32_t)__builtin_popcount(isa_supported()); }

static rig *open_way(const world *m, const way *w, const arithmetic *a, uint64_t seed)
{
    isa each[64];
    uint32_t n = w->stages == STAGES_EACH ? m->L : w->stages < m->L ? w->stages : m->L;
    uint64_t shift = support_draw(seed, 7, isa_number());
    for (uint32_t i = 0; i < n; i++) each[i] = w->use == ISAS_MIXED ? some_isa(i + shift) : (isa)w->use;
    setenv("SLUICE_ISA", isa_name(w->use == ISAS_MIXED ? some_isa(shift + 1) : (isa)w->use), 1);   /* of the coordinator's own prefill */
    return rig_open(&(rig_options){ .model = m->file, .stages = n, .threads = w->threads, .isas = each, .kv = a->kv, .arith = a->path, .prompt_arith = a->prompt,
                                    .chunk = w->chunk, .max_rows = CHUNK_ALL, .prefill = w->local ? "local" : "pipeline", .packed = w->packed });
}

/* ---- running -------------------------------------------------------------------------------------------------------- */

/* Sessions that share steps with ours: their own prompts, half of them scoring, half generating. */
static void add_others(rig *g, const world *m, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t ids[40], len = 1 + (uint32_t)support_draw(m->seed, 1000 + i, 40);
        for (uint32_t k = 0; k < len; k++) ids[k] = (uint32_t)support_draw(m->seed, 2000 + 100 * i + k, m->V);
        message s = i % 2 ? rig_score(0) : rig_generate(DECODED);
        s.submit.score_rows = 0;
        rig_submit(g, s, &(rig_input){ .ids = ids, .n = len });
    }
}

static message drawn_message(void)
{
    message s = rig_generate(DECODED);
    s.submit.temperature = 0.9;
    s.submit.top_k = 40;
    s.submit.top_p = 0.95;
    s.submit.seed = 17;
    s.submit.logprobs = TOPS;
    return s;
}

static answers run_way(const world *m, const way *w, const arithmetic *a, uint64_t seed)
{
    answers r = { .g = open_way(m, w, a, seed) };
    rig_input all = { .ids = m->ids, .n = m->n }, few = { .ids = m->ids, .n = DECODED };
    message greedy = rig_generate(DECODED);
    greedy.submit.logprobs = TOPS;
    add_others(r.g, m, w->others / 2);
    r.prompt = rig_submit(r.g, rig_score(0), &all);
    if (!w->others) rig_wait(r.g, r.prompt);        /* alone means alone */
    r.decode = rig_submit(r.g, rig_score(1), &few);
    if (!w->others) rig_wait(r.g, r.decode);
    r.greedy = rig_submit(r.g, greedy, &all);
    if (!w->others) rig_wait(r.g, r.greedy);
    add_others(r.g, m, w->others - w->others / 2);
    r.drawn = rig_submit(r.g, drawn_message(), &few);
    rig_wait_all(r.g);
    return r;
}

/* Greedy tokens must be the argmax of what was scored, so that a rig which answers nonsense twice is not "the same". */
static bool sane(const answers *r, uint32_t n)
{
    if (r->prompt->fail.code || r->prompt->n_full != n || r->greedy->choice[0].n_tok != DECODED) return false;
    const float *row = r->prompt->full + (size_t)(n - 1) * r->prompt->vocab;
    uint32_t best = 0;
    for (uint32_t i = 0; i < r->prompt->vocab; i++) {
        if (!isfinite(row[i])) return false;
        if (row[i] > row[best]) best = i;
    }
    return best == r->greedy->choice[0].tok[0].id;
}

static bool same_answers(const answers *got, const answers *want, const char *what)
{
    bool ok = rig_same_rows(got->prompt, want->prompt, "logits, prompt role");
    ok &= rig_same_rows(got->decode, want->decode, "logits, decode role");
    ok &= rig_same_choice(&got->greedy->choice[0], &want->greedy->choice[0], "greedy tokens");
    ok &= rig_same_choice(&got->drawn->choice[0], &want->drawn->choice[0], "drawn tokens");
    if (!ok) printf("# DIFFERENT: %s\n", what);
    return ok;
}

/* ---- which ways ------------------------------------------------------------------------------------------------------ */

static const uint32_t stage_set[] = { 1, 2, 3, STAGES_EACH }, chunk_set[] = { 1, 7, 64, CHUNK_ALL };

/* deep: all; else those that another weight type can change, which are the kernels' own. */
static uint32_t single_changes(way *out, bool deep)
{
    for (uint32_t i = 0; i < 32; i++) out[i] = base;
    out[0].chunk = 7;
    out[1].threads = 2;
    for (uint32_t i = 0; deep && i < 3; i++) out[2 + i].stages = stage_set[1 + i];
    if (deep) out[5].chunk = 1, out[6].chunk = CHUNK_ALL, out[7].others = 7, out[8].local = true;
    uint32_t n = deep ? 9 : 2, kinds = isa_number();
    for (uint32_t i = 0; i < kinds; i++)
        for (int packed = !deep || some_isa(i) == (isa)base.use; packed < 2; packed++) out[n].packed = packed, out[n++].use = some_isa(i);
    for (uint32_t k = 2; kinds > 1 && k <= 3; k++) out[n].use = ISAS_MIXED, out[n].packed = k == 3, out[n++].stages = k;
    return n;
}

static way random_way(uint64_t seed, uint64_t i)
{
    uint64_t at = 100000 + 16 * i, use = support_draw(seed, at + 5, isa_number() + 1);
    return (way){ .stages = stage_set[support_draw(seed, at, 4)], .chunk = chunk_set[support_draw(seed, at + 1, 4)],
                  .threads = 1 + (uint32_t)support_draw(seed, at + 2, 2), .others = support_draw(seed, at + 3, 2) ? 7 : 0,
                  .local = support_draw(seed, at + 4, 2), .packed = support_draw(seed, at + 6, 4) != 0, .use = use == isa_number() ? (int)ISAS_MIXED : (int)some_isa(use) };
}

/* ---- counters --------------------------------------------------------------------------------------------------------- */

static kernel_counts since(kernel_counts a)
{
    kernel_counts b = kernels_counted();
#define X(n) b.n -= a.n;
    KERNEL_COUNTERS(X)
#undef X
    return b;
}

static void print_counts(const char *what, const arithmetic *a, const kernel_counts *k)
{
    printf("# kernels, path %-5s %-6s", a->prompt ? a->prompt : a->path, what);
#define X(n) printf(" %s=%llu", #n, (unsigned long long)k->n);
    KERNEL_COUNTERS(X)
#undef X
    printf("\n");
}

/* Prompt chunks of 64 rows must go through the kernels that take several rows, decoding through those for few. */
static void check_counts(const kernel_counts *k, const arithmetic *a, bool quant)
{
    bool q = quant && !strcmp(a->path, "i8b32"), other = quant && a->prompt;
    cr_expect_gt(other ? k->bf16_many : q ? k->quant_many : k->float_many, 0u, "no multi-row kernel ran");
    cr_expect_gt(q ? k->quant_few : k->float_few, 0u, "no few-row kernel ran");
    cr_expect_eq(other, k->bf16_few + k->bf16_many > 0);
    cr_expect(q || !(k->quant_few + k->quant_many), "a quantised kernel ran where float ones were due");
}

/* ---- the test of one model -------------------------------------------------------------------------------------------- */

static void compare(const world *m, const answers *want, const way *w, const arithmetic *a, uint64_t seed)
{
    uint64_t t = clock_ns();
    answers got = run_way(m, w, a, seed);
    if (getenv("CONTRACT_TIMES")) printf("# %5.0f ms %s\n", (double)(clock_ns() - t) / 1e6, way_text(w, a));
    cr_expect(same_answers(&got, want, way_text(w, a)), "%s", way_text(w, a));
    cr_expect_eq(got.greedy->choice[0].end.prefill_mode, w->local, "prefill was not as asked for");
    rig_close(&got.g);
}

static void hold(const world *m, const arithmetic *a, bool quant, bool singles, bool deep, uint32_t randoms)
{
    base.use = some_isa(isa_number() - 1);      /* the widest; plain C is much slower */
    kernel_counts k = kernels_counted();
    answers want = run_way(m, &base, a, m->seed);
    kernel_counts used = since(k);
    print_counts("base", a, &used);
    check_counts(&used, a, quant);
    cr_assert(sane(&want, m->n), "the base answers make no sense: %s %s", want.prompt->fail.text, want.greedy->fail.text);
    bool one = !a->prompt || !quant;
    cr_expect_eq(one, !memcmp(want.decode->full, want.prompt->full, (size_t)DECODED * m->V * sizeof(float)), "decode role against prompt role");
    way w[32];
    uint32_t n = singles ? single_changes(w, deep) : 0;
    for (uint32_t i = 0; i < randoms; i++) w[n++] = random_way(m->seed + (uint64_t)(a - ariths), i);
    k = kernels_counted();
    for (uint32_t i = 0; i < n; i++) compare(m, &want, &w[i], a, m->seed + i);
    used = since(k);
    print_counts("others", a, &used);
    printf("# %s: %u ways of running, kv %s, path %s\n", strrchr(m->file, '/') + 1, n + 1, a->kv, a->path);
    fflush(stdout);
    rig_close(&want.g);
}

static uint32_t random_count(void)
{
    const char *s = getenv("CONTRACT_N");
    return s ? (uint32_t)(strtoul(s, NULL, 10) % 16) : 2;
}

/* Single changes and random combinations on the default arithmetic and, of quantised types, on the second path of prompts; deep: random
 * combinations on the others too. */
static void contract_of(const char *path, bool quant, bool deep)
{
    world m;
    uint64_t t = clock_ns();
    open_world(&m, path);
    for (uint32_t i = 0; i < ARITHS; i++) {
        bool second = ariths[i].prompt != NULL;    /* its kernels are a type's own, too */
        if (!i || deep || second) hold(&m, &ariths[i], quant, i == 0 || (second && quant), deep && !i, (random_count() + (i > 0)) / (1 + (i > 0)));
    }
    printf("# %.1f s\n", (double)(clock_ns() - t) / 1e9);
}

Test(contract, holds_for_the_bundled_model)
{
    contract_of(support_root("models/sluice-tiny-Q8_0.gguf"), true, true);
}

/* ---- KV policies ------------------------------------------------------------------------------------------------------ */

/* One of each kind: packed only, evicted by what a row is, by what was observed, merged, pruned, in tiers; the last ones need what the
 * model's profile says (codebooks, head roles, semantic heads). */
static const char *const policies[] = {
    "[format]\nk=q8_0+h\nv=q4_0+h\n",
    "[format]\nk=kivi2\nv=kivi2\nresidual=32\n",
    "[change]\nretrieve=tidal\nretrieve_rows=40\n[keep]\nsinks=2\nwindow=8\n[format]\nk=q8_0\nv=q8_0\n",
    "[format]\nk=kivi8\nv=kivi8\nlevels=8,4,2\n",
    "[keep]\nscore=position\nrows=100\nsinks=4\nwindow=16\n",
    "[keep]\nscore=random\nshare=0.4\nsinks=4\nwindow=16\n[format]\nk=kivi4\nv=q8_0\n",
    "[keep]\nscore=h2o\nrows=100\nsinks=4\nwindow=16\n[format]\nk=kivi4\nv=kivi4\n",
    "[keep]\nscore=tova\nrows=100\nwindow=1\n[format]\nk=q8_0\nv=q8_0\n",
    "[keep]\nscore=snapkv\nrows=96\nwindow=16\nqueries=16\npool=5\nbudget=adakv\n",
    "[keep]\nscore=critic\nrows=96\nwindow=16\nqueries=8\n[format]\nk=q4_0+h\nv=token4\n",
    "[keep]\nscore=knorm\nrows=96\nwindow=16\nbudget=pyramid\n[change]\nmerge=nearest\n",
    "[keep]\nscore=h2o\nbudget=mass\ntau=0.8\nwindow=16\n[format]\nk=q8_0\nv=q8_0\nk2=token2\nv2=token2\n",
    "[change]\nprune=think\n[format]\nk=kivi4\nv=kivi4\n",
    "[keep]\nscore=keydiff\nshare=0.3\nsinks=4\nwindow=16\n[format]\nk=q4_0\nv=token3+h\n",
    "[keep]\nscore=expected\nrows=96\nwindow=16\nqueries=16\n[format]\nk=kivi3\nv=kivi3\nresidual=32\n",
    "[keep]\nscore=snapkv\nselect=two-stage\nrows=96\nwindow=16\nqueries=16\npool=5\n",
    "[keep]\nscore=critic\nbudget=pressure\nshare=0.5\nalpha=0.5\ntau=0.75\nwindow=16\nqueries=8\n",
    "[keep]\nscore=h2o\nshare=0.3\nwindow=16\n[change]\nmerge=nearest\nprune=think\n",
    "[format]\nk=kivi3+s\nv=kivi2+s\n",
    "[format]\nk=kvquant3\nv=kvquant2\n[keep]\nsinks=4\n",
    "[keep]\nscore=position\nroles=razor\nsinks=4\nwindow=16\n[change]\nmerge=compensate\n[format]\nk=kivi4\nv=kivi4\n",
    "[keep]\nscore=position\nroles=alpha\nalpha=0.5\nsinks=4\nwindow=32\n[format]\nk=kvquant4\nv=kivi3+s\n",
    "[keep]\nscore=semantic\nbudget=layer-error\nshare=0.3\nsinks=4\nwindow=8\nqueries=8\npool=5\n",
};

/* One thread, for short: threads share rows and heads, and every sum over rows is one of integers (kvstore/observe.h). */
static const way policy_ways[] = {
    { .stages = 2, .chunk = 7, .threads = 1 }, { .stages = 3, .chunk = 64, .threads = 1, .local = true },
    { .stages = 1, .chunk = CHUNK_ALL, .threads = 2, .others = 3 }, { .stages = 2, .chunk = CHUNK_ALL, .threads = 1, .local = true },
    { .stages = 1, .chunk = 1, .threads = 1 }, { .stages = 3, .chunk = 64, .threads = 1 },
    { .stages = 1, .chunk = 1, .threads = 1, .local = true },
};
enum { POLICIES = sizeof policies / sizeof *policies, WAYS = sizeof policy_ways / sizeof *policy_ways };

/* Greedy tokens behind the whole prompt, with log-probabilities; a bystander of half its length when others are wanted. */
static rig_job *run_greedy(const world *m, const way *w, const arithmetic *a, uint64_t seed, rig **g)
{
    message greedy = rig_generate(DECODED);
    greedy.submit.logprobs = TOPS;
    *g = open_way(m, w, a, seed);
    if (w->others) rig_submit(*g, rig_generate(DECODED), &(rig_input){ .ids = m->ids, .n = m->n / 2 });
    rig_job *j = rig_submit(*g, greedy, &(rig_input){ .ids = m->ids, .n = m->n });
    rig_wait_all(*g);
    return j;
}

static void hold_under(const world *m, uint32_t i, const rig_job *exact)
{
    char path[256];
    rig *g, *other;
    snprintf(path, sizeof path, "%s/policy-%u.ini", support_tmpdir(), i);
    FILE *f = fopen(path, "w");
    cr_assert(f && fputs(policies[i], f) >= 0 && !fclose(f));
    arithmetic a = { path, "i8b32", NULL };
    rig_job *want = run_greedy(m, &base, &a, m->seed, &g);
    cr_assert_eq(want->choice[0].n_tok, DECODED, "%s: %s", policies[i], want->fail.text);
    bool same = rig_same_choice(&want->choice[0], &exact->choice[0], "as without a policy");
    cr_expect(!same, "it does nothing: %s", policies[i]);
    for (uint32_t k = 0; k < 2; k++) {
        way w = policy_ways[(2 * i + k) % WAYS];
        w.use = w.stages > 1 ? (int)ISAS_MIXED : base.use;
        rig_job *got = run_greedy(m, &w, &a, m->seed + i, &other);
        cr_expect(rig_same_choice(&got->choice[0], &want->choice[0], policies[i]), "%s", way_text(&w, &a));
        cr_expect_eq(got->choice[0].end.prefill_mode, w.local, "prefill was not as asked for");
        rig_close(&other);
    }
    rig_close(&g);
}

/* A prompt that ends a few rows before 256, so that rows settle twice. */
Test(contract, holds_under_every_kind_of_kv_policy)
{
    world m;
    open_world(&m, support_root("models/sluice-tiny-Q8_0.gguf"));
    m.n = 241 + (uint32_t)support_draw(m.seed, 0, 14);
    for (uint32_t i = 0; i < m.n; i++) m.ids[i] = (uint32_t)support_draw(m.seed, 1 + i, m.V);
    base.use = some_isa(isa_number() - 1);
    rig *g;
    rig_job *exact = run_greedy(&m, &base, &ariths[0], m.seed, &g);
    for (uint32_t i = 0; i < POLICIES; i++) hold_under(&m, i, exact);
    printf("# %u policies, prompt of %u tokens\n", (unsigned)POLICIES, m.n);
    rig_close(&g);
}

static void contract_of_random(const char *shape, const char *quant)
{
    char path[256];
    err e;
    snprintf(path, sizeof path, "%s/%s-%s.gguf", support_tmpdir(), shape, quant);
    cr_assert_eq(model_random_write(shape, quant, 5, path, NULL, NULL, &e), ERR_OK, "%s", e.text);
    contract_of(path, true, true);
}

Test(contract, holds_for_gemma2_with_windows_and_caps) { contract_of_random("micro-gemma2", "Q8_0"); }
Test(contract, holds_for_gemma3_with_two_rope_bases) { contract_of_random("micro-gemma3", "Q4_0"); }
Test(contract, holds_for_phi3_with_fused_matrices) { contract_of_random("micro-phi", "Q8_0"); }

#define CONTRACT_SHARED(id, file, quant, deep)       \
    Test(contract, holds_for_##id)                   \
    {                                                \
        SHARED_OR_SKIP(path, "data/models/" file);   \
        contract_of(path, quant, deep);              \
    }
CONTRACT_SHARED(stories_in_f32, "stories260K-f32.gguf", false, true)
CONTRACT_SHARED(stories_in_q8_0_whose_ffn_is_no_multiple_of_32, "stories260K-q8_0.gguf", true, true)
CONTRACT_SHARED(qwen3_in_f32, "tiny-qwen3-f32.gguf", false, true)
CONTRACT_SHARED(bf16, "tiny-llama-BF16.gguf", false, false)
CONTRACT_SHARED(f16, "tiny-llama-F16.gguf", false, false)
CONTRACT_SHARED(q4_0, "tiny-llama-Q4_0.gguf", true, false)
CONTRACT_SHARED(q4_1, "tiny-llama-Q4_1.gguf", true, false)
CONTRACT_SHARED(q5_0, "tiny-llama-Q5_0.gguf", true, false)
CONTRACT_SHARED(q5_1, "tiny-llama-Q5_1.gguf", true, false)
CONTRACT_SHARED(q4_k, "tiny-llama-Q4_K.gguf", true, false)
CONTRACT_SHARED(q5_k, "tiny-llama-Q5_K.gguf", true, false)
CONTRACT_SHARED(q6_k, "tiny-llama-Q6_K.gguf", true, false)
