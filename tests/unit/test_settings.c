#include "core/settings.h"
#include "core/settings_table.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* core/settings*.c: argv, INI files, child command lines, help, nearest words. */

static err_code parse(settings *s, uint32_t command, const char *line, err *e)
{
    char copy[512], *argv[64] = { "sluice" };
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *w = strtok(copy, " "); w && argc < 63; w = strtok(NULL, " ")) argv[argc++] = w;
    settings_init(s, command);
    *e = (err){ 0 };
    return settings_argv(s, argc, argv, e);
}

static void expect_bad(uint32_t command, const char *line, err_code code, const char *part)
{
    settings s;
    err e;
    cr_expect_eq(parse(&s, command, line, &e), code, "%s: %s", line, e.text);
    cr_expect(strstr(e.text, part), "%s: \"%s\" does not say \"%s\"", line, e.text, part);
    settings_free(&s);
}

static err_code ini(settings *s, uint32_t command, const char *line, const char *body, err *e)
{
    err_code rc = parse(s, command, line, e);
    return rc ? rc : settings_ini_view(s, (view){ body, strlen(body) }, "x.ini", e);
}

static void expect_bad_ini(const char *body, const char *part)
{
    settings s;
    err e;
    cr_expect_eq(ini(&s, CMD_RUN, "", body, &e), ERR_CONFIG, "%s", body);
    cr_expect(strstr(e.text, part), "\"%s\" does not say \"%s\"", e.text, part);
    settings_free(&s);
}

Test(settings, argv_takes_all_four_ways_to_write_a_value)
{
    settings s;
    err e;
    cr_assert_eq(parse(&s, CMD_RUN, "-m a.gguf -n7 --top-k=5 --temp 0.25 --stop x --stop y - -- -z", &e), ERR_OK, "%s", e.text);
    cr_expect_str_eq(s.model, "a.gguf");
    cr_expect_eq(s.max_tokens, 7);
    cr_expect_eq(s.top_k, 5);
    cr_expect(s.temp > 0.249 && s.temp < 0.251);
    cr_expect_eq(s.stop.n, 2);
    cr_expect_eq(s.args.n, 2);
    cr_expect_str_eq(s.args.at[0], "-");
    cr_expect_str_eq(s.args.at[1], "-z");
    cr_expect(settings_was_given(&s, "temp") && !settings_was_given(&s, "top-p"));
    settings_free(&s);
}

Test(settings, the_same_letter_is_another_option_in_another_command)
{
    settings s;
    err e;
    cr_assert_eq(parse(&s, CMD_RUN, "-t 3", &e), ERR_OK, "%s", e.text);
    cr_expect_eq(s.threads, 3);
    settings_free(&s);
    cr_assert_eq(parse(&s, CMD_EVAL, "-t 1,2 -c 64", &e), ERR_OK, "%s", e.text);
    cr_expect_str_eq(s.tokens, "1,2");
    cr_expect_eq(s.window, 64);
    settings_free(&s);
}

Test(settings, argv_errors_name_the_option_the_value_and_the_nearest)
{
    expect_bad(CMD_RUN, "--stges 2", ERR_USAGE, "did you mean --stages?");
    expect_bad(CMD_RUN, "--temperature 2", ERR_USAGE, "did you mean --temp?");
    expect_bad(CMD_RUN, "--qqqqqq", ERR_USAGE, "--qqqqqq");
    expect_bad(CMD_RUN, "--detach", ERR_USAGE, "--detach");
    expect_bad(CMD_RUN, "-Z", ERR_USAGE, "-Z");
    expect_bad(CMD_RUN, "--model", ERR_USAGE, "--model wants a value");
    expect_bad(CMD_RUN, "--stages 513", ERR_USAGE, "\"513\"");
    expect_bad(CMD_RUN, "--stages -1", ERR_USAGE, "\"-1\"");
    expect_bad(CMD_RUN, "--stages 2x", ERR_USAGE, "\"2x\"");
    expect_bad(CMD_RUN, "--seed 99999999999999999999999", ERR_USAGE, "9999999");
    expect_bad(CMD_RUN, "--temp nan", ERR_USAGE, "nan");
    expect_bad(CMD_RUN, "--top-p 1.5", ERR_USAGE, "1.5");
    expect_bad(CMD_RUN, "--json=1", ERR_USAGE, "no value");
    expect_bad(CMD_RUN, "--arith f64", ERR_USAGE, "i8b32|f32");
    expect_bad(CMD_RUN, "--arith i8b32|f32", ERR_USAGE, "i8b32|f32");
}

