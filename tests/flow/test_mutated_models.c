/* A thousand small models, each broken a little, through the real engine: opened, shape and vocabulary read, weights
 * mapped, tokenized, and run for a step where all that worked. Each is refused with words or computes something; none
 * crashes, hangs or takes memory without bound. Children do the work, so that a crash names the mutation. */
#include "core/rng.h"
#include "engine/forward.h"
#include "engine/model_random.h"
#include "engine/tokenizer.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MUTATIONS 1000
#define PER_CHILD 50
#define HANG_SECONDS 5
#define MEMORY_MAX (3ull << 30)       /* address space of a child: the models have less than 2 MB */
#define ROWS 3u
#define CTX 32u

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

typedef struct { text bytes; size_t head; char name[24]; } seed_model;
typedef struct { uint32_t at, opened, mapped, stepped; char last[200]; } tally;     /* shared with the child */

static seed_model seeds[16];
static size_t n_seeds;

/* For children, where Criterion's asserts mean nothing. */
static void must(bool ok)
{
    if (!ok) _exit(91);
}

/* ---- the models to break */

static void add_seed(const char *shape, const char *quant)
{
    seed_model *s = &seeds[n_seeds++];
    char path[256];
    err e;
    gguf *g;
    snprintf(s->name, sizeof s->name, "%s-%s", shape, quant);
    snprintf(path, sizeof path, "%s/seed.gguf", support_tmpdir());
    cr_assert_eq(model_random_write(shape, quant, 7, path, NULL, NULL, &e), ERR_OK, "%s", e.text);
    cr_assert_eq(text_read_file(&s->bytes, path, 64 << 20, NULL), ERR_OK);
    cr_assert_eq(gguf_open(&g, path, &e), ERR_OK, "%s", e.text);
    s->head = s->bytes.len;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++)
        if (gguf_tensor_at(g, i)->offset < s->head) s->head = gguf_tensor_at(g, i)->offset;
    gguf_close(&g);
}

/* ---- mutations: draws are numbered, so a seed and a number give the same file again */

typedef struct { uint64_t seed, next; } dice;

static uint64_t roll(dice *d, uint64_t below) { return rng_u64(d->seed, d->next++) % below; }

static uint64_t odd_number(dice *d)
{
    static const uint64_t table[] = { 0, 1, 2, 3, 7, 31, 255, 256, 4095, 65535, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000,
                                      0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFE0, 0x4000000000000000 };
    return table[roll(d, sizeof table / sizeof *table)];
}

static void break_bytes(dice *d, text *t, size_t from, size_t to)
{
    for (uint64_t i = 0, n = 1 + roll(d, 8); i < n; i++) t->ptr[from + roll(d, to - from)] = (char)roll(d, 256);
}

static void break_word(dice *d, text *t, size_t from, size_t to)
{
    uint64_t v = odd_number(d), n = roll(d, 2) ? 8 : 4;
    memcpy(t->ptr + from + roll(d, to - from - 8), &v, n);
}

