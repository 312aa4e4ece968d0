#ifndef CORE_SETTINGS_H
#define CORE_SETTINGS_H
/* The values of all options of one command, read from INI files and argv by the one table core/options.def.
 * Strings belong to the settings object. One thread. */
#include "core/buf.h"
#include "core/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum {
    CMD_RUN = 1 << 0, CMD_UP = 1 << 1, CMD_DOWN = 1 << 2, CMD_STATUS = 1 << 3, CMD_WORKER = 1 << 4, CMD_SUBMIT = 1 << 5,
    CMD_JOBS = 1 << 6, CMD_RESULT = 1 << 7, CMD_CANCEL = 1 << 8, CMD_TOKENIZE = 1 << 9, CMD_EVAL = 1 << 10,
    CMD_INDEX = 1 << 11, CMD_MODEL = 1 << 12, CMD_COORDINATOR = 1 << 13, CMD_STAGE = 1 << 14, CMD_RAG = 1 << 15,
    CMD_DETOKENIZE = 1 << 16, CMD_CONFIG = 1 << 17, CMD_COMPLETION = 1 << 18,
    CMD_BENCH = 1 << 19,
    CMD_PLAN = 1 << 20,
    CMD_REPLAY = 1 << 21, CMD_KEYGEN = 1 << 22,
    CMD_PROFILE = 1 << 23,
    CMD_CALIBRATE = 1 << 24,
    CMD_ALL = (1 << 25) - 1,
    CMD_RARE = 1 << 30                /* no command: an option with this bit is left out of the short help */
};

typedef struct { char **at; size_t n; } string_list;
typedef bool opt_FLAG;
typedef uint64_t opt_UINT;
typedef double opt_REAL;
typedef char *opt_TEXT;
typedef string_list opt_LIST;

typedef struct {
    uint32_t command;                 /* one CMD_ bit */
#define OPT(field, kind, lng, sht, ini, cmds, def, lo, hi, meta, help, why) opt_##kind field;
#include "core/options.def"
#undef OPT
    string_list args;                 /* words that are no options */
    uint64_t given[4];                /* bit i: option i of the table was given (argv or file) */
} settings;

/* Defaults for a command. */
void settings_init(settings *s, uint32_t command);
void settings_free(settings *s);
/* argv[0] is skipped. --opt VALUE, --opt=VALUE, -o VALUE, -oVALUE; "--" ends options; a lone "-" is a word (or a value).
 * ERR_USAGE names an unknown option and the nearest known one, a missing value, a value out of range. */
err_code settings_argv(settings *s, int argc, char *const argv[], err *e);
/* INI file: values already given on the command line stay. Unknown sections/keys are ERR_CONFIG naming file, line and
 * the nearest known key; keys of other commands are checked and skipped. Escapes \n \t \s (a space, where it would be
 * stripped) \\ in TEXT values; a line that begins with white space goes on with the value of the line before it. */
err_code settings_ini(settings *s, const char *path, err *e);
/* The same for text in memory; `name` stands for the file in messages. */
err_code settings_ini_view(settings *s, view ini, const char *name, err *e);
/* The words that give another program (`command`) those of these settings that it takes and that differ from its
 * defaults; appended to *out, strings malloc'ed. */
err_code settings_to_argv(const settings *s, uint32_t command, string_list *out, err *e);
bool settings_was_given(const settings *s, const char *long_name);
/* Was any option given that program `of` takes and none of `not_of` does? (-m shapes a cluster, --temp shapes a job.) */
bool settings_given_only_for(const settings *s, uint32_t of, uint32_t not_of);
bool string_list_add(string_list *l, const char *s);
void string_list_free(string_list *l);
/* The options of a command as aligned text, 80 columns; with CMD_RARE added also the rare ones. */
void settings_help(uint32_t command, FILE *out);
/* Every INI key with default and reason, as a commented file. */
void settings_write_ini(FILE *out);
/* Nearest of n words by edit distance (<= 3, a swap of neighbours is one edit, and less than half of the word), or one that
 * begins the other; NULL when none is near. */
const char *nearest_word(const char *word, const char *const *words, size_t n);
#endif
