#ifndef PROTO_MESSAGE_H
#define PROTO_MESSAGE_H
/* Message headers: structs, encode, decode, checks, printing, all from proto/messages.def. No sockets here.
 * Any thread; a codec object is one thread's. */
#include "core/buf.h"
#include "core/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define PROTO_MAJOR 4u
#define PROTO_MINOR 0u
#define MSG_HEADER_MAX 4096u     /* bytes of an encoded header; larger ones are refused before unpacking */
#define MSG_FRAMES_MAX 5u        /* payload frames of the message that has most */
#define MSG_NO_ROW UINT32_MAX

/* 1: one struct per record, laid out as on the wire (little-endian hosts only, checked when compiled) */
#define REC(name, bytes) typedef struct {
#define R8(f, doc) uint8_t f;
#define R16(f, doc) uint16_t f;
#define R32(f, doc) uint32_t f;
#define R64(f, doc) uint64_t f;
#define RF(f, doc) float f;
#define RECEND(name, bytes) } name; _Static_assert(sizeof(name) == (bytes), #name " has padding");
#include "proto/messages.def"

/* 2: one struct per message */
#define MSG(NAME, name, id, socket, what) typedef struct {
#define U(k, f, lo, hi, doc) uint64_t f;
#define UO(k, f, lo, hi, def, doc) uint64_t f;
#define F(k, f, lo, hi, doc) double f;
#define FO(k, f, lo, hi, def, doc) double f;
#define S(k, f, max, doc) char f[(max) + 1];
#define SO(k, f, max, doc) char f[(max) + 1];
#define BO(k, f, doc) bool f;
#define END(NAME, name) } msg_##name;
#include "proto/messages.def"

/* 3: ids, and one union that can hold any message */
typedef enum {
    MSG_NONE = 0,
#define MSG(NAME, name, id, socket, what) MSG_##NAME = id,
#include "proto/messages.def"
} msg_type;

typedef struct {
    msg_type type;
    union {
#define MSG(NAME, name, id, socket, what) msg_##name name;
#include "proto/messages.def"
    };
} message;

/* 4: payload frames by position in the table (message.c checks these names against it) */
enum { STEP_ROWS, STEP_OPS, STEP_HOPS, STEP_HIDDEN, STEP_PICKS };
enum { RESULT_ROWS, RESULT_CANDS, RESULT_FULL, RESULT_HIDDEN };
enum { SUBMIT_PROMPT, SUBMIT_TOKENS, SUBMIT_STOP, SUBMIT_BIAS };
enum { TOKEN_TOKENS, TOKEN_TOP, TOKEN_TEXT };
enum { SCORED_ROWS, SCORED_FULL };
enum { DONE_TEXT, DONE_PASSAGES, DONE_PROMPT, DONE_MASK };
enum { PASSAGES_RECS, PASSAGES_BYTES };

enum { WANT_CANDIDATES = 1, WANT_ROW = 2, WANT_HIDDEN = 4 };
enum { OP_COMMIT = 1, OP_FORK = 2, OP_TRUNCATE = 3, OP_KEEP = 4, OP_SKIP = 5 };

const char *msg_name(msg_type t);
/* A message with every optional field at its default. */
message msg_init(msg_type t);
/* How many payload frames a message type has. */
uint32_t msg_frames(msg_type t);
/* Write the header of `m` into buf; *len is capacity on entry, bytes used on return. Range mistakes are refused too. */
err_code msg_encode(const message *m, void *buf, size_t *len, err *e);
/* Read one header. Size, nesting, claimed counts are checked before unpacking; then id, kinds, ranges, required keys,
 * doubled keys, trailing bytes. *m is whole or untouched. */
err_code msg_decode(message *m, const void *buf, size_t len, err *e);
/* Do the payload frames fit the header (count; bytes of each = count x record, rows x cols x 4, or <= max)? */
err_code msg_check_frames(const message *m, const view *frames, uint32_t n, err *e);
/* One line for logs and traces, its newline included; optional fields at their default are left out. */
void msg_print(const message *m, FILE *out);
/* docs/PROTOCOL.md, from the table. */
void msg_write_protocol(FILE *out);
#endif
