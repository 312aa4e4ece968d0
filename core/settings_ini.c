#include "core/settings.h"
#include "core/settings_table.h"
#include <ini.h>
#include <string.h>

/* Reads INI files into settings, with libinih. It changes no value that is already given, and writes nothing. */

/* A configuration is pages, not megabytes: more is a mistake in the name. */
enum { INI_BYTES_MAX = 1 << 20 };

typedef struct {
    settings *s;
    const char *name;      /* of the file */
    view ini;
    size_t at;
    int line;              /* number of the line handed out last */
    bool goes_on;          /* it begins with white space */
    bool no_key;           /* and stands behind a [section] without a key in between, so there is no value to go on with */
    bool touched[256];     /* keys seen in this file */
    size_t last;           /* option of the key before, for lines that go on with it */
    text value;            /* of that key so far */
    int value_line;
    err *e;
    err_code rc;
} ini_state;
_Static_assert(sizeof ((ini_state *)0)->touched >= 8 * sizeof ((settings *)0)->given, "one flag an option");

static bool known_section(view name)
{
    for (size_t i = 0; i < opt_count; i++) {
        const char *dot = strchr(opt_table[i].ini, '.');
        if (dot && (size_t)(dot - opt_table[i].ini) == name.len && !memcmp(opt_table[i].ini, name.ptr, name.len)) return true;
    }
    return false;
}

/* The nearest section; "" when none is near. */
static const char *near_section(const char *name, char buf[static 32])
{
    const char *keys[128];
    char names[128][32];
    size_t n = 0;
    for (size_t i = 0; i < opt_count && n < 128; i++) {
        size_t len = strcspn(opt_table[i].ini, ".");
        if (!len || len >= sizeof names[0]) continue;
        memcpy(names[n], opt_table[i].ini, len);
        names[n][len] = 0;
        keys[n] = names[n];
        n++;
    }
    const char *near = nearest_word(name, keys, n);
    snprintf(buf, 32, "%s", near ? near : "");
    return buf;
}

/* libinih says nothing of a section without keys, so an unknown one is looked for here. What it takes for a section: a line
 * whose first mark is '[', unless it goes on with a value. */
static bool section_is_fine(ini_state *t, const char *p, size_t len)
{
    const char *end = p + len, *close;
    char name[64], near[32];
    if (t->line == 1 && len >= 3 && !memcmp(p, "\xEF\xBB\xBF", 3)) p += 3; /* a byte order mark */
    while (p < end && (*p == ' ' || *p == '\t')) p++;
    if (p == end || *p != '[' || (t->goes_on && !t->no_key)) return true;
    close = memchr(p, ']', (size_t)(end - p));
    t->no_key = true;
    if (!close || known_section((view){ p + 1, (size_t)(close - p - 1) })) return true; /* no ']': libinih says so */
    snprintf(name, sizeof name, "%.*s", (int)(close - p - 1), p + 1);
    bool hint = *near_section(name, near);
    t->rc = err_set(t->e, ERR_CONFIG, "%s:%d: unknown section [%s]%s%s%s", t->name, t->line, name, hint ? " (did you mean [" : "", near,
                    hint ? "]?)" : "");
    return false;
}

/* libinih cuts a line that does not fit its buffer in two, silently; here it is an error. */
static char *next_line(char *buf, int size, void *stream)
{
    ini_state *t = stream;
    if (t->rc != ERR_OK || t->at >= t->ini.len || size < 2) return NULL;
    const char *p = (const char *)t->ini.ptr + t->at;
    size_t left = t->ini.len - t->at;
    const char *nl = memchr(p, '\n', left);
    size_t len = nl ? (size_t)(nl - p) + 1 : left;
    t->line++;
    t->goes_on = p[0] == ' ' || p[0] == '\t';
    if (len >= (size_t)size - 2) {
        t->rc = err_set(t->e, ERR_CONFIG, "%s:%d: the line is longer than %d bytes; go on with the value on an indented line",
                        t->name, t->line, size - 3);
        return NULL;
    }
    if (memchr(p, 0, len)) {
        t->rc = err_set(t->e, ERR_CONFIG, "%s:%d: a NUL byte in the text", t->name, t->line);
        return NULL;
    }
    if (!section_is_fine(t, p, len)) return NULL;
    memcpy(buf, p, len);
    buf[len] = 0;
    t->at += len;
    return buf;
}

