#ifndef PROTO_MESSAGE_TABLE_H
#define PROTO_MESSAGE_TABLE_H
/* messages.def as arrays, so that the codec, the printer, the protocol page and the tests are loops over one table.
 * For proto/ and tests only; everyone else uses proto/message.h. Constant data: any thread. */
#include "proto/message.h"

typedef enum { FIELD_U, FIELD_F, FIELD_S, FIELD_B } field_kind;
typedef struct {
    const char *name, *doc;
    field_kind kind;
    uint32_t key;
    uint32_t offset;              /* of the member in `message` */
    bool required;
    uint64_t lo, hi, def;         /* U: range, default; S: hi = bytes at most */
    double f_lo, f_hi, f_def;     /* F: range, default */
} field_desc;

typedef enum { FRAME_TABLE, FRAME_TENSOR, FRAME_BYTES } frame_kind;
typedef struct {
    const char *name, *doc;
    frame_kind kind;
    const char *record, *rows_name, *cols_name;
    uint32_t record_size;         /* TABLE: bytes of a record; TENSOR: bytes of an f32 */
    uint32_t rows_at, cols_at;    /* offsets in `message` of the counts; cols_at 0: no columns */
    uint64_t max;                 /* BYTES: at most */
} frame_desc;

typedef struct {
    const char *name, *lane, *what;
    uint32_t id;
    const field_desc *(*fields)(uint32_t *n);   /* ascending keys */
    const frame_desc *(*frames)(uint32_t *n);   /* wire order */
} message_desc;

typedef struct { const char *name, *type, *doc; uint32_t offset; } record_field;
typedef struct {
    const char *name;
    uint32_t bytes;
    const record_field *(*fields)(uint32_t *n);
} record_desc;

/* NULL: no message has this id. */
const message_desc *message_desc_of(uint64_t id);
/* The i-th message (record) in the order of the file; NULL past the end. */
const message_desc *message_desc_at(uint32_t i);
const record_desc *record_desc_at(uint32_t i);
#endif
