#!/usr/bin/env python3
"""Write the demo corpus and its questions: configs/demo/corpus/ and configs/demo/questions.jsonl.

People of the synthetic world (world.py) whom sluice-tiny does not know by heart, so that it can answer only by retrieval:
  people.jsonl      one document a line (id, title, text)
  village.md        a heading for each person
  letters/NAME.txt  a file for each person
and one question about each, in the form of the model's training: {"id", "question", "answer"}.

The same seed writes the same bytes. Needs only the standard library.
"""
import argparse
import json
import pathlib
import random

import world

IN_JSONL, IN_MARKDOWN, IN_TEXT = 40, 12, 8
FACTS = (2, 3, 4)


def all_names(facts) -> set:
    """Names that facts mention: of the person, the friend, the pet, a place that is a name."""
    words = set()
    for fact in facts:
        words.update([fact.name, *fact.value.split()])
    return words


def make_people(rng: random.Random, count: int) -> list:
    """People whose names occur nowhere else: not in the canon, not as a friend, pet or place of another."""
    taken, people = all_names(world.CANON), []
    while len(people) < count:
        person = world.make_person(rng, count=rng.choice(FACTS))
        if person[0].name in taken or taken & (all_names(person) - common_words()):
            continue
        taken |= all_names(person)
        people.append(person)
    return people


def common_words() -> set:
    """Words that values may share: trades, foods, and what else is no name."""
    phrases = (world.COLOURS + world.TRADES + world.PETS + world.FOODS + world.INSTRUMENTS + world.PLACE_ADJECTIVES
               + world.PLACE_NOUNS + ["named"] + [str(year) for year in range(1100, 1900)])
    return set(" ".join(phrases).split())


def write_jsonl(path: pathlib.Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")


def write_corpus(rng: random.Random, people: list, folder: pathlib.Path) -> None:
    told = [(person[0].name, world.passage(rng, person)) for person in people]
    lines, sections, letters = told[:IN_JSONL], told[IN_JSONL:IN_JSONL + IN_MARKDOWN], told[IN_JSONL + IN_MARKDOWN:]
    (folder / "letters").mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "people.jsonl",
                [{"id": f"person-{number}", "title": name, "text": text} for number, (name, text) in enumerate(lines, 1)])
    village = "# Village\n" + "".join(f"\n## {name}\n\n{text}\n" for name, text in sections)
    (folder / "village.md").write_text(village, encoding="utf8")
    for name, text in letters:
        (folder / "letters" / f"{name}.txt").write_text(text + "\n", encoding="utf8")


def make_questions(rng: random.Random, people: list) -> list:
    rows = []
    for number, person in enumerate(people, 1):
        fact = rng.choice(person)
        rows.append({"id": f"demo-{number}", "question": world.ask(rng, fact), "answer": fact.answer()})
    return rows


def main() -> None:
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Write the demo corpus and its questions.")
    parser.add_argument("--out", type=pathlib.Path, default=here.parent.parent / "configs" / "demo",
                        help="folder that gets corpus/ and questions.jsonl (default configs/demo)")
    parser.add_argument("--seed", type=int, default=2024)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    people = make_people(rng, IN_JSONL + IN_MARKDOWN + IN_TEXT)
    write_corpus(rng, people, args.out / "corpus")
    questions = make_questions(rng, people)
    write_jsonl(args.out / "questions.jsonl", questions)
    print(f"{len(people)} people and {len(questions)} questions in {args.out}")


if __name__ == "__main__":
    main()
