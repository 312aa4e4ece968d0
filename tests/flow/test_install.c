#include "tests/support_programs.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What make install puts where, that it works from there, and that make uninstall takes it all away; man pages that render
 * without a warning, and completion that the shells can run. */

#define SECONDS 120

static char root[200];

static int tool(const char *const argv[], text *out, text *errs)
{
    int status = -99;
    if (!support_run(argv, NULL, SECONDS * programs_patience(), &status, out, errs)) return -99;
    return status;
}
#define TOOL(out, errs, ...) tool((const char *const[]){ __VA_ARGS__, NULL }, out, errs)

/* `make -C tree MODE=.. DESTDIR=.. PREFIX=/usr WHAT`; the make above us has flags that are not meant for this one. */
static void make(const char *what)
{
    char mode[200], dest[220];
    const char *bin = support_bin(""), *end = bin + strlen(bin);
    while (end > bin && end[-1] == '/') end--;
    const char *name = end;
    while (name > bin && name[-1] != '/') name--;
    snprintf(mode, sizeof mode, "MODE=%.*s", (int)(end - name), name);
    snprintf(dest, sizeof dest, "DESTDIR=%s", root);
    unsetenv("MAKEFLAGS");
    unsetenv("MAKELEVEL");
    unsetenv("MFLAGS");
    text errs = { 0 };
    int status = TOOL(NULL, &errs, "make", "-s", "-C", support_root(""), mode, dest, "PREFIX=/usr", what);
    cr_assert_eq(status, 0, "make %s: status %d: %s", what, status, errs.ptr ? errs.ptr : "");
    text_free(&errs);
}

static void install(void)
{
    programs_begin();
    snprintf(root, sizeof root, "%s/root", support_tmpdir());
    cr_assert_eq(mkdir(root, 0700), 0);
    make("install-files");
}

static const char *at(const char *name)
{
    static char path[8][400];
    static int i;
    char *p = path[i++ % 8];
    snprintf(p, sizeof path[0], "%s/usr/%s", root, name);
    return p;
}

TestSuite(install, .init = install, .timeout = 600);

Test(install, the_installed_program_finds_its_model_and_the_other_programs)
{
    const char *const argv[] = { at("bin/sluice"), "run", "-p", "Once upon a time", "-n", "3", "--json", NULL };
    ran r = program_run(0, SECONDS, NULL, argv);
    cr_assert_eq(r.status, 0, "%s", ran_errs(&r));
    json_t *o = ran_json(&r);
    cr_expect_eq(json_array_size(json_object_get(o, "tokens")), 3);
    json_decref(o);
    cr_assert(programs_gone(20));
}

Test(install, the_version_names_revision_and_instruction_set)
{
    text out = { 0 };
    cr_expect_eq(TOOL(&out, NULL, at("bin/sluice"), "--version"), 0);
    cr_assert_not_null(out.ptr);
    const char *rev = strstr(out.ptr, "(revision "), *isa = strstr(out.ptr, "instruction set ");
    cr_expect(rev && isa && strcspn(rev + 10, ",)") >= 7 && strcspn(isa + 16, ")") >= 4, "%s", out.ptr);
    text_free(&out);
}

static size_t count_files(const char *dir)
{
    text out = { 0 };
    size_t n = 0;
    TOOL(&out, NULL, "find", dir, "-type", "f");
    for (const char *c = out.ptr; c && *c; c++) n += *c == '\n';
    text_free(&out);
    return n;
}

Test(install, uninstall_takes_everything_away)
{
    cr_expect_gt(count_files(root), 30);
    make("uninstall");
    cr_expect_eq(count_files(root), 0, "%zu files stay", count_files(root));
}

static bool have(const char *name)
{
    return TOOL(NULL, NULL, "sh", "-c", "command -v \"$0\" >/dev/null", name) == 0;
}

