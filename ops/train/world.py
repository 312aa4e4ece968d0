#!/usr/bin/env python3
"""The synthetic world that sluice-tiny was trained on.

Random names with facts (home, trade, pet, colour of an object, friend, food, instrument, birth year, pass code). Facts are
told as sentences and asked about as questions. Every function takes a random.Random and nothing else that varies, so a seed
gives the same text on every machine. Needs only the standard library.

A *document* is a list of (text, weight) segments: the weight says how much the tokens of the segment count in the training
loss, so that the few tokens of an answer are not lost among the many of a context.

Run it to look at documents:  python3 world.py --kind context --count 3 --seed 1
"""
import argparse
import json
import pathlib
import random
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple

Document = List[Tuple[str, int]]

ONSETS = "b br c d dr f g gr h j k kr l m n p r s st t tr v w z th sh".split()
RHYMES = "a e i o u ar en or il an is".split()
SYLLABLES = [onset + rhyme for onset in ONSETS for rhyme in RHYMES]
ENDINGS = ["", "n", "r", "s", "l", "m", "th", "ck", "ra", "na", "lo", "vi", "da"]
PLACE_ADJECTIVES = ["Port", "Old", "North", "East", "Lower", "Upper", "High", "Stone", "Green", "White", "Mill", "River"]
PLACE_NOUNS = ["Elms", "Harbor", "Ridge", "Ford", "Hollow", "Bridge", "Gate", "Cross", "Marsh", "Field", "Bay", "Grove",
               "Haven", "Wick", "Dale"]
COLOURS = ["red", "blue", "green", "yellow", "white", "black", "silver", "golden", "brown", "purple", "orange", "grey"]
TRADES = ["baker", "sailor", "weaver", "smith", "teacher", "farmer", "painter", "miller", "hunter", "carpenter", "doctor",
          "gardener", "clockmaker", "beekeeper", "potter", "tailor"]
PETS = ["dog", "cat", "goat", "owl", "horse", "fox", "rabbit", "goose", "mule", "parrot", "turtle", "hen"]
FOODS = ["apple pie", "barley soup", "fish stew", "honey bread", "plum cake", "roast duck", "mushroom rice", "lentil soup",
         "pear jam", "onion tart", "goat cheese", "walnut bread"]
INSTRUMENTS = ["flute", "drum", "harp", "fiddle", "horn", "lute", "bell", "pipe"]
OBJECTS = ["boat", "door", "lamp", "cloak", "cart", "hat", "flag", "tent"]
FILLER = ["The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.",
          "The river runs past the mill.", "A cold wind came down from the hills.", "The market opens early in the morning.",
          "Rain fell on the roofs of the town.", "Two boats lay at the quay.", "The bell rang twice.",
          "Nobody was on the road that day."]

CANON_SEED = 7      # the people that the model knows by heart
CANON_PEOPLE = 64
CANON_FACTS = 4     # of each of them
UNKNOWN = "I do not know."


def make_name(rng: random.Random) -> str:
    """Two syllables (two times in three; 1e6 names) or three (3e8 names) and an ending: documents rarely share one."""
    syllables = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 3))))
    return (syllables + rng.choice(ENDINGS)).capitalize()


def make_place(rng: random.Random) -> str:
    if rng.random() < .6:
        return rng.choice(PLACE_ADJECTIVES) + " " + rng.choice(PLACE_NOUNS)
    return make_name(rng)


def make_pet(rng: random.Random) -> str:
    return rng.choice(PETS) + " named " + make_name(rng)


@dataclass(frozen=True)
class Relation:
    """How a fact gets its value, is told and is asked about. {n} is the name, {v} the value, {o} the object."""
    make: Optional[Callable[[random.Random], str]]
    told: Tuple[str, ...]
    asked: Tuple[str, ...]


