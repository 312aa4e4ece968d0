/* The fuzz targets (tests/fuzz) as tests: their kept inputs in this build, and two thousand new inputs each by libFuzzer. Campaigns
 * are `make fuzz`. */
#include "core/rng.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIMIT_S 600 /* a sanitizer on a loaded machine */

TestSuite(fuzz, .timeout = 1200);

typedef struct { char name[32][48]; size_t n; } targets;

static targets list_targets(void)
{
    targets t = { .n = 0 };
    struct dirent **entry;
    int n = scandir(support_root("tests/fuzz"), &entry, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        const char *s = entry[i]->d_name;
        size_t len = strlen(s);
        if (!strncmp(s, "fuzz_", 5) && len > 7 && !strcmp(s + len - 2, ".c") && t.n < 32)
            snprintf(t.name[t.n++], sizeof t.name[0], "%.*s", (int)(len - 7), s + 5);
        free(entry[i]);
    }
    free(entry);
    cr_assert_gt(t.n, 10);
    return t;
}

/* The kept inputs of a target in a new folder; NULL: none are kept. */
static const char *unpack(const char *name)
{
    static char dir[256];
    char packed[512];
    int status;
    snprintf(packed, sizeof packed, "%s/%s.tar.gz", support_root("tests/fuzz/corpus"), name);
    snprintf(dir, sizeof dir, "%s/%s", support_tmpdir(), name);
    if (access(packed, R_OK)) return NULL;
    cr_assert(support_run((const char *const[]){ "mkdir", "-p", dir, NULL }, NULL, 60, &status, NULL, NULL) && !status);
    cr_assert(support_run((const char *const[]){ "tar", "-xzf", packed, "-C", dir, NULL }, NULL, 60, &status, NULL, NULL) && !status);
    return dir;
}

static void expect_fine(const char *name, const char *const argv[], text *out)
{
    text errs = { 0 };
    int status;
    cr_assert(support_run(argv, NULL, LIMIT_S, &status, out, &errs), "%s cannot be started", argv[0]);
    if (status) fprintf(stderr, "%s\n", errs.ptr ? errs.ptr : "");
    cr_expect_eq(status, 0, "fuzz_%s ends with %d", name, status);
    text_free(&errs);
}

Test(fuzz, the_kept_inputs_of_every_target_do_no_harm)
{
    targets t = list_targets();
    size_t replayed = 0;
    for (size_t i = 0; i < t.n; i++) {
        char bin[64];
        text out = { 0 };
        const char *dir = unpack(t.name[i]);
        snprintf(bin, sizeof bin, "tests/fuzz/fuzz_%s", t.name[i]);
        if (!dir) printf("# %s has no kept inputs yet (make fuzz, then make fuzz-keep F=%s)\n", t.name[i], t.name[i]);
        if (!dir) continue;
        expect_fine(t.name[i], (const char *const[]){ support_bin(bin), dir, NULL }, &out);
        replayed += out.ptr ? strtoul(out.ptr, NULL, 10) : 0;
        text_free(&out);
    }
    printf("# %zu targets, %zu kept inputs\n", t.n, replayed);
    cr_expect_gt(replayed, 50 * t.n);
}

Test(fuzz, two_thousand_new_inputs_for_every_target_do_no_harm)
{
    targets t = list_targets();
    char runs[] = "-runs=2000", seed[32], artifact[256];
    if (access(support_root("build/fuzz/fuzz_gguf"), X_OK))
        cr_skip_test("no libFuzzer here (clang and libclang-rt), or another build than MODE=release");
    snprintf(seed, sizeof seed, "-seed=%u", 1 + (uint32_t)support_seed() % 0xfffffff);
    for (size_t i = 0; i < t.n; i++) {
        char bin[64], fresh[256];
        const char *dir = unpack(t.name[i]);
        snprintf(bin, sizeof bin, "build/fuzz/fuzz_%s", t.name[i]);
        snprintf(fresh, sizeof fresh, "%s/fresh", support_tmpdir());
        snprintf(artifact, sizeof artifact, "-artifact_prefix=%s/crash-%s-", support_root("build/fuzz"), t.name[i]);
        int status;
        cr_assert(support_run((const char *const[]){ "mkdir", "-p", fresh, NULL }, NULL, 60, &status, NULL, NULL) && !status);
        expect_fine(t.name[i], (const char *const[]){ support_root(bin), seed, runs, "-max_len=16384", "-len_control=0", "-timeout=60",
                                                      artifact, fresh, dir ? dir : fresh, NULL }, NULL);
    }
}