Test(settings, ini_fills_what_the_command_line_left_open)
{
    settings s;
    err e;
    const char *body = "; head\n[job]\nmax_tokens = 9\ntemperature=0.5 ; why\n[cluster]\nstages = 3\n[rag]\n"
                       "template = a\\nb\\\\\\s\n   c\n passage =\n";
    cr_assert_eq(ini(&s, CMD_RUN, "-n 4", body, &e), ERR_OK, "%s", e.text);
    cr_expect_eq(s.max_tokens, 4, "the command line wins");
    cr_expect(s.temp > 0.49 && s.temp < 0.51);
    cr_expect_eq(s.stages, 3);
    cr_expect_str_eq(s.rag_template, "a\nb\\ cpassage =", "an indented line goes on with the value");
    cr_expect(settings_was_given(&s, "stages"));
    settings_free(&s);
}

Test(settings, ini_keys_of_other_commands_are_checked_and_skipped)
{
    settings s;
    err e;
    cr_expect_eq(ini(&s, CMD_DOWN, "", "[job]\nmax_tokens = 9\n", &e), ERR_OK, "%s", e.text);
    cr_expect_eq(s.max_tokens, 128);
    settings_free(&s);
    cr_expect_eq(ini(&s, CMD_DOWN, "", "[job]\nmax_tokens = nine\n", &e), ERR_CONFIG);
    settings_free(&s);
}

Test(settings, ini_errors_name_file_line_and_nearest_key)
{
    expect_bad_ini("[cluster]\n\nstags = 2\n", "x.ini:3: unknown key \"cluster.stags\" (did you mean cluster.stages?)");
    expect_bad_ini("[cluster]\nzzzzzzzz = 2\n", "cluster.zzzzzzzz");
    expect_bad_ini("stages = 2\n", "in front of any [section]");
    expect_bad_ini("[cluster]\nstages = 9999\n", "x.ini:2: cluster.stages wants a whole number from 0 to 512");
    expect_bad_ini("[cluster]\nstages = 1\nstages = 2\n", "twice");
    expect_bad_ini("[cluster]\nstages\n", "x.ini:2: neither");
    expect_bad_ini("[cluster\nstages = 1\n", "x.ini:1");
    expect_bad_ini("[rag]\ntemplate = a\\q\n", "is no escape");
    expect_bad_ini("[numerics]\npath = f8\n", "i8b32|f32");
    char longer[400];
    memset(longer, 'x', sizeof longer);
    memcpy(longer, "[rag]\ntemplate = ", 17);
    longer[sizeof longer - 1] = 0;
    expect_bad_ini(longer, "x.ini:2: the line is longer");
}

Test(settings, an_unknown_ini_section_is_an_error_even_when_it_is_empty)
{
    expect_bad_ini("[cluster]\nstages = 2\n[clutser]\n", "x.ini:3: unknown section [clutser] (did you mean [cluster]?)");
    expect_bad_ini("[zzzzzzzzzz]\nqqqqqqqq = 2\n", "x.ini:1: unknown section [zzzzzzzzzz]");
    expect_bad_ini("  [zzz]\n", "x.ini:1: unknown section [zzz]");
    expect_bad_ini("\xEF\xBB\xBF[zzz]\n", "x.ini:1: unknown section [zzz]");
    settings s;
    err e;
    cr_expect_eq(ini(&s, CMD_RUN, "", "[job]\n[rag]\ntemplate = a\n  [zzz]\n", &e), ERR_OK, "%s", e.text);
    cr_expect_str_eq(s.rag_template, "a[zzz]", "an indented line goes on with a value, whatever it looks like");
    settings_free(&s);
}

