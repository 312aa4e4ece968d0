#ifndef PROTO_SEAL_H
#define PROTO_SEAL_H
/* The seal of a data or bulk message: one more frame behind the payload, 8 bytes, little-endian: a hash of header and frames.
 * tcp and CURVE guard a wire; this guards what lies between two programs of ours, so that a flipped bit in an activation is a
 * lost message and never another answer. It is no signature: who may speak is the keys' business. Any thread. */
#include "core/buf.h"

#define SEAL_BYTES 8u

/* XXH3 (64 bits) over the parts in order, each seeded with the hash of those before it: moving bytes from one frame to the next
 * changes it too. */
uint64_t seal_of(const view *part, uint32_t n);
#endif
