/* The text of a policy: what it says comes back, and what cannot work is refused with a reason. */
#include "kvstore/policy.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static err_code parse(kv_policy *p, const char *text, err *e) { return kv_policy_parse(p, text, strlen(text), "x.ini", e); }

Test(kv_policy, text_comes_back_as_the_same_policy)
{
    static const char *const texts[] = {
        "", "[format]\nk = q8_0\nv=q4_0+h ; a reason\n", "[policy]\nname=a-b+c.1\n[format]\nk=kivi2\nv=kivi2\nresidual=64\n",
        "[format]\nk=kvquant3\nv=token3\n[keep]\nsinks=4\n", "[format]\nk=channel8\nv=token8\nlevels=8,4,2\n",
        "[keep]\nscore=snapkv\nrows=128\nwindow=32\nsinks=4\npool=5\nbudget=pyramid\nselect=two-stage\nshare=1\n",
        "[keep]\nscore=random\nshare=0.333333343\nseed=18446744073709551615\n",
        "[keep]\nscore=h2o\nbudget=mass\ntau=0.975\n[change]\nmerge=nearest\nprune=think\nprune_share=0.25\n",
        "[change]\nretrieve=tidal\nretrieve_rows=64\nretrieve_every=6\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        kv_policy a, b;
        err e = { 0 };
        char text[KV_POLICY_TEXT], again[KV_POLICY_TEXT];
        cr_assert_eq(parse(&a, texts[i], &e), ERR_OK, "%s", e.text);
        kv_policy_print(&a, text);
        cr_assert_eq(parse(&b, text, &e), ERR_OK, "%s", e.text);
        kv_policy_print(&b, again);
        cr_assert_str_eq(again, text);
        cr_assert(!memcmp(&a.k, &b.k, sizeof a.k) && !memcmp(&a.v, &b.v, sizeof a.v) && !memcmp(a.levels, b.levels, sizeof a.levels));
        cr_assert(a.rows == b.rows && a.share == b.share && a.seed == b.seed && a.see == b.see && a.lossy == b.lossy);
        cr_assert_eq(a.lossy, i > 0, "%s", texts[i]);
    }
}

Test(kv_policy, what_cannot_work_is_refused_with_its_reason)
{
    static const struct { const char *text, *why; } bad[] = {
        { "[keep]\nscore = best\n", "x.ini: keep.score = \"best\"" },
        { "[keep]\nrow = 1\n", "keep.row" },
        { "[kept]\nrows = 1\n", "kept.rows" },
        { "[keep]\nrows = 1\nrows = 2\n", "given twice" },
        { "[keep]\nrows = 1.5\nscore=knorm\n", "\"1.5\"" },
        { "[keep]\nshare = nan\n", "\"nan\"" },
        { "[keep\nrows = 1\n", "x.ini:1" },
        { "[format]\nk = q5_0\n", "q5_0" },
        { "[format]\nv = channel4\n", "values" },
        { "[format]\nk = channel4+h\n", "Hadamard" },
        { "[format]\nk = q4_0+s\n", "small scales" },
        { "[format]\nk = nuq8\n", "nuq8" },
        { "[format]\nlevels = 4,8\n", "falling" },
        { "[format]\nk=kivi4\nv=kivi4\nlevels = 8,4,2\n", "begins" },
        { "[format]\nresidual = 40\n", "multiple of 32" },
        { "[policy]\nname = a/b\n", "a/b" },
        { "[keep]\nrows = 64\n", "keep.score" },
        { "[keep]\nscore = knorm\n", "no use" },
        { "[keep]\nscore = knorm\nrows=64\nshare=0.5\n", "one of them" },
        { "[keep]\nscore = knorm\nrows=64\nwindow=62\nsinks=4\n", "always kept" },
        { "[keep]\nscore = random\nrows=64\nbudget=adakv\n", "adakv" },
        { "[keep]\nscore = knorm\nbudget=mass\n", "mass" },
        { "[format]\nk = q8_0+h\n[change]\nprune=think\n", "Hadamard" },
        { "[change]\nmerge=nearest\n", "merge" },
        { "[change]\nretrieve=tidal\n[keep]\nscore=knorm\nrows=64\n", "retrieve" },
        { "[keep]\nscore=position\nrows=64\npool=4\n", "odd" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kv_policy p = { .rows = 77 };
        err e = { 0 };
        cr_assert_eq(parse(&p, bad[i].text, &e), ERR_CONFIG, "%s", bad[i].text);
        cr_assert(strstr(e.text, bad[i].why), "%s: %s", bad[i].text, e.text);
        cr_assert_eq(p.rows, 77);
    }
}