Test(settings, an_absent_ini_file_is_named)
{
    settings s;
    err e = { 0 };
    settings_init(&s, CMD_RUN);
    cr_expect_eq(settings_ini(&s, "/nonexistent/q.ini", &e), ERR_IO);
    cr_expect(strstr(e.text, "/nonexistent/q.ini"));
    settings_free(&s);
}

/* What a child reads from the words is what its parent had. */
Test(settings, words_for_another_program_carry_the_values_over)
{
    settings s, child;
    err e;
    string_list out = { 0 };
    cr_assert_eq(parse(&s, CMD_RUN, "-m a.gguf --stages 3 -t 2 --start-timeout 0.3 -n 5 --json --bind=-x --rag-template=--y", &e),
                 ERR_OK);
    cr_assert(string_list_add(&out, "sluice-coordinator"));
    cr_assert_eq(settings_to_argv(&s, CMD_COORDINATOR, &out, &e), ERR_OK);
    settings_init(&child, CMD_COORDINATOR);
    cr_assert_eq(settings_argv(&child, (int)out.n, out.at, &e), ERR_OK, "%s", e.text);
    cr_expect_null(out.at[out.n]);
    cr_expect_str_eq(child.model, "a.gguf");
    cr_expect_eq(child.stages, 3);
    cr_expect_eq(child.threads, 2);
    cr_expect(child.start_timeout > 0.2999999999999999 && child.start_timeout < 0.3000000000000001);
    cr_expect_str_eq(child.bind, "-x");
    cr_expect_str_eq(child.rag_template, "--y");
    cr_expect(!child.json && !settings_was_given(&child, "chunk"), "defaults and own flags stay here");
    settings_free(&s);
    settings_free(&child);
    string_list_free(&out);
}

Test(settings, evals_own_threads_option_reaches_the_coordinator)
{
    settings s;
    err e;
    string_list out = { 0 };
    cr_assert_eq(parse(&s, CMD_EVAL, "--threads 2", &e), ERR_OK, "%s", e.text);
    cr_assert_eq(settings_to_argv(&s, CMD_COORDINATOR, &out, &e), ERR_OK);
    cr_assert_eq(out.n, 2);
    cr_expect_str_eq(out.at[0], "--threads");
    cr_expect_str_eq(out.at[1], "2");
    settings_free(&s);
    string_list_free(&out);
}

Test(settings, what_shapes_a_cluster_is_told_from_what_shapes_a_job)
{
    settings s;
    err e;
    cr_assert_eq(parse(&s, CMD_RUN, "-n 5 --temp 1 --dir /x --prefill local --log-level info", &e), ERR_OK, "%s", e.text);
    cr_expect(!settings_given_only_for(&s, CMD_COORDINATOR, CMD_SUBMIT));
    settings_free(&s);
    cr_assert_eq(parse(&s, CMD_RUN, "-n 5 --stages 1", &e), ERR_OK, "%s", e.text);
    cr_expect(settings_given_only_for(&s, CMD_COORDINATOR, CMD_SUBMIT));
    settings_free(&s);
}

Test(settings, nearest_word_forgives_a_few_edits_and_no_more)
{
    const char *const known[] = { "run", "up", "status", "tokenize", "eval" };
    cr_expect_str_eq(nearest_word("rnu", known, 5), "run");
    cr_expect_str_eq(nearest_word("statsu", known, 5), "status");
    cr_expect_str_eq(nearest_word("token", known, 5), "tokenize");
    cr_expect_str_eq(nearest_word("evaluate", known, 5), "eval");
    cr_expect_null(nearest_word("xyz", known, 5));
    cr_expect_null(nearest_word("q", known, 5));
    cr_expect_null(nearest_word("", known, 5));
}

