#!/usr/bin/env python3
"""Text -> tokenizer -> training arrays.

Writes to OUTDIR:
  tok.model, tok.vocab   SentencePiece BPE model (kept when it is there already: base and auxiliary share one)
  sp.txt                 the text that the tokenizer was trained on
  toks.u16               token ids of all documents, packed as <s> ... </s>, little-endian uint16
  wts.u8                 the weight of each token in the loss: 1, answers 4, copies 3, "I do not know." 2, <s> 0

Needs NumPy and SentencePiece, and a folder with war-and-peace.txt, tinyshakespeare.txt and gsm8k.train.jsonl.
"""
import argparse
import os
import pathlib
import random

import world

VOCABULARY = 4096
BOS, EOS = 1, 2
DOCUMENT_MAX = 4096         # tokens; a longer document is cut
TOKENIZER_SAMPLES = 20000   # synthetic documents in the tokenizer's text
TOKENIZER_PIECE = 2000      # characters of natural text a line of the tokenizer's text
NATURAL_PIECE = 3000        # characters of natural text a training document
WORLD_SEED = 1              # one stream for the tokenizer's text and then the documents
NATURAL_SEED = 2            # order of the natural pieces


def draw_kind(rng: random.Random):
    generators = [generator for generator, _ in world.KINDS.values()]
    shares = [share for _, share in world.KINDS.values()]
    return rng.choices(generators, shares)[0]


def plain(document: world.Document) -> str:
    return "".join(text for text, _ in document)


def train_tokenizer(natural: list, rng: random.Random, out: pathlib.Path) -> None:
    import sentencepiece
    with open(out / "sp.txt", "w", encoding="utf8") as lines:
        for document in natural:
            for at in range(0, len(document), TOKENIZER_PIECE):
                lines.write(document[at:at + TOKENIZER_PIECE].replace("\n", " ") + "\n")
        for _ in range(TOKENIZER_SAMPLES):
            lines.write(plain(draw_kind(rng)(rng)).replace("\n", " ") + "\n")
    sentencepiece.SentencePieceTrainer.train(
        input=str(out / "sp.txt"), model_prefix=str(out / "tok"), vocab_size=VOCABULARY, model_type="bpe", byte_fallback=True,
        split_digits=True, character_coverage=0.9995, normalization_rule_name="identity", remove_extra_whitespaces=False,
        max_sentence_length=20000, input_sentence_size=60000, shuffle_input_sentence=True, unk_id=0, bos_id=BOS, eos_id=EOS,
        pad_id=-1, num_threads=2)


def segment_weights(pieces: list, document: world.Document) -> list:
    """The weight of every piece: that of the segment in which it ends.

    The text is encoded once as a whole, so pieces may cross segments; lengths in characters align the two. SentencePiece
    puts one space in front, which is why the count starts at -1; a byte piece <0xNN> counts as one character."""
    bounds, end = [], 0
    for text, weight in document:
        end += len(text)
        bounds.append((end, weight))
    weights, at, segment = [], -1, 0
    for piece in pieces:
        at += 1 if piece.startswith("<0x") else len(piece)
        while segment < len(bounds) - 1 and at > bounds[segment][0]:
            segment += 1
        weights.append(bounds[segment][1])
    return weights


def encode(tokenizer, document: world.Document):
    """Token ids and weights of a document with its <s> and </s>, at most DOCUMENT_MAX of them."""
    text = plain(document)
    ids = tokenizer.encode(text)
    if len(document) == 1:
        weights = [1] * len(ids)
    else:
        weights = segment_weights(tokenizer.encode(text, out_type=str), document)
    return ([BOS] + ids + [EOS])[:DOCUMENT_MAX], ([0] + weights + [1])[:DOCUMENT_MAX]


class NaturalPieces:
    """The natural text in shuffled pieces, over and over."""

    def __init__(self, natural: list):
        self.pieces = [document[at:at + NATURAL_PIECE].replace("\r", "")
                       for document in natural for at in range(0, len(document), NATURAL_PIECE)]
        random.Random(NATURAL_SEED).shuffle(self.pieces)
        self.taken = 0

    def next(self) -> world.Document:
        piece = self.pieces[self.taken % len(self.pieces)]
        self.taken += 1
        return [(piece, 1)]


def pack(tokenizer, natural: list, rng: random.Random, count: int):
    """`count` tokens and a little more; at every document the kind furthest below its share is next."""
    import numpy
    tokens = numpy.empty(count + DOCUMENT_MAX, numpy.uint16)
    weights = numpy.empty(count + DOCUMENT_MAX, numpy.uint8)
    pieces = NaturalPieces(natural)
    targets = {kind: share for kind, (_, share) in world.KINDS.items()}
    targets["natural"] = 1 - sum(targets.values())
    used = dict.fromkeys(targets, 0)
    at = 0
    while at < count:
        kind = min(targets, key=lambda k: used[k] / targets[k])
        document = pieces.next() if kind == "natural" else world.KINDS[kind][0](rng)
        ids, loss_weights = encode(tokenizer, document)
        tokens[at:at + len(ids)] = ids
        weights[at:at + len(ids)] = loss_weights
        at += len(ids)
        used[kind] += len(ids)
    shares = {kind: round(n / at, 3) for kind, n in used.items()}
    print("tokens", at, shares, "natural epochs", pieces.taken / len(pieces.pieces))
    return tokens[:at], weights[:at]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tokenizer and write the training arrays.")
    parser.add_argument("millions", type=float, help="tokens to write, in millions (base: 18, auxiliary: 8)")
    parser.add_argument("out", type=pathlib.Path, nargs="?", default=pathlib.Path("."), help="output folder (default .)")
    parser.add_argument("--text", type=pathlib.Path, default=pathlib.Path(os.environ.get("SLUICE_TEXT", "text")),
                        help="folder with the natural text (default $SLUICE_TEXT, else text)")
    args = parser.parse_args()
    natural = world.natural_documents(args.text)
    print("natural characters", sum(map(len, natural)), "documents", len(natural), flush=True)
    rng = random.Random(WORLD_SEED)
    if not (args.out / "tok.model").exists():
        train_tokenizer(natural, rng, args.out)
    import sentencepiece
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(args.out / "tok.model"))
    tokens, weights = pack(tokenizer, natural, rng, int(args.millions * 1e6))
    tokens.tofile(args.out / "toks.u16")
    weights.tofile(args.out / "wts.u8")


if __name__ == "__main__":
    main()
