#!/usr/bin/env python3
"""SentencePiece's own ids for many texts: a second implementation for tests/unit/test_tokenizer_twin.c.
usage: sentencepiece_ids.py MODEL IN OUT [squeeze]      ends with 77 where python3-sentencepiece is not installed
IN: records (u32 length, bytes); OUT: records (u32 count, u32 ids). squeeze: as if the model removed extra white space."""
import struct
import sys

try:
    import sentencepiece
except ImportError:
    sys.exit(77)

model = open(sys.argv[1], "rb").read()
if len(sys.argv) > 4:
    # protobuf merges a repeated message into the first: normalizer_spec { remove_extra_whitespaces: true }
    model += b"\x1a\x02\x20\x01"
sp = sentencepiece.SentencePieceProcessor(model_proto=model)
data, at = open(sys.argv[2], "rb").read(), 0
with open(sys.argv[3], "wb") as out:
    while at < len(data):
        (n,) = struct.unpack_from("<I", data, at)
        ids = sp.encode(data[at + 4 : at + 4 + n])
        out.write(struct.pack("<%dI" % (len(ids) + 1), len(ids), *ids))
        at += 4 + n
