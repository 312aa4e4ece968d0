/* The numerics contract with the kernels of AMX, on machines without it: stages of a whole cluster run them over tiles in plain C
 * (tests/support_amx.h), which do what the manual says. On both paths of prompts, alone and beside stages of other instruction
 * sets, the bits are those of AVX-512. It is linked so that the machine seems to have AMX and kernels_for(ISA_AMX) is that table. */
#include "tests/flow/rig.h"
#include "tests/support.h"
#include "tests/support_amx.h"
#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(contract_tiles, .timeout = 300);

const kernels *__real_kernels_for(isa i);
const kernels *__wrap_kernels_for(isa i);
uint32_t __real_isa_supported(void);
uint32_t __wrap_isa_supported(void);

static kernels tiles;
static _Atomic uint32_t taken;         /* runners that have that table */

const kernels *__wrap_kernels_for(isa i)
{
    if (i != ISA_AMX) return __real_kernels_for(i);
    taken++;
    return &tiles;
}

uint32_t __wrap_isa_supported(void) { return __real_isa_supported() | 1u << ISA_AMX; }

enum { N = 77, NEW = 6 };              /* with chunks of 64: two pairs of strips, and one that is not full */
typedef struct { rig *g; rig_job *prompt, *decode, *drawn; } answers;

static answers run(const isa *each, uint32_t stages, const char *path, uint32_t chunk, uint64_t seed)
{
    uint32_t ids[N];
    for (uint32_t i = 0; i < N; i++) ids[i] = (uint32_t)support_draw(seed, i, 4096);
    answers r = { .g = rig_open(&(rig_options){ .model = support_root("models/sluice-tiny-aux-Q8_0.gguf"), .stages = stages, .threads = 2, .isas = each,
                                                .prompt_arith = path, .chunk = chunk, .max_rows = 128, .packed = true }) };
    rig_input all = { .ids = ids, .n = N };
    message drawn = rig_generate(NEW);
    drawn.submit.temperature = 0.9;
    drawn.submit.logprobs = 16;
    r.prompt = rig_submit(r.g, rig_score(0), &all);
    r.decode = rig_submit(r.g, rig_score(1), &(rig_input){ .ids = ids, .n = 12 });
    r.drawn = rig_submit(r.g, drawn, &all);
    rig_wait_all(r.g);
    cr_assert_eq(r.prompt->n_full, N, "%s", r.prompt->fail.text);
    return r;
}

static void hold(const char *path)
{
    static const isa wide[] = { ISA_AVX512VNNI }, amx[] = { ISA_AMX }, mixed[] = { ISA_AMX, ISA_AVX2, ISA_AMX };
    if (!support_amx(&tiles) || !support_amx_bf16(&tiles)) cr_skip("no AVX-512 with VNNI and BF16 on this machine");
    static const struct { const isa *each; uint32_t stages, chunk; } ways[] = { { amx, 1, 64 }, { mixed, 3, 128 }, { amx, 1, 23 } };
    uint64_t seed = support_seed();
    answers want = run(wide, 1, path, 64, seed);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        uint32_t before = taken;
        kernel_counts k = kernels_counted();
        answers got = run(ways[i].each, ways[i].stages, path, ways[i].chunk, seed);
        cr_expect_gt(taken, before, "no stage had tiles");
        cr_expect_eq(kernels_counted().bf16_many > k.bf16_many, !strcmp(path, "bf16amx"));
        cr_expect(rig_same_rows(got.prompt, want.prompt, "logits, prompt role"));
        cr_expect(rig_same_rows(got.decode, want.decode, "logits, decode role"));
        cr_expect(rig_same_choice(&got.drawn->choice[0], &want.drawn->choice[0], "drawn tokens"));
        rig_close(&got.g);
    }
    rig_close(&want.g);
}

Test(contract_tiles, holds_for_i8b32) { hold("i8b32"); }
Test(contract_tiles, holds_for_bf16amx) { hold("bf16amx"); }
