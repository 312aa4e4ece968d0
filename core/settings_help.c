#include "core/settings.h"
#include "core/settings_table.h"
#include <string.h>

/* The option table for people: help, the commented INI file, and the word that was probably meant. Reads no values. */

enum { HELP_WIDTH = 79, HELP_LEFT = 26 };   /* 80 columns without the last one, where some terminals wrap */

static void print_wrapped(FILE *out, const char *s, int left, int width, const char *newline)
{
    int col = left;
    for (bool first = true; *s; first = false) {
        int len = (int)strcspn(s, " ");
        if (!first && col + 1 + len > width) {
            fprintf(out, "\n%s", newline);
            col = left;
        } else if (!first) {
            fputc(' ', out);
            col++;
        }
        fprintf(out, "%.*s", len, s);
        col += len;
        s += len + (s[len] == ' ');
    }
    fputc('\n', out);
}

static void help_row(FILE *out, const opt_row *o)
{
    char left[128], pad[HELP_LEFT + 1];
    char letter[6] = "    ";
    if (o->letter) snprintf(letter, sizeof letter, "-%c, ", o->letter);
    int n = snprintf(left, sizeof left, "  %s--%s%s%s", letter, o->name, *o->meta ? " " : "", o->meta);
    memset(pad, ' ', HELP_LEFT);
    pad[HELP_LEFT] = 0;
    if (n + 2 > HELP_LEFT) fprintf(out, "%s\n%s", left, pad);
    else fprintf(out, "%-*s", HELP_LEFT, left);
    char help[400];
    bool number = (o->kind == KIND_UINT || o->kind == KIND_REAL) && o->def > 0;
    if (number) snprintf(help, sizeof help, "%s (default %g)", o->help, o->def);
    print_wrapped(out, number ? help : o->help, HELP_LEFT, HELP_WIDTH, pad);
}

void settings_help(uint32_t command, FILE *out)
{
    bool all = command & CMD_RARE;
    for (size_t i = 0; i < opt_count; i++) {
        const opt_row *o = &opt_table[i];
        if (o->commands & command & CMD_ALL && (all || !(o->commands & CMD_RARE))) help_row(out, o);
    }
}

/* ---- the INI reference ---- */

static size_t section_len(const char *ini) { return strcspn(ini, "."); }

static bool section_begins_at(size_t i)
{
    size_t len = section_len(opt_table[i].ini);
    if (!*opt_table[i].ini) return false;
    for (size_t k = 0; k < i; k++)
        if (section_len(opt_table[k].ini) == len && !memcmp(opt_table[k].ini, opt_table[i].ini, len)) return false;
    return true;
}

static void write_key(FILE *out, const opt_row *o)
{
    char why[400];
    fputs("# ", out);
    print_wrapped(out, o->help, 2, 100, "# ");
    snprintf(why, sizeof why, "why: %s", o->why);
    if (*o->why) {
        fputs("# ", out);
        print_wrapped(out, why, 2, 100, "# ");
    }
    if (opt_is_enum(o)) fprintf(out, "# one of: %s\n", o->meta);
    fprintf(out, "#%s =", o->ini + section_len(o->ini) + 1);
    if (o->kind == KIND_FLAG) fputs(o->def != 0 ? " yes" : " no", out);
    if (o->kind == KIND_UINT || o->kind == KIND_REAL) fprintf(out, " %g", o->def);
    fputs("\n\n", out);
}

void settings_write_ini(FILE *out)
{
    fputs("# Every key of a Sluice configuration with its default. Written from core/options.def (sluice config); copy the\n"
          "# lines you need, take the # away, and give the file with -c FILE. The command line wins over the file.\n"
          "# Escapes in texts: \\n \\t \\s (a space at an end) \\\\. An indented line goes on with the value above it.\n"
          "# \" ;\" begins a comment at the end of a line. An empty text means the default.\n\n", out);
    for (size_t i = 0; i < opt_count; i++) {
        if (!section_begins_at(i)) continue;
        size_t len = section_len(opt_table[i].ini);
        fprintf(out, "[%.*s]\n", (int)len, opt_table[i].ini);
        for (size_t k = i; k < opt_count; k++)
            if (*opt_table[k].ini && section_len(opt_table[k].ini) == len && !memcmp(opt_table[k].ini, opt_table[i].ini, len))
                write_key(out, &opt_table[k]);
    }
}

/* ---- what was meant ---- */

enum { WORD_MAX = 63, FAR = 100 };

static int min3(int a, int b, int c) { return a < b ? (a < c ? a : c) : b < c ? b : c; }

/* Optimal string alignment: insert, delete, change, swap of neighbours cost 1 each. */
static int edits(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    int d[3][WORD_MAX + 1];
    if (n > WORD_MAX || m > WORD_MAX) return FAR;
    for (size_t j = 0; j <= m; j++) d[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int *now = d[i % 3], *up = d[(i + 2) % 3], *up2 = d[(i + 1) % 3];
        now[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            now[j] = min3(up[j] + 1, now[j - 1] + 1, up[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && up2[j - 2] + 1 < now[j]) now[j] = up2[j - 2] + 1;
        }
    }
    return d[n % 3][m];
}

static int distance(const char *word, const char *known)
{
    size_t n = strlen(word), m = strlen(known), less = n < m ? n : m;
    int far = edits(word, known);
    bool begins = less >= 3 && !strncmp(word, known, less);
    if (begins && far > 3) return 3;
    return far <= 3 && 2 * (size_t)far <= (n > m ? n : m) ? far : FAR;
}

const char *nearest_word(const char *word, const char *const *known, size_t n)
{
    const char *best = NULL;
    int best_far = FAR;
    for (size_t i = 0; i < n; i++) {
        int far = distance(word, known[i]);
        if (far < best_far) {
            best_far = far;
            best = known[i];
        }
    }
    return best;
}
