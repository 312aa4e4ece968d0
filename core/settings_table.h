#ifndef CORE_SETTINGS_TABLE_H
#define CORE_SETTINGS_TABLE_H
/* core/options.def as an array, for the files that implement core/settings.h and for those that write pages and completion
 * from it. Nobody else includes this: a program reads its settings. */
#include "core/settings.h"

typedef enum { KIND_FLAG, KIND_UINT, KIND_REAL, KIND_TEXT, KIND_LIST } opt_kind;

typedef struct {
    const char *name, *ini, *meta, *help, *why;   /* never NULL; "" where there is none */
    uint32_t commands;                            /* CMD_ bits, CMD_RARE too */
    opt_kind kind;
    char letter;                                  /* 0: none */
    size_t at;                                    /* offset in settings */
    double def;                                   /* FLAG, UINT, REAL; TEXT is NULL and LIST empty by default */
    uint64_t ulo, uhi;                            /* UINT */
    double rlo, rhi;                              /* REAL */
} opt_row;

extern const opt_row opt_table[];
extern const size_t opt_count;

/* Index of the option `name` of a command, opt_count when it has none. */
size_t opt_find(uint32_t command, const char *name);
/* Parse `value` into option i. `shown` is how the user wrote the option ("--top-k"), bad the code of a bad value. */
err_code opt_store(settings *s, size_t i, const char *value, const char *shown, err_code bad, err *e);
static inline bool opt_given(const settings *s, size_t i) { return s->given[i / 64] >> (i % 64) & 1; }
/* ENUM: a TEXT whose metavar lists the words, as in "a|b". */
static inline bool opt_is_enum(const opt_row *o)
{
    for (const char *c = o->meta; o->kind == KIND_TEXT && *c; c++)
        if (*c == '|') return true;
    return false;
}
#endif
