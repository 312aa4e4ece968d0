/* docs/PROTOCOL.md from the message table. Describes the wire; a sentence that the table could say belongs in the table. */
#include "proto/message_table.h"
#include <inttypes.h>

static const char intro[] =
    "# The protocol\n"
    "\n"
    "Written by `make protocol` from `proto/messages.def`; a test compares the two. Version %u.%u.\n"
    "\n"
    "A message is one ZeroMQ multipart message. Frame 0, the header, is a msgpack map `{0: id, key: value, ...}` of at most\n"
    "%u bytes. Then comes one frame for each payload row of the message, in table order, empty ones included, at most %u.\n"
    "A frame of records is exactly count x record size long, a tensor rows x columns x 4 (f32, little-endian), bytes at most\n"
    "their limit. Records are little-endian and have no padding.\n"
    "\n"
    "- Integers are unsigned msgpack integers of any width, floats are float64 or float32 (never NaN), strings are msgpack\n"
    "  strings without a NUL.\n"
    "- An optional field at its default is left out. A missing required field, a key that comes twice, a value out of range, a\n"
    "  byte behind the map and nesting deeper than 4 are refused, and the message with them.\n"
    "- Unknown keys are skipped, whatever they hold: a minor version adds optional keys, and both sides speak the smaller minor.\n"
    "  Another major version is refused at HELLO. Ids and keys are never used again.\n"
    "- A data or bulk message has one more frame behind its payload, the seal: XXH3 (64 bits, little-endian) of the header with\n"
    "  the number of frames before the seal as seed, then of each frame with the hash so far as seed. A message whose seal does\n"
    "  not fit is dropped; whoever misses it asks again.\n"
    "- Lanes never share a socket: control (DEALER at a worker, ROUTER at the coordinator), data and bulk (PUSH to PULL, one\n"
    "  direction), client (DEALER to ROUTER).\n";

static void print_range(const field_desc *f, FILE *out)
{
    switch (f->kind) {
    case FIELD_U:
        fprintf(out, "u64 | %" PRIu64 "..%" PRIu64 " | ", f->lo, f->hi);
        if (!f->required) fprintf(out, "%" PRIu64, f->def);
        break;
    case FIELD_F:
        fprintf(out, "f64 | %g..%g | ", f->f_lo, f->f_hi);
        if (!f->required) fprintf(out, "%g", f->f_def);
        break;
    case FIELD_S: fprintf(out, "string | 0..%" PRIu64 " bytes | %s", f->hi, f->required ? "" : "empty"); break;
    case FIELD_B: fprintf(out, "bool | | false"); break;
    }
}

static void print_fields(const message_desc *d, FILE *out)
{
    uint32_t n;
    const field_desc *f = d->fields(&n);
    fputs("\n| key | field | kind | range | default | meaning |\n|---|---|---|---|---|---|\n", out);
    for (uint32_t i = 0; i < n; i++) {
        fprintf(out, "| %u | %s | ", f[i].key, f[i].name);
        print_range(&f[i], out);
        fprintf(out, "%s| %s |\n", f[i].required ? "" : " ", f[i].doc);
    }
}

static void print_shape(const frame_desc *f, FILE *out)
{
    switch (f->kind) {
    case FRAME_TABLE: fprintf(out, "%s x %s (%u bytes)", f->rows_name, f->record, f->record_size); break;
    case FRAME_TENSOR: fprintf(out, "f32 [%s][%s]", f->rows_name, f->cols_name); break;
    case FRAME_BYTES: fprintf(out, "0..%" PRIu64 " bytes", f->max); break;
    }
}

static void print_frames(const message_desc *d, FILE *out)
{
    uint32_t n;
    const frame_desc *f = d->frames(&n);
    if (n) fputs("\n| frame | name | holds | meaning |\n|---|---|---|---|\n", out);
    for (uint32_t i = 0; i < n; i++) {
        fprintf(out, "| %u | %s | ", i + 1, f[i].name);
        print_shape(&f[i], out);
        fprintf(out, " | %s |\n", f[i].doc);
    }
}

static void print_message(const message_desc *d, FILE *out)
{
    fprintf(out, "\n### %u %s (%s)\n\n%s\n", d->id, d->name, d->lane, d->what);
    print_fields(d, out);
    print_frames(d, out);
}

static void print_record(const record_desc *r, FILE *out)
{
    uint32_t n;
    const record_field *f = r->fields(&n);
    fprintf(out, "\n### %s, %u bytes\n\n| offset | field | kind | meaning |\n|---|---|---|---|\n", r->name, r->bytes);
    for (uint32_t i = 0; i < n; i++) fprintf(out, "| %u | %s | %s | %s |\n", f[i].offset, f[i].name, f[i].type, f[i].doc);
}

void msg_write_protocol(FILE *out)
{
    fprintf(out, intro, PROTO_MAJOR, PROTO_MINOR, MSG_HEADER_MAX, MSG_FRAMES_MAX);
    fputs("\n## Messages\n", out);
    for (uint32_t i = 0; message_desc_at(i); i++) print_message(message_desc_at(i), out);
    fputs("\n## Records\n", out);
    for (uint32_t i = 0; record_desc_at(i); i++) print_record(record_desc_at(i), out);
}
