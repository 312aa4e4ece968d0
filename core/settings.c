#include "core/settings.h"
#include "core/settings_table.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Owns the option table and the values: defaults, argv, and argv for other programs. It knows no command by name: what a
 * command does with its settings is the caller's. INI is in settings_ini.c, help in settings_help.c. */

#define DEF_FLAG(d) (double)(d)
#define DEF_UINT(d) (double)(d)
#define DEF_REAL(d) (double)(d)
#define DEF_TEXT(d) 0
#define DEF_LIST(d) 0

const opt_row opt_table[] = {
#define OPT(field, kind, lng, sht, ini, cmds, def, lo, hi, meta, help, why) \
    { lng, ini, meta, help, why, cmds, KIND_##kind, sht, offsetof(settings, field), \
      DEF_##kind(def), (uint64_t)(lo), (uint64_t)(hi), (double)(lo), (double)(hi) },
#include "core/options.def"
#undef OPT
};
const size_t opt_count = sizeof opt_table / sizeof opt_table[0];
_Static_assert(sizeof opt_table / sizeof opt_table[0] <= 8 * sizeof ((settings *)0)->given, "settings.given is too small");

static void *field(const settings *s, const opt_row *o) { return (char *)s + o->at; }

bool string_list_add(string_list *l, const char *s)
{
    char *copy = strdup(s);
    char **at = copy ? realloc(l->at, (l->n + 2) * sizeof *at) : NULL;
    if (!at) return free(copy), false;
    l->at = at;
    at[l->n++] = copy;
    at[l->n] = NULL; /* so that a list can be an argv */
    return true;
}

void string_list_free(string_list *l)
{
    for (size_t i = 0; i < l->n; i++) free(l->at[i]);
    free(l->at);
    *l = (string_list){ 0 };
}

void settings_init(settings *s, uint32_t command)
{
    *s = (settings){ .command = command };
    for (size_t i = 0; i < opt_count; i++) {
        const opt_row *o = &opt_table[i];
        if (o->kind == KIND_FLAG) *(bool *)field(s, o) = o->def != 0;
        if (o->kind == KIND_UINT) *(uint64_t *)field(s, o) = (uint64_t)o->def;
        if (o->kind == KIND_REAL) *(double *)field(s, o) = o->def;
    }
}

void settings_free(settings *s)
{
    for (size_t i = 0; i < opt_count; i++) {
        const opt_row *o = &opt_table[i];
        if (o->kind == KIND_TEXT) free(*(char **)field(s, o));
        if (o->kind == KIND_LIST) string_list_free(field(s, o));
    }
    string_list_free(&s->args);
    *s = (settings){ 0 };
}

size_t opt_find(uint32_t command, const char *name)
{
    for (size_t i = 0; i < opt_count; i++)
        if (opt_table[i].commands & command && !strcmp(opt_table[i].name, name)) return i;
    return opt_count;
}

bool settings_was_given(const settings *s, const char *long_name)
{
    size_t i = opt_find(s->command, long_name);
    return i < opt_count && opt_given(s, i);
}

bool settings_given_only_for(const settings *s, uint32_t of, uint32_t not_of)
{
    for (size_t i = 0; i < opt_count; i++)
        if (opt_given(s, i) && opt_table[i].commands & of && !(opt_table[i].commands & not_of)) return true;
    return false;
}

/* ---- one value ---- */

static err_code store_flag(bool *out, const char *v, const char *shown, err_code bad, err *e)
{
    static const char *const yes[] = { "", "1", "true", "yes", "on" }, *const no[] = { "0", "false", "no", "off" };
    for (size_t i = 0; i < 5; i++)
        if (!strcmp(v, yes[i])) return *out = true, ERR_OK;
    for (size_t i = 0; i < 4; i++)
        if (!strcmp(v, no[i])) return *out = false, ERR_OK;
    return err_set(e, bad, "%s wants yes or no, not \"%.100s\"", shown, v);
}

static err_code store_uint(uint64_t *out, const opt_row *o, const char *v, const char *shown, err_code bad, err *e)
{
    char *end = NULL;
    errno = 0;
    unsigned long long n = *v >= '0' && *v <= '9' ? strtoull(v, &end, 10) : 0;
    if (!end || *end || errno || n < o->ulo || n > o->uhi)
        return err_set(e, bad, "%s wants a whole number from %llu to %llu, not \"%.100s\"", shown, (unsigned long long)o->ulo,
                       (unsigned long long)o->uhi, v);
    *out = n;
    return ERR_OK;
}

static err_code store_real(double *out, const opt_row *o, const char *v, const char *shown, err_code bad, err *e)
{
    char *end = NULL;
    double x = *v && !strpbrk(v, " \t\n\v\f\r") ? strtod(v, &end) : NAN;
    if (!end || *end || !(x >= o->rlo && x <= o->rhi))
        return err_set(e, bad, "%s wants a number from %g to %g, not \"%.100s\"", shown, o->rlo, o->rhi, v);
    *out = x;
    return ERR_OK;
}

static bool enum_has(const char *words, const char *v)
{
    size_t n = strlen(v);
    for (const char *w = words; n;) {
        size_t len = strcspn(w, "|");
        if (len == n && !memcmp(w, v, n)) return true;
        if (!w[len]) return false;
        w += len + 1;
    }
    return false;
}

static err_code store_text(char **out, const opt_row *o, const char *v, const char *shown, err_code bad, err *e)
{
    if (opt_is_enum(o) && !enum_has(o->meta, v)) return err_set(e, bad, "%s wants %s, not \"%.100s\"", shown, o->meta, v);
    char *copy = strdup(v);
    if (!copy) return err_set(e, ERR_NOMEM, "out of memory");
    free(*out);
    *out = copy;
    return ERR_OK;
}

static err_code store_value(settings *s, const opt_row *o, const char *v, const char *shown, err_code bad, err *e)
{
    switch (o->kind) {
    case KIND_FLAG: return store_flag(field(s, o), v, shown, bad, e);
    case KIND_UINT: return store_uint(field(s, o), o, v, shown, bad, e);
    case KIND_REAL: return store_real(field(s, o), o, v, shown, bad, e);
    case KIND_TEXT: return store_text(field(s, o), o, v, shown, bad, e);
    case KIND_LIST: break;
    }
    return string_list_add(field(s, o), v) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

err_code opt_store(settings *s, size_t i, const char *value, const char *shown, err_code bad, err *e)
{
    err_code rc = store_value(s, &opt_table[i], value, shown, bad, e);
    if (rc == ERR_OK) s->given[i / 64] |= (uint64_t)1 << (i % 64);
    return rc;
}

/* ---- argv ---- */

typedef struct {
    settings *s;
    int argc, at;
    char *const *argv;
} words;

static err_code unknown_option(const settings *s, const char *name, err *e)
{
    const char *names[sizeof opt_table / sizeof opt_table[0]];
    size_t n = 0;
    for (size_t i = 0; i < opt_count; i++)
        if (opt_table[i].commands & s->command) names[n++] = opt_table[i].name;
    const char *near = nearest_word(name, names, n);
    if (near) return err_set(e, ERR_USAGE, "unknown option --%.100s (did you mean --%s?)", name, near);
    if (opt_find(CMD_ALL, name) < opt_count) return err_set(e, ERR_USAGE, "option --%s belongs to another command", name);
    return err_set(e, ERR_USAGE, "unknown option --%.100s", name);
}

static err_code take_value(words *w, size_t i, const char *inlined, const char *shown, err *e)
{
    bool flag = opt_table[i].kind == KIND_FLAG;
    if (flag && inlined) return err_set(e, ERR_USAGE, "%s takes no value", shown);
    if (!flag && !inlined && w->at >= w->argc) return err_set(e, ERR_USAGE, "%s wants a value: %s", shown, opt_table[i].meta);
    return opt_store(w->s, i, flag ? "" : inlined ? inlined : w->argv[w->at++], shown, ERR_USAGE, e);
}

static err_code take_long(words *w, const char *word, err *e)
{
    char shown[64];
    const char *eq = strchr(word, '=');
    size_t len = eq ? (size_t)(eq - word) : strlen(word);
    if (len >= sizeof shown) return err_set(e, ERR_USAGE, "unknown option %.40s...", word);
    memcpy(shown, word, len);
    shown[len] = 0;
    size_t i = opt_find(w->s->command, shown + 2);
    if (i == opt_count) return unknown_option(w->s, shown + 2, e);
    return take_value(w, i, eq ? eq + 1 : NULL, shown, e);
}

static err_code take_short(words *w, const char *word, err *e)
{
    char shown[3] = { '-', word[1], 0 };
    for (size_t i = 0; i < opt_count; i++)
        if (opt_table[i].commands & w->s->command && opt_table[i].letter == word[1])
            return take_value(w, i, word[2] ? word + 2 : NULL, shown, e);
    return err_set(e, ERR_USAGE, "unknown option %.100s", word);
}

static err_code take_word(words *w, bool *options_over, err *e)
{
    const char *word = w->argv[w->at++];
    if (!*options_over && !strcmp(word, "--")) return *options_over = true, ERR_OK;
    if (!*options_over && word[0] == '-' && word[1] == '-') return take_long(w, word, e);
    if (!*options_over && word[0] == '-' && word[1]) return take_short(w, word, e);
    return string_list_add(&w->s->args, word) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

err_code settings_argv(settings *s, int argc, char *const argv[], err *e)
{
    words w = { s, argc, 1, argv };
    bool options_over = false;
    err_code rc = ERR_OK;
    while (rc == ERR_OK && w.at < w.argc) rc = take_word(&w, &options_over, e);
    return rc;
}

/* ---- argv for another program ---- */

/* Its content is in the values already (config), or it is about this process only. */
static bool stays_here(const char *name)
{
    static const char *const own[] = { "help", "help-all", "version", "config", "json" };
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (!strcmp(name, own[i])) return true;
    return false;
}

static bool value_text(const settings *s, const opt_row *o, char buf[static 40], const char **out)
{
    uint64_t u = o->kind == KIND_UINT ? *(uint64_t *)field(s, o) : 0;
    double r = o->kind == KIND_REAL ? *(double *)field(s, o) : 0;
    *out = buf;
    switch (o->kind) {
    case KIND_FLAG: return *out = NULL, *(bool *)field(s, o);
    case KIND_UINT: snprintf(buf, 40, "%llu", (unsigned long long)u); return u != (uint64_t)o->def;
    case KIND_REAL: snprintf(buf, 40, "%.17g", r); return r < o->def || r > o->def;
    case KIND_TEXT: *out = *(char **)field(s, o); return *out != NULL;
    case KIND_LIST: break;
    }
    return false;
}

static bool add_option(string_list *out, const char *name, const char *value)
{
    char word[64];
    snprintf(word, sizeof word, "--%s", name);
    return string_list_add(out, word) && (!value || string_list_add(out, value));
}

static bool add_row(const settings *s, const opt_row *o, string_list *out)
{
    char buf[40];
    const char *v = NULL;
    if (o->kind != KIND_LIST) return !value_text(s, o, buf, &v) || add_option(out, o->name, v);
    const string_list *l = field(s, o);
    for (size_t i = 0; i < l->n; i++)
        if (!add_option(out, o->name, l->at[i])) return false;
    return true;
}

err_code settings_to_argv(const settings *s, uint32_t command, string_list *out, err *e)
{
    for (size_t i = 0; i < opt_count; i++) {
        if (!(opt_table[i].commands & command) || stays_here(opt_table[i].name)) continue;
        /* the same option may be another row here: -t means something else in eval, so --threads has a row of its own */
        size_t mine = opt_find(s->command, opt_table[i].name);
        if (mine == opt_count || opt_table[mine].kind != opt_table[i].kind) continue;
        if (!add_row(s, &opt_table[mine], out)) return err_set(e, ERR_NOMEM, "out of memory");
    }
    return ERR_OK;
}
