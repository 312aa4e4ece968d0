/* Messages as one line of text for logs and traces. Writes only; never trusts a peer's string to be printable. */
#include "proto/message_table.h"
#include <inttypes.h>

static void print_string(const char *s, FILE *out)
{
    fputc('"', out);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') fprintf(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7f) fprintf(out, "\\x%02x", c);
        else fputc(c, out);
    }
    fputc('"', out);
}

/* Optional fields at their default say nothing and are left out. */
static void print_field(const message *m, const field_desc *f, FILE *out)
{
    const void *v = (const char *)m + f->offset;
    switch (f->kind) {
    case FIELD_U:
        if (f->required || *(const uint64_t *)v != f->def) fprintf(out, " %s=%" PRIu64, f->name, *(const uint64_t *)v);
        break;
    case FIELD_F:
        if (f->required || *(const double *)v != f->f_def) fprintf(out, " %s=%g", f->name, *(const double *)v);
        break;
    case FIELD_B:
        if (*(const bool *)v) fprintf(out, " %s", f->name);
        break;
    case FIELD_S:
        if (!f->required && !*(const char *)v) break;
        fprintf(out, " %s=", f->name);
        print_string(v, out);
        break;
    }
}

void msg_print(const message *m, FILE *out)
{
    fputs(msg_name(m->type), out);
    const message_desc *d = message_desc_of(m->type);
    uint32_t n = 0;
    const field_desc *f = d ? d->fields(&n) : NULL;
    for (uint32_t i = 0; i < n; i++) print_field(m, &f[i], out);
    fputc('\n', out);
}