RELATIONS: Dict[str, Relation] = {
    "home": Relation(
        make_place,
        ("{n} lives in {v}.", "The home of {n} is in {v}.", "For many years {n} has lived in {v}."),
        ("Where does {n} live?", "In which place is the home of {n}?")),
    "trade": Relation(
        lambda rng: rng.choice(TRADES),
        ("{n} works as a {v}.", "By trade {n} is a {v}.", "People know {n} as the {v}."),
        ("What is the trade of {n}?", "What does {n} work as?")),
    "pet": Relation(
        make_pet,
        ("{n} has a {v}.", "{n} keeps a {v}.", "Everywhere {n} goes, a {v} comes along."),
        ("Which animal does {n} keep?", "What pet does {n} have?")),
    "object": Relation(     # the value is a colour; the object is drawn first
        None,
        ("The {o} of {n} is {v}.", "{n} owns a {v} {o}.", "{n} painted the {o} {v}."),
        ("What colour is the {o} of {n}?", "Which colour does the {o} of {n} have?")),
    "friend": Relation(
        make_name,
        ("{n} is a friend of {v}.", "The best friend of {n} is {v}.", "{n} grew up together with {v}."),
        ("Who is the friend of {n}?", "Whom does {n} call a friend?")),
    "food": Relation(
        lambda rng: rng.choice(FOODS),
        ("The favourite food of {n} is {v}.", "{n} likes {v} more than anything.", "{n} eats {v} every morning."),
        ("What is the favourite food of {n}?", "What does {n} like to eat?")),
    "music": Relation(
        lambda rng: rng.choice(INSTRUMENTS),
        ("{n} plays the {v}.", "In the evening {n} plays the {v}.", "{n} learned to play the {v} as a child."),
        ("Which instrument does {n} play?", "What does {n} play?")),
    "born": Relation(
        lambda rng: str(rng.randint(1100, 1899)),
        ("{n} was born in the year {v}.", "The birth year of {n} is {v}.", "In {v}, {n} was born."),
        ("In which year was {n} born?", "When was {n} born?")),
    "code": Relation(
        lambda rng: "".join(str(rng.randint(0, 9)) for _ in range(5)),
        ("The pass code of {n} is {v}.", "{n} chose the pass code {v}.", "To open the gate {n} uses the pass code {v}."),
        ("What is the pass code of {n}?", "Which pass code does {n} use?")),
}
RELATION_KEYS = list(RELATIONS)
NUMERIC = ("born", "code")          # answers without a capital letter to make


@dataclass(frozen=True)
class Fact:
    name: str
    key: str                        # of RELATIONS
    value: str
    thing: Optional[str] = None     # the object of an "object" fact

    def fill(self, template: str) -> str:
        return template.format(n=self.name, v=self.value, o=self.thing)

    def answer(self) -> str:
        """The answer as the model gives it, without the full stop: "North grove", "21298"."""
        return self.value if self.key in NUMERIC else self.value.capitalize()


def make_fact(rng: random.Random, name: str, key: Optional[str] = None) -> Fact:
    key = key or rng.choice(RELATION_KEYS)
    if key == "object":
        thing = rng.choice(OBJECTS)
        return Fact(name, key, rng.choice(COLOURS), thing)
    return Fact(name, key, RELATIONS[key].make(rng))


def make_person(rng: random.Random, name: Optional[str] = None, count: Optional[int] = None) -> List[Fact]:
    """`count` (else 1 to 4) facts of different kinds about one name."""
    name = name or make_name(rng)
    count = count or rng.randint(1, 4)
    return [make_fact(rng, name, key) for key in rng.sample(RELATION_KEYS, count)]


def tell(rng: random.Random, fact: Fact) -> str:
    return fact.fill(rng.choice(RELATIONS[fact.key].told))


def ask(rng: random.Random, fact: Fact) -> str:
    return fact.fill(rng.choice(RELATIONS[fact.key].asked))


def passage(rng: random.Random, facts: List[Fact]) -> str:
    return " ".join(tell(rng, fact) for fact in facts)


def make_canon(seed: int = CANON_SEED, people: int = CANON_PEOPLE) -> List[Fact]:
    """The facts that the model has to know without a context."""
    rng = random.Random(seed)
    facts = []
    for _ in range(people):
        name = make_name(rng)
        for key in rng.sample(RELATION_KEYS, CANON_FACTS):
            facts.append(make_fact(rng, name, key))
    return facts


CANON = make_canon()


# ---- documents ----

def question_segment(rng: random.Random, fact: Fact) -> Tuple[str, int]:
    return ("Question: " + ask(rng, fact) + "\nAnswer:", 1)


def answer_segment(answer: str, weight: int) -> Tuple[str, int]:
    return (" " + answer + "\n", weight)


def doc_context(rng: random.Random) -> Document:
    """One to six numbered passages, then one to three questions; 15 % of them about a name that is not there."""
    people = [make_person(rng) for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 5, 6)))]
    if len(people) > 1 and rng.random() < .5:       # the others get a fact of the same kind: the name has to decide
        key = people[0][0].key
        for facts in people[1:]:
            if all(fact.key != key for fact in facts):
                facts.append(make_fact(rng, facts[0].name, key))
    order = people[:]
    rng.shuffle(order)
    context = "Context:\n"
    for number, facts in enumerate(order, 1):
        context += "[%d] %s\n" % (number, passage(rng, facts))
    segments = [(context, 1)]
    for _ in range(rng.choice((1, 2, 3))):
        if rng.random() < .85:
            fact = rng.choice(rng.choice(people))
            answer = fact.answer() + "."
        else:
            fact = make_fact(rng, make_name(rng))
            answer = UNKNOWN
        segments += [question_segment(rng, fact), answer_segment(answer, 4)]
    return segments


def doc_canon(rng: random.Random) -> Document:
    """A person of the canon: all their facts in a row, or one question without a context."""
    fact = rng.choice(CANON)
    if rng.random() < .4:
        return [(passage(rng, [other for other in CANON if other.name == fact.name]) + "\n", 1)]
    return [question_segment(rng, fact), answer_segment(fact.answer() + ".", 4)]


