/* Writes the man pages into a folder: manpages FOLDER. All it knows is in core/options.def and ops/cli/commands.c; the pages
 * of the three programs that `sluice` starts are short, because people do not start them. It changes no other file. */
#include "core/settings_table.h"
#include "ops/cli/command.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name;
    uint32_t bit;
    const char *help, *about;
} program;

static const program programs[] = {
    { "sluice-coordinator", CMD_COORDINATOR, "takes jobs, schedules the steps of a pipeline, samples tokens",
      "Started by sluice run, up and eval. It prints READY, or ERROR with a code and a text, on the descriptor of --notify-fd." },
    { "sluice-stage", CMD_STAGE, "runs a range of a model's layers for batches of rows",
      "Started by the coordinator, and by sluice worker on another machine." },
    { "sluice-rag", CMD_RAG, "answers queries with passages of a corpus", "Started by the coordinator when there is a corpus." },
};

static const char *const environment[][2] = {
    { "SLUICE_ISA", "plain, avx2, avx512vnni or amx: the instruction set to use, instead of the best one." },
    { "XDG_RUNTIME_DIR, TMPDIR", "where run directories are made when --dir does not say." },
    { "NO_COLOR", "when set, nothing is coloured." },
    { "TERM", "no progress bar is drawn on a dumb terminal." },
};

static void put_char(FILE *out, char c, bool first)
{
    if (first && (c == '.' || c == '\'')) fputs("\\&", out);
    if (c == '\\') fputs("\\e", out);
    else if (c == '-') fputs("\\-", out);
    else if (c == '\'') fputs("\\(aq", out);
    else if (c == '`') fputs("\\(ga", out);
    else if (c == '^') fputs("\\(ha", out);
    else if (c == '~') fputs("\\(ti", out);
    else fputc(c, out);
}

/* Text as one line of roff. */
static void put(FILE *out, const char *s)
{
    for (bool first = true; *s; s++) {
        put_char(out, *s, first);
        first = *s == '\n';
    }
}

static void line(FILE *out, const char *s)
{
    put(out, s);
    fputc('\n', out);
}

/* "\n" parts paragraphs. */
static void paragraphs(FILE *out, const char *s)
{
    for (;;) {
        size_t n = strcspn(s, "\n");
        for (size_t i = 0; i < n; i++) put_char(out, s[i], i == 0);
        fputc('\n', out);
        if (!s[n]) return;
        fputs(".PP\n", out);
        s += n + 1;
    }
}

static void head(FILE *out, const char *name, int section, const char *help)
{
    fputs(".\\\" Written from core/options.def and ops/cli/commands.c (ops/tools/manpages.c).\n.TH ", out);
    for (const char *c = name; *c; c++) put_char(out, (char)toupper((unsigned char)*c), false);
    fprintf(out, " %d \"\" \"sluice %s\" \"Sluice\"\n.nh\n.SH NAME\n", section, SLUICE_VERSION);
    put(out, name);
    fputs(" \\- ", out);
    line(out, help);
}

static void option_head(FILE *out, const opt_row *o)
{
    fputs(".TP\n", out);
    if (o->letter) fprintf(out, "\\fB\\-%c\\fR, ", o->letter);
    fputs("\\fB\\-\\-", out);
    put(out, o->name);
    fputs("\\fR", out);
    if (*o->meta) {
        fputs(" \\fI", out);
        put(out, o->meta);
        fputs("\\fR", out);
    }
    fputc('\n', out);
}

static void option(FILE *out, const opt_row *o)
{
    char with[64];
    option_head(out, o);
    put(out, o->help);
    snprintf(with, sizeof with, " (default %g)", o->def);
    if ((o->kind == KIND_UINT || o->kind == KIND_REAL) && o->def > 0) put(out, with);
    fputs(".\n", out);
    if (*o->why) fputs("Why: ", out), put(out, o->why), fputs(".\n", out);
    if (*o->ini) fputs("In a file: ", out), put(out, o->ini), fputs(".\n", out);
}

static void options(FILE *out, uint32_t bit)
{
    fputs(".SH OPTIONS\n", out);
    for (size_t i = 0; i < opt_count; i++)
        if (opt_table[i].commands & bit & CMD_ALL) option(out, &opt_table[i]);
}

static void statuses(FILE *out)
{
    fputs(".SH EXIT STATUS\n", out);
    for (int i = 0; i < ERR_COUNT; i++) {
        fprintf(out, ".TP\n%d\n", err_exit_status((err_code)i));
        line(out, err_name((err_code)i));
    }
    fputs(".PP\n128 + N: ended by signal N.\n", out);
}

static void synopsis(FILE *out, const command *c)
{
    fputs(".SH SYNOPSIS\n.nf\n", out);
    for (const char *at = c->usage;;) { /* further lines begin with the command's name */
        size_t n = strcspn(at, "\n");
        if (at == c->usage) fprintf(out, "\\fBsluice %s\\fR%s", c->name, n ? " " : "");
        while (n && *at == ' ') at++, n--;
        for (size_t i = 0; i < n; i++) put_char(out, at[i], false);
        fputc('\n', out);
        if (!at[n]) break;
        at += n + 1;
    }
    fputs(".fi\n", out);
}

static void command_page(FILE *out, const command *c)
{
    char name[64];
    snprintf(name, sizeof name, "sluice-%s", c->name);
    head(out, name, 1, c->help);
    synopsis(out, c);
    fputs(".SH DESCRIPTION\n", out);
    paragraphs(out, c->about);
    options(out, c->bit);
    fputs(".SH EXAMPLES\n.nf\n", out);
    line(out, c->example);
    fputs(".fi\n", out);
    statuses(out);
    fputs(".SH SEE ALSO\n.BR sluice (1),\n.BR sluice.ini (5)\n", out);
}