/* Every page of the folder through groff; a warning is a failure. */
static size_t render(const char *dir)
{
    DIR *d = opendir(dir);
    size_t n = 0;
    cr_assert_not_null(d, "%s", dir);
    for (struct dirent *f; (f = readdir(d));) {
        char path[700];
        text out = { 0 }, errs = { 0 };
        if (f->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
        int status = TOOL(&out, &errs, "groff", "-man", "-Tutf8", "-ww", path);
        cr_expect(status == 0 && !errs.len, "%s: status %d, %s", f->d_name, status, errs.ptr ? errs.ptr : "");
        cr_expect(out.len > 400 && strstr(out.ptr, "SLUICE"), "%s renders to %zu bytes", f->d_name, out.len);
        n++;
        text_free(&out);
        text_free(&errs);
    }
    closedir(d);
    return n;
}

Test(install, man_pages_render_without_a_warning)
{
    if (!have("groff")) cr_skip_test("groff is absent");
    cr_expect_geq(render(at("share/man/man1")), 17, "a page for sluice and for each command");
    cr_expect_eq(render(at("share/man/man5")), 1);
}

static bool file_has(const char *path, const char *words)
{
    text t = { 0 };
    bool found = text_read_file(&t, path, 1 << 20, NULL) == ERR_OK && memmem(t.ptr, t.len, words, strlen(words));
    text_free(&t);
    return found;
}

Test(install, every_option_and_key_is_on_a_page)
{
    ran r = program_run(0, 20, NULL, SLUICE("run", "--help-all"));
    size_t n = 0;
    for (const char *c = ran_out(&r); (c = strstr(c, "\n  ")); c++) {
        const char *o = strstr(c, "--");
        char name[80] = "\\-\\-", *to = name + 4;
        if (!o || o > c + 10) continue;
        for (o += 2; *o && !strchr(" \n", *o) && to < name + 70; o++) to += sprintf(to, *o == '-' ? "\\-" : "%c", *o);
        cr_expect(file_has(at("share/man/man1/sluice-run.1"), name), "no %s", name);
        n++;
    }
    cr_expect_gt(n, 30);
    ran_free(&r);
    cr_expect(file_has(at("share/man/man5/sluice.ini.5"), "\\fBrag_tokens") ||
              file_has(at("share/man/man5/sluice.ini.5"), "[rag]"));
    cr_expect(file_has(at("share/man/man5/sluice.ini.5"), "Why: "), "reasons");
}

/* What bash would offer behind these words. */
static void bash_offers(const char *words, const char *want)
{
    char script[900];
    text out = { 0 }, errs = { 0 };
    snprintf(script, sizeof script,
             "source '%s'; COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _sluice; echo \" ${COMPREPLY[*]} \"",
             at("share/bash-completion/completions/sluice"), words);
    cr_expect_eq(TOOL(&out, &errs, "bash", "--norc", "-c", script), 0, "%s", errs.ptr);
    cr_expect(out.ptr && strstr(out.ptr, want), "%s offers %s and not %s", words, out.ptr, want);
    text_free(&out);
    text_free(&errs);
}

Test(install, bash_completes_commands_options_values_and_files)
{
    if (!have("bash")) cr_skip_test("bash is absent");
    char words[300];
    bash_offers("sluice ''", " tokenize ");
    bash_offers("sluice detok", " detokenize ");
    bash_offers("sluice run --pref", " --prefill ");
    bash_offers("sluice run --prefill ''", " auto pipeline local ");
    bash_offers("sluice run --prefill = lo", " local ");
    bash_offers("sluice run -p x --context-full s", " stop slide ");
    bash_offers("sluice eval ''", " logits ppl qa ");
    bash_offers("sluice completion z", " zsh ");
    bash_offers("sluice run --ctx ''", "  ");
    snprintf(words, sizeof words, "sluice run -m %s", at("share/sluice/models/sluice-tiny-Q8"));
    bash_offers(words, "models/sluice-tiny-Q8_0.gguf");
    snprintf(words, sizeof words, "sluice run --dir %s", at("sha"));
    bash_offers(words, "/share ");
}

Test(install, zsh_can_read_its_completion)
{
    if (!have("zsh")) cr_skip_test("zsh is absent");
    text errs = { 0 };
    cr_expect_eq(TOOL(NULL, &errs, "zsh", "-fn", at("share/zsh/site-functions/_sluice")), 0, "%s", errs.ptr);
    text_free(&errs);
}

Test(install, an_unknown_shell_is_a_mistake)
{
    ran r = program_run(2, 20, NULL, SLUICE("completion", "fish"));
    cr_expect(strstr(ran_errs(&r), "\"fish\""), "%s", ran_errs(&r));
    ran_free(&r);
}