/* Nearest of all keys, or of all sections when the section itself is unknown. */
static err_code unknown_key(ini_state *t, const char *section, const char *key)
{
    const char *keys[128];
    size_t n = 0;
    for (size_t i = 0; i < opt_count; i++)
        if (*opt_table[i].ini) keys[n++] = opt_table[i].ini;
    const char *near = nearest_word(key, keys, n);
    const char *hint = near ? " (did you mean " : "", *close = near ? "?)" : "";
    if (!near) near = "";
    if (!*section)
        return err_set(t->e, ERR_CONFIG, "%s:%d: key \"%.60s\" stands in front of any [section]%s%s%s", t->name, t->line, key, hint,
                       near, close);
    return err_set(t->e, ERR_CONFIG, "%s:%d: unknown key \"%.110s\"%s%s%s", t->name, t->line, key, hint, near, close);
}

static size_t find_key(const char *key)
{
    for (size_t i = 0; i < opt_count; i++)
        if (*opt_table[i].ini && !strcmp(opt_table[i].ini, key)) return i;
    return opt_count;
}

static err_code unescape(ini_state *t, text *out)
{
    static const char from[] = "nts\\", to[] = "\n\t \\";
    for (const char *c = t->value.ptr; *c; c++) {
        const char *esc = *c == '\\' ? strchr(from, c[1]) : NULL;
        if (*c == '\\' && (!c[1] || !esc))
            return err_set(t->e, ERR_CONFIG, "%s:%d: \"\\%.1s\" is no escape (\\n, \\t, \\s for a space, \\\\)", t->name,
                           t->value_line, c + 1);
        if (!text_add(out, esc ? &to[esc - from] : c, 1)) return err_set(t->e, ERR_NOMEM, "out of memory");
        if (esc) c++;
    }
    return ERR_OK;
}

/* The key before is complete: store it, unless the command line said otherwise. An empty text leaves the default. */
static err_code flush(ini_state *t)
{
    size_t i = t->last;
    text plain = { 0 };
    t->last = opt_count;
    if (i == opt_count) return ERR_OK;
    bool is_text = opt_table[i].kind == KIND_TEXT;
    if (is_text && !t->value.len) return ERR_OK;
    err_code rc = is_text ? unescape(t, &plain) : ERR_OK;
    char shown[200];
    snprintf(shown, sizeof shown, "%.100s:%d: %s", t->name, t->value_line, opt_table[i].ini);
    if (rc == ERR_OK) {
        settings other;
        bool mine = opt_table[i].commands & t->s->command && !opt_given(t->s, i);
        settings_init(&other, 0);
        rc = opt_store(mine ? t->s : &other, i, is_text ? plain.ptr : t->value.ptr, shown, ERR_CONFIG, t->e);
        settings_free(&other);
    }
    text_free(&plain);
    return rc;
}

static err_code take_key(ini_state *t, const char *section, const char *name, const char *value)
{
    char key[128];
    t->no_key = false;
    if (t->goes_on && t->last < opt_count)
        return text_adds(&t->value, value) ? ERR_OK : err_set(t->e, ERR_NOMEM, "out of memory");
    err_code rc = flush(t);
    if (rc != ERR_OK) return rc;
    snprintf(key, sizeof key, "%s%s%s", section, *section ? "." : "", name);
    size_t i = find_key(key);
    if (i == opt_count) return unknown_key(t, section, key);
    if (t->touched[i]) return err_set(t->e, ERR_CONFIG, "%s:%d: \"%s\" is there twice", t->name, t->line, key);
    t->touched[i] = true;
    t->last = i;
    t->value_line = t->line;
    text_clear(&t->value);
    return text_adds(&t->value, value) ? ERR_OK : err_set(t->e, ERR_NOMEM, "out of memory");
}

static int on_key(void *user, const char *section, const char *name, const char *value)
{
    ini_state *t = user;
    if (t->rc == ERR_OK) t->rc = take_key(t, section, name, value ? value : "");
    return t->rc == ERR_OK;
}

err_code settings_ini_view(settings *s, view ini, const char *name, err *e)
{
    err own;
    ini_state t = { .s = s, .name = name, .ini = ini, .no_key = true, .last = opt_count, .e = e ? e : &own };
    int bad = ini_parse_stream(next_line, &t, on_key, &t);
    if (bad > 0 && (t.rc == ERR_OK || bad < t.line)) /* libinih reads on after a bad line; the first mistake is the one to name */
        t.rc = err_set(t.e, ERR_CONFIG, "%s:%d: neither a [section] nor key = value", name, bad);
    if (t.rc == ERR_OK && bad < 0) t.rc = err_set(t.e, ERR_NOMEM, "%s: out of memory", name);
    if (t.rc == ERR_OK) t.rc = flush(&t);
    text_free(&t.value);
    return t.rc;
}

err_code settings_ini(settings *s, const char *path, err *e)
{
    text ini = { 0 };
    err_code rc = text_read_file(&ini, path, INI_BYTES_MAX, e);
    if (rc == ERR_OK) rc = settings_ini_view(s, (view){ ini.ptr, ini.len }, path, e);
    text_free(&ini);
    return rc;
}