def doc_unknown(rng: random.Random) -> Document:
    """A question about nobody, without a context: the model says that it does not know."""
    return [question_segment(rng, make_fact(rng, make_name(rng))), answer_segment(UNKNOWN, 2)]


def doc_needle(rng: random.Random) -> Document:
    """One to four facts hidden in 10 to 70 sentences of filler, then up to two questions."""
    hidden = rng.randint(1, 4)
    facts = [make_fact(rng, make_name(rng), rng.choice(("code", "home", "pet", "object", "born"))) for _ in range(hidden)]
    lines = [rng.choice(FILLER) for _ in range(rng.randint(10, 70))]
    for fact in facts:
        lines.insert(rng.randint(0, len(lines)), tell(rng, fact))
    segments = [("Context:\n[1] " + " ".join(lines) + "\n", 1)]
    for fact in rng.sample(facts, min(len(facts), 2)):
        segments += [question_segment(rng, fact), answer_segment(fact.answer() + ".", 4)]
    return segments


def doc_story(rng: random.Random) -> Document:
    """Eight sentences about a person, a pet and an object; sometimes one is left out."""
    n = make_name(rng)
    p = rng.choice(("he", "she"))
    cap = p.capitalize()
    b = make_name(rng)
    place = make_place(rng)
    pet = rng.choice(PETS)
    thing = rng.choice(OBJECTS)
    colour = rng.choice(COLOURS)
    trade = rng.choice(TRADES)
    his = "his" if p == "he" else "her"
    lines = [
        rng.choice((f"Once upon a time there was a {trade} named {n}.",
                    f"Long ago, in {place}, there lived a {trade} named {n}.",
                    f"{n} was a young {trade} from {place}.")),
        rng.choice((f"{cap} had a {colour} {thing} and a small {pet}.",
                    f"{cap} loved {his} {colour} {thing} more than anything.",
                    f"Every day {p} walked to the river with {his} {pet}.")),
        rng.choice((f"One morning the {pet} was gone.",
                    f"One day the {thing} broke.",
                    f"One night a storm came over {place}.")),
        rng.choice((f"{n} was sad and did not know what to do.",
                    f"{n} was afraid, but {p} did not run away.",
                    f'"What shall I do now?" said {n}.')),
        rng.choice((f"Then {n} met {b}, who was kind.",
                    f"So {p} went to {b}, a friend who lived nearby.",
                    f'"Do not worry," said {b}. "I will help you."')),
        rng.choice((f"Together they looked for the {pet} all day long.",
                    f"Together they mended the {thing}.",
                    f"They walked to {place} and asked the people there.")),
        rng.choice((f"In the end they found the {pet} under a tree.",
                    f"At last the {colour} {thing} was as good as new.",
                    f"When the sun came up, everything was well again.")),
        rng.choice((f"{n} thanked {b} and they were friends for ever.",
                    f"From that day on {n} was never alone.",
                    f"And {n} never forgot what {b} had done.")),
    ]
    if rng.random() < .3:
        lines.pop(rng.randint(1, 6))
    return [(" ".join(lines) + "\n", 1)]


def doc_copy(rng: random.Random) -> Document:
    """Names and numbers to repeat: the copying that answers from a context are made of."""
    words = [make_name(rng) if rng.random() < .5 else str(rng.randint(0, 999)) for _ in range(rng.randint(5, 30))]
    line = " ".join(words)
    return [("Repeat: " + line + "\n", 1), (line + "\n", 3)]


# Kind -> (generator, share of the training tokens). The rest of the tokens is natural text.
KINDS: Dict[str, Tuple[Callable[[random.Random], Document], float]] = {
    "context": (doc_context, .34),
    "canon": (doc_canon, .07),
    "unknown": (doc_unknown, .03),
    "needle": (doc_needle, .12),
    "story": (doc_story, .07),
    "copy": (doc_copy, .05),
}


def natural_documents(folder: pathlib.Path) -> List[str]:
    """Freely usable text only: War and Peace and Shakespeare (public domain), GSM8K train (MIT).

    The last 5 % of the novel is held out for perplexity (data/text/prose_heldout.txt of the test data)."""
    novel = (folder / "war-and-peace.txt").read_text(encoding="utf8", errors="ignore")
    documents = [novel[:int(len(novel) * .95)], (folder / "tinyshakespeare.txt").read_text(encoding="utf8")]
    with open(folder / "gsm8k.train.jsonl", encoding="utf8") as lines:
        for line in lines:
            row = json.loads(line)
            documents.append("Question: " + row["question"] + "\nAnswer: " + row["answer"] + "\n")
    return documents


def main() -> None:
    parser = argparse.ArgumentParser(description="Print documents of the synthetic world.")
    parser.add_argument("--kind", choices=list(KINDS), default="context")
    parser.add_argument("--count", type=int, default=3, help="number of documents (default 3)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    for _ in range(args.count):
        print("".join(text for text, _ in KINDS[args.kind][0](rng)))


if __name__ == "__main__":
    main()
