#include "core/settings_table.h"
#include "ops/cli/command.h"
#include "ops/cli/show.h"
#include <string.h>

/* sluice completion: the table of commands and that of options as scripts for bash and zsh. The scripts are complete in
 * themselves: they never run sluice. */

typedef enum { WANTS_NOTHING, WANTS_WORDS, WANTS_FILE, WANTS_DIR } wants;

static bool begins(const char *s, const char *with)
{
    return !strncmp(s, with, strlen(with));
}

static wants wants_of(const char *meta)
{
    static const char *const dirs[] = { "DIR", "FOLDER" }, *const files[] = { "FILE", "IN", "OUT", "CORPUS", "CONF" };
    if (strchr(meta, '|')) return WANTS_WORDS;
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++)
        if (begins(meta, dirs[i])) return WANTS_DIR;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (begins(meta, files[i])) return WANTS_FILE;
    return WANTS_NOTHING;
}

static bool takes(const command *c, const opt_row *o)
{
    return (o->commands & c->bit & CMD_ALL) != 0;
}

static void put_words(FILE *out, const char *words)
{
    for (; *words; words++) fputc(*words == '|' ? ' ' : *words, out);
}

/* ---- bash ---- */

static void bash_options(FILE *out, const command *c)
{
    fprintf(out, "    %s) opts='", c->name);
    for (size_t i = 0, n = 0; i < opt_count; i++) {
        const opt_row *o = &opt_table[i];
        if (!takes(c, o)) continue;
        fprintf(out, "%s--%s", n++ ? " " : "", o->name);
        if (o->letter) fprintf(out, " -%c", o->letter);
    }
    fputs("' words='", out);
    put_words(out, c->words);
    fputs("' ;;\n", out);
}

static void bash_value(FILE *out, const command *c, const opt_row *o)
{
    fprintf(out, "    %s:--%s", c->name, o->name);
    if (o->letter) fprintf(out, " | %s:-%c", c->name, o->letter);
    fputs(") words='", out);
    switch (wants_of(o->meta)) {
    case WANTS_WORDS: put_words(out, o->meta); break;
    case WANTS_FILE: fputs("FILE", out); break;
    case WANTS_DIR: fputs("DIR", out); break;
    case WANTS_NOTHING: break;
    }
    fputs("' ;;\n", out);
}

static const char bash_head[] =
    "# bash completion for sluice, written by `sluice completion bash` from its tables of commands and options.\n"
    "_sluice_words() {\n"
    "    case $1 in\n"
    "    FILE) mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); compopt -o filenames 2>/dev/null ;;\n"
    "    DIR) mapfile -t COMPREPLY < <(compgen -d -- \"$cur\"); compopt -o filenames 2>/dev/null ;;\n"
    "    *) mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$cur\") ;;\n"
    "    esac\n"
    "}\n"
    "_sluice() {\n"
    "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd=${COMP_WORDS[1]-} opts= words=\n"
    "    COMPREPLY=()\n"
    "    if [[ $cur == = ]]; then cur=\n"
    "    elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi\n";

static void write_bash(FILE *out)
{
    fputs(bash_head, out);
    fputs("    local commands='", out);
    for (size_t i = 0; i < commands_n; i++) fprintf(out, "%s ", commands[i].name);
    fputs("help'\n    if ((COMP_CWORD == 1)); then _sluice_words \"$commands --help --version\"; return; fi\n"
          "    if [[ $cmd == help ]]; then _sluice_words \"$commands\"; return; fi\n    case $cmd:$prev in\n",
          out);
    for (size_t i = 0; i < commands_n; i++)
        for (size_t k = 0; k < opt_count; k++)
            if (takes(&commands[i], &opt_table[k]) && opt_table[k].kind != KIND_FLAG) bash_value(out, &commands[i], &opt_table[k]);
    fputs("    *) prev= ;;\n    esac\n    if [[ -n $prev ]]; then _sluice_words \"$words\"; return; fi\n    case $cmd in\n", out);
    for (size_t i = 0; i < commands_n; i++) bash_options(out, &commands[i]);
    fputs("    esac\n"
          "    if [[ $cur == -* ]]; then _sluice_words \"$opts\"\n"
          "    elif ((COMP_CWORD == 2)) && [[ -n $words ]]; then _sluice_words \"$words\"\n"
          "    elif [[ $cmd == model ]]; then _sluice_words FILE; fi\n"
          "}\n"
          "complete -F _sluice sluice\n",
          out);
}