static char *printed(void (*print)(FILE *))
{
    char *buf = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&buf, &n);
    print(f);
    fclose(f);
    return buf;
}

static void help_of_all(FILE *f)
{
    for (uint32_t c = 1; c & CMD_ALL; c <<= 1) settings_help(c | CMD_RARE, f);
}

Test(settings, help_keeps_to_80_columns)
{
    char *all = printed(help_of_all);
    for (char *l = strtok(all, "\n"); l; l = strtok(NULL, "\n")) cr_expect_leq(strlen(l), 80, "%s", l);
    free(all);
}

Test(settings, the_written_ini_reads_back_and_changes_nothing)
{
    char *body = printed(settings_write_ini), *line = NULL;
    text bare = { 0 };
    settings s, fresh;
    err e;
    for (char *save = body; (line = strsep(&save, "\n"));)
        if (line[0] != '#' || line[1] != ' ') text_addf(&bare, "%s\n", line[0] == '#' ? line + 1 : line);
    settings_init(&fresh, CMD_RUN);
    cr_assert_eq(ini(&s, CMD_RUN, "", bare.ptr, &e), ERR_OK, "%s", e.text);
    for (size_t i = 0; i < opt_count; i++) {
        const opt_row *o = &opt_table[i];
        bool number = o->kind == KIND_UINT || o->kind == KIND_REAL;
        cr_expect(!number || !memcmp((char *)&s + o->at, (char *)&fresh + o->at, 8), "%s", o->name);
        cr_expect(o->kind != KIND_TEXT || !*(char **)((char *)&s + o->at), "%s", o->name);
    }
    settings_free(&s);
    settings_free(&fresh);
    text_free(&bare);
    free(body);
}

Test(settings, the_table_is_sound)
{
    for (size_t i = 0; i < opt_count; i++) {
        cr_expect_lt(strlen(opt_table[i].name), 60);
        cr_expect(!*opt_table[i].ini || *opt_table[i].why, "%s has no reason", opt_table[i].ini);
        cr_expect(!*opt_table[i].ini || strlen(opt_table[i].ini) < 48, "libinih's names are short");
        for (size_t k = 0; k < i; k++) {
            const opt_row *a = &opt_table[i], *b = &opt_table[k];
            bool both = a->commands & b->commands & CMD_ALL;
            cr_expect(!both || strcmp(a->name, b->name), "--%s twice in one command", a->name);
            cr_expect(!both || !a->letter || a->letter != b->letter, "-%c twice in one command", a->letter);
            cr_expect(!*a->ini || strcmp(a->ini, b->ini), "%s twice", a->ini);
        }
    }
}

static char *file_text(const char *path)
{
    text t = { 0 };
    err e;
    cr_assert_eq(text_read_file(&t, path, 1 << 20, &e), ERR_OK, "%s", e.text);
    return t.ptr;
}

/* Tests run in the top folder, as make does it. */
Test(settings, configs_sluice_ini_is_the_reference_that_the_table_writes)
{
    if (access("configs/sluice.ini", R_OK)) cr_skip_test("not in the top folder");
    char *want = printed(settings_write_ini), *have = file_text("configs/sluice.ini");
    cr_expect_str_eq(have, want, "write it again: sluice config > configs/sluice.ini");
    free(want);
    free(have);
}

Test(settings, the_presets_are_valid)
{
    static const char *const presets[] = { "configs/sluice.ini", "configs/local.ini", "configs/lan.ini" };
    for (size_t i = 0; i < 3; i++) {
        settings s;
        err e = { 0 };
        if (access(presets[i], R_OK)) continue;
        settings_init(&s, CMD_UP);
        cr_expect_eq(settings_ini(&s, presets[i], &e), ERR_OK, "%s", e.text);
        settings_free(&s);
    }
}
