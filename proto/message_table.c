/* The tables themselves, written by the preprocessor from messages.def. Constant data only: no codec here.
 * Each array sits in a function of its own because only there a row can say `self` for the struct it belongs to. */
#include "proto/message_table.h"
#include <stddef.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records travel as they lie in memory: little-endian hosts only");

#define BODY offsetof(message, hello) /* every union member starts here */
#define AT(f) (uint32_t)(BODY + offsetof(self, f))
#define COUNT_ROWS (uint32_t)(sizeof rows / sizeof *rows - 1)
#define FINISH {.name = NULL} }; (void)sizeof(self); *n = COUNT_ROWS; return rows; }

/* ---- fields ---- */
#define MSG(NAME, name, id, socket, what) \
    static const field_desc *fields_##name(uint32_t *n) { typedef msg_##name self; static const field_desc rows[] = {
#define ROW(kind_, k, f, required_, doc_, ...) \
    { .name = #f, .doc = doc_, .kind = kind_, .key = k, .offset = AT(f), .required = required_, __VA_ARGS__ },
#define U(k, f, lo_, hi_, doc_) ROW(FIELD_U, k, f, true, doc_, .lo = lo_, .hi = hi_)
#define UO(k, f, lo_, hi_, def_, doc_) ROW(FIELD_U, k, f, false, doc_, .lo = lo_, .hi = hi_, .def = def_)
#define F(k, f, lo_, hi_, doc_) ROW(FIELD_F, k, f, true, doc_, .f_lo = lo_, .f_hi = hi_)
#define FO(k, f, lo_, hi_, def_, doc_) ROW(FIELD_F, k, f, false, doc_, .f_lo = lo_, .f_hi = hi_, .f_def = def_)
#define S(k, f, max_, doc_) ROW(FIELD_S, k, f, true, doc_, .hi = max_)
#define SO(k, f, max_, doc_) ROW(FIELD_S, k, f, false, doc_, .hi = max_)
#define BO(k, f, doc_) ROW(FIELD_B, k, f, false, doc_, .hi = 1)
#define END(NAME, name) FINISH
#include "proto/messages.def"

/* ---- frames ---- */
#define MSG(NAME, name, id, socket, what) \
    static const frame_desc *frames_##name(uint32_t *n) { typedef msg_##name self; static const frame_desc rows[] = {
#define TABLE(frame, rec, count, doc_) \
    { .name = #frame, .doc = doc_, .kind = FRAME_TABLE, .record = #rec, .record_size = sizeof(rec), \
      .rows_at = AT(count), .rows_name = #count },
#define TENSOR(frame, rows_, cols_, doc_) \
    { .name = #frame, .doc = doc_, .kind = FRAME_TENSOR, .record_size = sizeof(float), .rows_at = AT(rows_), \
      .rows_name = #rows_, .cols_at = AT(cols_), .cols_name = #cols_ },
#define BYTES(frame, max_, doc_) { .name = #frame, .doc = doc_, .kind = FRAME_BYTES, .max = max_ },
#define END(NAME, name) FINISH
#include "proto/messages.def"

/* ---- record fields ---- */
#define REC(name, bytes) \
    static const record_field *record_##name(uint32_t *n) { typedef name self; static const record_field rows[] = {
#define RROW(type_, f, doc_) { .name = #f, .type = type_, .doc = doc_, .offset = (uint32_t)offsetof(self, f) },
#define R8(f, doc) RROW("u8", f, doc)
#define R16(f, doc) RROW("u16", f, doc)
#define R32(f, doc) RROW("u32", f, doc)
#define R64(f, doc) RROW("u64", f, doc)
#define RF(f, doc) RROW("f32", f, doc)
#define RECEND(name, bytes) FINISH
#include "proto/messages.def"

static const message_desc messages[] = {
#define MSG(NAME, name_, id_, socket, what_) \
    { .name = #name_, .lane = #socket, .what = what_, .id = id_, .fields = fields_##name_, .frames = frames_##name_ },
#include "proto/messages.def"
};

enum {
#define MSG(NAME, name_, id_, socket, what_) INDEX_##NAME,
#include "proto/messages.def"
};

static const uint8_t by_id[256] = { /* index + 1, so that 0 says: no such message */
#define MSG(NAME, name_, id_, socket, what_) [id_] = INDEX_##NAME + 1,
#include "proto/messages.def"
};

static const record_desc records[] = {
#define REC(name_, bytes_) { .name = #name_, .bytes = bytes_, .fields = record_##name_ },
#include "proto/messages.def"
};

const message_desc *message_desc_of(uint64_t id)
{
    return id < sizeof by_id && by_id[id] ? &messages[by_id[id] - 1] : NULL;
}

const message_desc *message_desc_at(uint32_t i)
{
    return i < sizeof messages / sizeof *messages ? &messages[i] : NULL;
}

const record_desc *record_desc_at(uint32_t i)
{
    return i < sizeof records / sizeof *records ? &records[i] : NULL;
}

const char *msg_name(msg_type t)
{
    const message_desc *d = message_desc_of(t);
    return d ? d->name : "?";
}

uint32_t msg_frames(msg_type t)
{
    const message_desc *d = message_desc_of(t);
    uint32_t n = 0;
    if (d) d->frames(&n);
    return n;
}