/* ---- zsh ---- */

/* Inside '...': a quote ends it; brackets and colons mean something to _arguments. */
static void zsh_text(FILE *out, const char *s, size_t n)
{
    for (; *s && n; s++, n--) {
        if (*s == '\'') fputs("'\\''", out);
        else if (strchr("[]:\\", *s)) fprintf(out, "\\%c", *s);
        else fputc(*s, out);
    }
}

static void zsh_action(FILE *out, const char *meta, const char *name)
{
    fputs(":", out);
    zsh_text(out, name, 40);
    switch (wants_of(meta)) {
    case WANTS_WORDS: fputs(":(", out), put_words(out, meta), fputs(")", out); break;
    case WANTS_FILE: fputs(":_files", out); break;
    case WANTS_DIR: fputs(":_files -/", out); break;
    case WANTS_NOTHING: fputs(": ", out); break;
    }
}

static void zsh_one(FILE *out, const opt_row *o, bool letter)
{
    bool value = o->kind != KIND_FLAG;
    fputs("            '*", out);
    if (letter) fprintf(out, "-%c%s", o->letter, value ? "+" : "");
    else fprintf(out, "--%s%s", o->name, value ? "=" : "");
    fputc('[', out);
    zsh_text(out, o->help, 100);
    fputc(']', out);
    if (value) zsh_action(out, o->meta, o->meta);
    fputs("' \\\n", out);
}

static void zsh_command(FILE *out, const command *c)
{
    fprintf(out, "    %s) _arguments -s -S \\\n", c->name);
    for (size_t i = 0; i < opt_count; i++) {
        if (!takes(c, &opt_table[i])) continue;
        zsh_one(out, &opt_table[i], false);
        if (opt_table[i].letter) zsh_one(out, &opt_table[i], true);
    }
    if (*c->words) fputs("            '1", out), zsh_action(out, c->words, "what"), fputs("' \\\n", out);
    fputs("            '*:file:_files' ;;\n", out);
}

static void write_zsh(FILE *out)
{
    fputs("#compdef sluice\n# zsh completion for sluice, written by `sluice completion zsh` from its tables of commands and "
          "options.\n"
          "_sluice() {\n    local -a commands\n    commands=(\n",
          out);
    for (size_t i = 0; i < commands_n; i++) {
        fprintf(out, "        '%s:", commands[i].name);
        zsh_text(out, commands[i].help, 100);
        fputs("'\n", out);
    }
    fputs("        'help:explain a command'\n    )\n"
          "    if (( CURRENT == 2 )) || [[ $words[2] == help ]]; then _describe command commands; return; fi\n"
          "    shift words\n    (( CURRENT-- ))\n    case $words[1] in\n",
          out);
    for (size_t i = 0; i < commands_n; i++) zsh_command(out, &commands[i]);
    fputs("    esac\n}\nif [[ $funcstack[1] == _sluice ]]; then _sluice \"$@\"; else compdef _sluice sluice; fi\n", out);
}

err_code cmd_completion(settings *s, err *e)
{
    const char *w = s->args.n ? s->args.at[0] : "";
    if (s->args.n > 1) return err_set(e, ERR_USAGE, "what is \"%.100s\"?", s->args.at[1]);
    if (!strcmp(w, "bash")) write_bash(stdout);
    else if (!strcmp(w, "zsh")) write_zsh(stdout);
    else return err_set(e, ERR_USAGE, "completion bash or completion zsh%s%.60s%s", *w ? ", not \"" : "", w, *w ? "\"" : "");
    return show_write("", 0, e);
}
