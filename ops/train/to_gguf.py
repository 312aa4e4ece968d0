#!/usr/bin/env python3
"""Checkpoint of train.py + SentencePiece model -> GGUF version 3, architecture "llama", float32 or Q8_0.

train.py rotates interleaved pairs, which is what GGUF's "llama" expects, so no matrix is permuted. Q8_0 (matrices only) follows
llama.cpp's quantize_row_q8_0_ref: blocks of 32 along the input dimension, scale max|x|/127 stored as float16, values rounded
half away from zero.

Needs NumPy, PyTorch and SentencePiece.
"""
import argparse
import pathlib
import struct

ALIGNMENT = 32
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9       # GGUF value types
TYPES = {"f32": (0, 0), "q8_0": (8, 7)}                     # tensor type, general.file_type
QUANTIZATION_VERSION = 2
Q8_BLOCK = 32
BLOCK_NAMES = (("attn_norm", "n1.w"), ("attn_q", "q.weight"), ("attn_k", "k.weight"), ("attn_v", "v.weight"),
               ("attn_output", "o.weight"), ("ffn_norm", "n2.w"), ("ffn_gate", "g.weight"), ("ffn_up", "u.weight"),
               ("ffn_down", "dn.weight"))


def gguf_string(value) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


class Metadata:
    """Key/value pairs in the order they are given."""

    def __init__(self):
        self.pairs = []

    def add(self, key, kind, data):
        self.pairs.append(gguf_string(key) + struct.pack("<I", kind) + data)

    def string(self, key, value):
        self.add(key, STRING, gguf_string(value))

    def u32(self, key, value):
        self.add(key, U32, struct.pack("<I", value))

    def f32(self, key, value):
        self.add(key, F32, struct.pack("<f", value))

    def flag(self, key, value):
        self.add(key, BOOL, struct.pack("<?", value))

    def array(self, key, kind, items):
        self.add(key, ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items))


def add_model(meta, args, state, file_type):
    vocabulary, width = state["e.weight"].shape
    meta.string("general.architecture", "llama")
    meta.string("general.name", args.name)
    meta.u32("general.alignment", ALIGNMENT)
    meta.string("general.license", "apache-2.0")
    meta.u32("llama.context_length", args.context)
    meta.u32("llama.embedding_length", width)
    meta.u32("llama.block_count", layer_count(state))
    meta.u32("llama.feed_forward_length", state["b.0.g.weight"].shape[0])
    meta.u32("llama.attention.head_count", args.heads)
    meta.u32("llama.attention.head_count_kv", args.kv_heads)
    meta.f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    meta.u32("llama.rope.dimension_count", width // args.heads)
    meta.f32("llama.rope.freq_base", 10000.0)
    meta.u32("llama.vocab_size", vocabulary)
    meta.u32("general.file_type", file_type)
    if file_type:
        meta.u32("general.quantization_version", QUANTIZATION_VERSION)


def token_type(tokenizer, token) -> int:
    """llama.cpp's token types: 2 unknown, 3 control, 6 byte, 1 normal."""
    if tokenizer.is_unknown(token):
        return 2
    if tokenizer.is_control(token):
        return 3
    return 6 if tokenizer.is_byte(token) else 1


def add_tokenizer(meta, tokenizer, vocabulary):
    tokens = range(vocabulary)
    meta.string("tokenizer.ggml.model", "llama")
    meta.array("tokenizer.ggml.tokens", STRING, [gguf_string(tokenizer.id_to_piece(t)) for t in tokens])
    meta.array("tokenizer.ggml.scores", F32, [struct.pack("<f", tokenizer.get_score(t)) for t in tokens])
    meta.array("tokenizer.ggml.token_type", I32, [struct.pack("<i", token_type(tokenizer, t)) for t in tokens])
    meta.u32("tokenizer.ggml.bos_token_id", 1)
    meta.u32("tokenizer.ggml.eos_token_id", 2)
    meta.u32("tokenizer.ggml.unknown_token_id", 0)
    meta.flag("tokenizer.ggml.add_bos_token", True)
    meta.flag("tokenizer.ggml.add_eos_token", False)
    meta.flag("tokenizer.ggml.add_space_prefix", True)


def layer_count(state) -> int:
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith("b."))


def tensor_names(state):
    """(GGUF name, checkpoint name) in file order; the tied output matrix is not written."""
    yield "token_embd.weight", "e.weight"
    yield "output_norm.weight", "n.w"
    for layer in range(layer_count(state)):
        for gguf, name in BLOCK_NAMES:
            yield f"blk.{layer}.{gguf}.weight", f"b.{layer}.{name}"


def q8_0(matrix) -> bytes:
    """34 bytes a block: float16 scale, 32 signed bytes."""
    import numpy as np
    blocks = matrix.reshape(-1, Q8_BLOCK)
    scale = (np.abs(blocks).max(1, keepdims=True) / np.float32(127)).astype(np.float32)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = blocks * inverse
    values = (np.sign(scaled) * np.floor(np.abs(scaled) + np.float32(0.5))).astype(np.int8)
    return np.concatenate([scale.astype("<f2").view(np.int8), values], axis=1).tobytes()


def tensors(state, kind):
    """(name, shape, type, bytes); vectors stay float32."""
    for gguf, name in tensor_names(state):
        array = state[name].float().numpy()
        if kind == "q8_0" and array.ndim == 2:
            yield gguf, array.shape, TYPES[kind][0], q8_0(array)
        else:
            yield gguf, array.shape, TYPES["f32"][0], array.astype("<f4").tobytes()


def padding(size) -> bytes:
    return b"\0" * (-size % ALIGNMENT)


def write_gguf(path, meta, rows):
    info, offset = b"", 0
    for name, shape, kind, data in rows:
        dimensions = b"".join(struct.pack("<Q", n) for n in reversed(shape))
        info += gguf_string(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", kind, offset)
        offset += len(data) + len(padding(len(data)))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(rows), len(meta.pairs)) + b"".join(meta.pairs) + info
    with open(path, "wb") as out:
        out.write(header + padding(len(header)))
        for _, _, _, data in rows:
            out.write(data + padding(len(data)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint of train.py as GGUF.")
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path, help="tok.model of prepare.py")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("heads", type=int)
    parser.add_argument("kv_heads", type=int)
    parser.add_argument("context", type=int, help="2048 for the bundled models")
    parser.add_argument("name", help="general.name")
    parser.add_argument("--type", choices=list(TYPES), default="f32", help="of the matrices (default f32)")
    args = parser.parse_args()
    import sentencepiece
    import torch
    state = torch.load(args.checkpoint)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(args.tokenizer))
    meta = Metadata()
    add_model(meta, args, state, TYPES[args.type][1])
    add_tokenizer(meta, tokenizer, state["e.weight"].shape[0])
    write_gguf(args.out, meta, list(tensors(state, args.type)))
    print(args.out, "parameters", sum(t.numel() for t in state.values()))


if __name__ == "__main__":
    main()