static void program_page(FILE *out, const program *p)
{
    head(out, p->name, 1, p->help);
    fputs(".SH SYNOPSIS\n\\fB", out);
    put(out, p->name);
    fputs("\\fR [\\fIOPTION\\fR...]\n.SH DESCRIPTION\n", out);
    paragraphs(out, p->about);
    options(out, p->bit);
    fputs(".SH SEE ALSO\n.BR sluice (1)\n", out);
}

static void main_page(FILE *out)
{
    head(out, "sluice", 1, "runs a large language model as a pipeline of processes");
    fputs(
        ".SH SYNOPSIS\n\\fBsluice\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR...]\n.SH DESCRIPTION\n"
        "A coordinator takes jobs, stages each hold a range of layers and their part of the KV cache, a retrieval worker looks up\n"
        "passages; sluice starts and stops them all. The same job gives the same tokens, whatever the number of stages, the other\n"
        "jobs in the batch, the number of threads or the instruction set.\n.SH COMMANDS\n",
        out);
    for (size_t i = 0; i < commands_n; i++) {
        fprintf(out, ".TP\n.BR sluice\\-%s (1)\n", commands[i].name);
        line(out, commands[i].help);
    }
    fputs(".SH ENVIRONMENT\n", out);
    for (size_t i = 0; i < sizeof environment / sizeof environment[0]; i++) {
        fputs(".TP\n", out);
        line(out, environment[i][0]);
        line(out, environment[i][1]);
    }
    statuses(out);
    fputs(".SH EXAMPLES\n.nf\n", out);
    for (size_t i = 0; i < commands_n; i++) line(out, commands[i].example);
    fputs(".fi\n.SH SEE ALSO\n.BR sluice.ini (5)\n", out);
}

/* ---- sluice.ini(5) ---- */

static size_t section_len(const char *ini)
{
    return strcspn(ini, ".");
}

static bool same_section(const opt_row *a, const opt_row *b)
{
    size_t n = section_len(a->ini);
    return *b->ini && section_len(b->ini) == n && !memcmp(a->ini, b->ini, n);
}

static void key(FILE *out, const opt_row *o)
{
    fputs(".TP\n\\fB", out);
    put(out, o->ini + section_len(o->ini) + 1);
    fputs("\\fR = \\fI", out);
    put(out, o->kind == KIND_FLAG ? "yes|no" : o->meta);
    fputs("\\fR", out);
    if (o->kind == KIND_UINT || o->kind == KIND_REAL) fprintf(out, " (default %g)", o->def);
    if (o->kind == KIND_FLAG) fprintf(out, " (default %s)", o->def != 0 ? "yes" : "no");
    fputc('\n', out);
    put(out, o->help);
    fputs(".\n", out);
    if (*o->why) fputs("Why: ", out), put(out, o->why), fputs(".\n", out);
    fputs("Option: \\-\\-", out);
    put(out, o->name);
    fputs(".\n", out);
}

static void ini_page(FILE *out)
{
    head(out, "sluice.ini", 5, "configuration of sluice");
    fputs(".SH DESCRIPTION\n"
          "The file that \\-c FILE names. The command line wins over it. Escapes in texts: \\en \\et \\es (a space at an end) "
          "\\e\\e.\n"
          "An indented line goes on with the value above it; a semicolon behind a space begins a comment. An empty text means the\n"
          "default. An unknown key is an error. \\fBsluice config\\fR prints all of this as a file.\n",
          out);
    for (size_t i = 0; i < opt_count; i++) {
        bool seen = !*opt_table[i].ini;
        for (size_t k = 0; k < i && !seen; k++) seen = same_section(&opt_table[i], &opt_table[k]);
        if (seen) continue;
        fprintf(out, ".SH [%.*s]\n", (int)section_len(opt_table[i].ini), opt_table[i].ini);
        for (size_t k = i; k < opt_count; k++)
            if (same_section(&opt_table[i], &opt_table[k])) key(out, &opt_table[k]);
    }
    fputs(".SH SEE ALSO\n.BR sluice (1),\n.BR sluice\\-config (1)\n", out);
}

/* ---- files ---- */

static FILE *begin(const char *dir, const char *name, int section)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s.%d", dir, name, section);
    FILE *f = fopen(path, "w");
    if (!f) fprintf(stderr, "manpages: %s: %s\n", path, strerror(errno));
    return f;
}

static bool end(FILE *f)
{
    bool bad = ferror(f) != 0;
    return !fclose(f) && !bad;
}

static bool page(const char *dir, const char *name, int section, void (*write)(FILE *))
{
    FILE *f = begin(dir, name, section);
    if (!f) return false;
    write(f);
    return end(f);
}

static bool pages(const char *dir)
{
    bool ok = page(dir, "sluice", 1, main_page) && page(dir, "sluice.ini", 5, ini_page);
    for (size_t i = 0; ok && i < commands_n; i++) {
        char name[64];
        snprintf(name, sizeof name, "sluice-%s", commands[i].name);
        FILE *f = begin(dir, name, 1);
        if ((ok = f != NULL)) command_page(f, &commands[i]), ok = end(f);
    }
    for (size_t i = 0; ok && i < sizeof programs / sizeof programs[0]; i++) {
        FILE *f = begin(dir, programs[i].name, 1);
        if ((ok = f != NULL)) program_page(f, &programs[i]), ok = end(f);
    }
    return ok;
}

int main(int argc, char **argv)
{
    if (argc != 2) return fputs("usage: manpages FOLDER\n", stderr), EXIT_FAILURE;
    return pages(argv[1]) ? EXIT_SUCCESS : EXIT_FAILURE;
}