/* The number behind a key: what a file says of itself. */
static void break_key(dice *d, text *t, size_t head)
{
    static const char *const keys[] = { ".block_count", ".embedding_length", ".feed_forward_length", ".attention.head_count",
                                        ".attention.head_count_kv", ".attention.key_length", ".attention.value_length", ".rope.dimension_count",
                                        ".rope.freq_base", ".context_length", ".attention.layer_norm_rms_epsilon", ".attention.sliding_window",
                                        "_logit_softcapping", ".rope.scaling.attn_factor", ".original_context_length", "tokenizer.ggml.tokens",
                                        "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.merges",
                                        "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "general.architecture", "general.alignment" };
    const char *k = keys[roll(d, sizeof keys / sizeof *keys)];
    char *at = memmem(t->ptr, head, k, strlen(k));
    uint64_t v = odd_number(d);
    if (!at) break_word(d, t, 0, head);
    else if (roll(d, 4) == 0) at[strlen(k)] = (char)roll(d, 14);         /* another kind of value */
    else memcpy(at + strlen(k) + 4, &v, 4);
}

/* A row of the tensor table: dimensions, type or offset. */
static void break_tensor(dice *d, text *t, size_t head)
{
    static const char *const names[] = { "token_embd.weight", "output_norm.weight", "attn_q.weight", "attn_k.weight", "ffn_down.weight",
                                         "ffn_gate.weight", "attn_norm.weight", "rope_freqs.weight", "attn_q.bias", "attn_q_norm.weight" };
    const char *k = names[roll(d, sizeof names / sizeof *names)];
    char *at = memmem(t->ptr, head, k, strlen(k));
    uint64_t v = roll(d, 2) ? odd_number(d) : roll(d, 600);
    if (at) memcpy(at + strlen(k) + 4 * roll(d, 8), &v, roll(d, 2) ? 8 : 4);
    else break_word(d, t, 0, head);
}

/* What stands in one place, once more in another. */
static void break_order(dice *d, text *t, size_t head)
{
    size_t n = 1 + roll(d, 64), from = roll(d, head - n), to = roll(d, head - n);
    memmove(t->ptr + to, t->ptr + from, n);
}

static void mutate(dice *d, const seed_model *s, text *t)
{
    text_clear(t);
    must(text_add(t, s->bytes.ptr, s->bytes.len));
    switch (roll(d, 8)) {
    case 0: break_bytes(d, t, 0, s->head); break;
    case 1: break_bytes(d, t, 0, 400); break;                    /* magic, counts, the first keys */
    case 2: break_word(d, t, 0, s->head); break;
    case 3: t->len = roll(d, 2) ? roll(d, s->head) : roll(d, t->len); break;
    case 4: break_order(d, t, s->head); break;
    case 5: break_tensor(d, t, s->head); break;
    case 6: break_key(d, t, s->head); break;
    default: break_bytes(d, t, s->head, t->len); break_word(d, t, s->head, t->len);   /* weights: NaN and infinities too */
    }
}

/* ---- what is done with one */

/* The bytes only need to be looked at for a sanitizer. */
static volatile double sink;

static void tokenize(const gguf *g)
{
    static const char words[] = "Once upon a time,\n in 1845 \xE2\x82\xAC <s> \xFF\xFE abc\t\tQuestion: Who?";
    tokenizer *t;
    token_list ids = { 0 };
    text back = { 0 };
    err e;
    if (tokenizer_open(&t, g, &e)) return;
    for (int special = 0; special < 2; special++) tokenizer_encode(t, (view){ words, sizeof words - 1 }, true, special, &ids, &e);
    for (size_t i = 0; i < ids.n; i++) {
        must(ids.id[i] < tokenizer_vocab(t));
        tokenizer_piece(t, ids.id[i], true, &back, &e);
    }
    sink += (double)back.len;
    token_list_free(&ids);
    text_free(&back);
    tokenizer_close(&t);
}

static void step(const model *m, kv *store, pool *p, isa i)
{
    const model_shape *s = &m->shape;
    runner *r;
    kv_seq *q;
    err e;
    uint32_t slot[ROWS], ids[ROWS], pick = ROWS - 1;
    kv_row rows[ROWS];
    forward_row fr[ROWS];
    row_stats stats;
    candidate top[8];
    if (kv_seq_open(store, 1, &q, &e) || runner_open(&r, m, store, p, i, ROWS, &e)) return;
    float *h = calloc((size_t)ROWS * s->D, sizeof *h);
    for (uint32_t k = 0; k < ROWS; k++) rows[k] = (kv_row){ .row = k, .pos = k, .parent = k ? k - 1 : KV_ROW_NONE }, ids[k] = k % s->V;
    if (h && !kv_reserve(q, rows, ROWS, slot, &e)) {
        for (uint32_t k = 0; k < ROWS; k++) fr[k] = (forward_row){ .seq = q, .slot = slot[k], .path = PATH_I8B32 };
        runner_embed(r, ids, ROWS, h);
        runner_layers(r, fr, ROWS, h);
        const float *logits = runner_head(r, h, &pick, fr, 1, &stats);
        sink += (double)stats.max + forward_top(logits, s->V, top, 8);
    }
    free(h);
    runner_close(&r);
}

static void run_model(const gguf *g, const model_shape *s, tally *t)
{
    model *m;
    kv *store;
    pool *p;
    isa i;
    err e;
    if (model_open(&m, g, (shard){ 0, s->L, true, true }, &e)) return;
    t->mapped++;
    kv_geometry geo = forward_kv(s, 0, s->L);
    geo.n_ctx = CTX;
    if (!isa_pick(&i, &e) && (geo.isa = i, !kv_open(&store, &geo, &e))) {
        if (!pool_open(&p, 1, NULL, NULL, &e)) {
            step(m, store, p, i);
            t->stepped++;
            pool_close(&p);
        }
        kv_close(&store);
    }
    model_close(&m);
}

static void use(const char *path, tally *t)
{
    gguf *g;
    model_shape s;
    err e = { 0 };
    t->last[0] = 0;
    if (gguf_open(&g, path, &e)) {
        must(e.text[0] && e.code);                               /* refused, but not without a word */
        return;
    }
    t->opened++;
    tokenize(g);
    if (!model_shape_read(&s, g, &e)) run_model(g, &s, t);
    else must(e.text[0]);
    gguf_close(&g);
}

/* ---- children */

static _Noreturn void work(uint64_t seed, uint32_t from, uint32_t to, tally *t)
{
    char path[64];
    text bytes = { 0 };
    struct rlimit room = { MEMORY_MAX, MEMORY_MAX };
    if (!SANITIZED) setrlimit(RLIMIT_AS, &room);                 /* a sanitizer's shadow needs terabytes */
    int fd = memfd_create("mutant", 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    signal(SIGALRM, SIG_DFL);
    for (uint32_t i = from; i < to; i++) {
        dice d = { seed, (uint64_t)i << 20 };
        t->at = i;
        mutate(&d, &seeds[i % n_seeds], &bytes);
        if (ftruncate(fd, 0) || pwrite(fd, bytes.ptr, bytes.len, 0) != (ssize_t)bytes.len) _exit(90);
        alarm(HANG_SECONDS * (SANITIZED ? 10 : 1));
        use(path, t);
        alarm(0);
    }
    _exit(0);
}

Test(mutated_models, a_thousand_broken_files_crash_nothing_and_hang_nothing, .timeout = 300)
{
    static const char *const shapes[] = { "micro", "micro-llama3", "micro-qwen2", "micro-qwen3", "micro-gemma2", "micro-gemma3", "micro-phi" };
    uint64_t seed = support_seed();
    tally *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(t != MAP_FAILED);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) add_seed(shapes[i], "Q8_0");
    add_seed("micro", "F32");
    add_seed("micro-llama3", "Q4_0");
    for (uint32_t from = 0; from < MUTATIONS; from += PER_CHILD) {
        int how;
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) work(seed, from, from + PER_CHILD, t);
        cr_assert(pid > 0 && waitpid(pid, &how, 0) == pid);
        cr_assert(WIFEXITED(how) && !WEXITSTATUS(how), "mutation %u of seed %llu (%s): %s %d", t->at, (unsigned long long)seed,
                  seeds[t->at % n_seeds].name, WIFSIGNALED(how) ? "signal" : "status", WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
    }
    printf("# %u mutations: %u opened, %u mapped, %u computed a step\n", MUTATIONS, t->opened, t->mapped, t->stepped);
    cr_expect_gt(t->opened, MUTATIONS / 10, "too few get past the reader to say anything of what comes after");
    cr_expect_gt(t->stepped, MUTATIONS / 20);
    cr_expect_lt(t->mapped, MUTATIONS * 9 / 10, "nearly all are taken: what is broken is not looked at");
    for (size_t i = 0; i < n_seeds; i++) text_free(&seeds[i].bytes);
}
