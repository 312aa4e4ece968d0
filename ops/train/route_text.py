#!/usr/bin/env python3
"""Documents that say what leaving out layers costs: for `sluice calibrate --only route`, for first.py, and to judge both.

Documents are parted by blank lines; a form feed ends a document's prompt, and where there is none its first half is the prompt. Of the
64 people that the model knows by heart, questions about the first half are in `calibrate` and `train`; `closed` prints, of a file of
questions, those about the others. Seeds of the three parts differ from each other and from those of calibration_text.sh. Needs only the
standard library.

  route_text.py calibrate --natural wikitext2.valid.txt > calibrate.txt
  route_text.py heldout --natural prose_heldout.txt > heldout.txt
  route_text.py closed --questions qa_closed.jsonl > closed.jsonl
"""
import argparse
import json
import random
import sys

import world

SEEDS = {"calibrate": 20_000, "train": 30_000, "heldout": 40_000}
# Documents of each kind in a round; a round stays together, so that a stretch of the text has all kinds.
ROUND = ("context", "natural", "canon", "needle", "context", "story", "natural", "unknown", "context", "natural", "copy", "canon")
ROUNDS = {"calibrate": 36, "train": 400, "heldout": 16}
KNOWN = list(dict.fromkeys(fact.name for fact in world.CANON))
SEEN = set(KNOWN[:len(KNOWN) // 2])
FEWEST, MOST = 200, 700          # bytes of a natural document: 50 to 180 tokens


def asked(document):
    """The first question of a document behind a form feed, without the ones after it."""
    prompt = ""
    for text, weight in document:
        if weight > 1:
            return prompt + "\f" + text
        prompt += text
    return prompt


def canon(rng, names):
    fact = rng.choice([fact for fact in world.CANON if fact.name in names])
    return world.question_segment(rng, fact)[0] + "\f" + world.answer_segment(fact.answer() + ".", 4)[0]


def short(make, rng, bytes_most):
    """Long passages are drawn again: calibration reads 256 tokens of a document."""
    while True:
        document = asked(make(rng))
        if len(document) <= bytes_most:
            return document


def paragraphs(path):
    """Pieces of a natural text, in order: lines are joined until there are enough, and a piece ends with a line."""
    piece = ""
    for line in open(path, encoding="utf8", errors="ignore"):
        line = line.strip()
        if line.startswith("= "):        # a heading
            continue
        piece = (piece + "\n" + line)[:MOST] if line else piece
        if len(piece) >= FEWEST:
            yield piece.strip()
            piece = ""


def one(kind, rng, part, natural):
    if kind == "natural":
        return next(natural, None)
    if kind == "canon":
        return canon(rng, SEEN if part != "heldout" else set(KNOWN) - SEEN)
    if kind == "story":
        return world.doc_story(rng)[0][0]
    makers = {"context": world.doc_context, "needle": world.doc_needle, "unknown": world.doc_unknown, "copy": world.doc_copy}
    return short(makers[kind], rng, 800)


def write(part, path, rounds, out):
    natural = paragraphs(path) if path else iter(())
    for i in range(rounds or ROUNDS[part]):
        for k, kind in enumerate(ROUND):
            document = one(kind, random.Random(SEEDS[part] + i * len(ROUND) + k), part, natural)
            if document is not None:
                out.write(document.strip(" \n") + "\n\n")


def write_closed(path, out):
    for line in open(path, encoding="utf8"):
        if not any(name in json.loads(line)["prompt"] for name in SEEN):
            out.write(line)


def main():
    parser = argparse.ArgumentParser(description="Documents that say what leaving out layers costs.")
    parser.add_argument("part", choices=list(SEEDS) + ["closed"])
    parser.add_argument("--natural", help="a natural text, a piece of it every few documents (without: none)")
    parser.add_argument("--questions", help="closed: the file to choose from")
    parser.add_argument("--rounds", type=int, help=f"of {len(ROUND)} documents each (default {ROUNDS})")
    args = parser.parse_args()
    if args.part == "closed":
        write_closed(args.questions or parser.error("--questions is missing"), sys.stdout)
    else:
        write(args.part, args.natural, args.rounds, sys.stdout)


if __name__ == "__main__":
    main()
