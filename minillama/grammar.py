"""Sentences in English, French and Chinese, some to learn from and some to be tested on. Chapter 08.

Words and rules are in grammar.toml and phrases.py. What is tested are combinations: words that training has shown
many times, but never together. The cat of training sleeps, hides and dances; it never sits.
"""

import random
from collections.abc import Callable

from minillama.phrases import COLOURS, Phrase, Sentence, Triple, look_up, words

SIZES_AND_AGES = ("small", "big", "old", "worn")  # what English says before a colour


def draw(rng: random.Random) -> Sentence:
    """Any sentence of the grammar."""
    nouns, verb = words()["nouns"], rng.choice(["was", "was", *words()["verbs"]])

    def nouns_of(kinds: str) -> list[str]:
        return [noun for noun in nouns if nouns[noun]["kind"] in kinds.split()]

    if verb == "was":
        subject = draw_phrase(rng, nouns_of("animal human thing fruit furniture"), "the this my our", plain=True)
        return Sentence(subject, verb, adjective=rng.choice(nouns[subject.noun]["adjectives"].split()))
    forms = words()["verbs"][verb]
    subject, thing, place = draw_phrase(rng, nouns_of(forms.get("subjects", "animal human"))), None, None
    if "objects" in forms:
        thing = draw_phrase(rng, [noun for noun in nouns_of(forms["objects"]) if noun != subject.noun])
    if not thing or rng.random() < 0.3:
        preposition = forms.get("where") or rng.choice(["on", "under", "behind", "before", "beside", "in"])
        places = [noun for noun in nouns if preposition in nouns[noun].get("where", "").split()]
        places = [noun for noun in places if not thing or noun != thing.noun]
        place = preposition, draw_phrase(rng, places, forms.get("determiners"))
    return Sentence(subject, verb, thing, place)


def draw_phrase(rng: random.Random, nouns: list[str], determiners: str | None = None, plain: bool = False) -> Phrase:
    """A phrase around one of the nouns, with one of the determiners; a plain one has no adjectives."""
    noun = rng.choice(nouns)
    kind, adjectives = look_up("noun", noun)["kind"], look_up("noun", noun)["adjectives"].split()
    fitting = words()["kinds"][kind].split()
    determiner = rng.choice([d for d in fitting if determiners is None or d in determiners.split()])
    # No "some" for people: "some young girls" are "des jeunes filles", against the rule for adjectives in front.
    one = determiner == "a" and kind == "human"
    plural = determiner in ("two", "three") or (not one and rng.random() < 0.4)
    if plain or rng.random() < 0.5:
        return Phrase(determiner, noun, (), plural)
    first, second = rng.choice(adjectives), rng.choice(adjectives)
    both = first in SIZES_AND_AGES and second in COLOURS and rng.random() < 0.6
    return Phrase(determiner, noun, (first, second) if both else (first,), plural)


def sentences(n: int, seed: int) -> list[Triple]:
    """n different sentences to train on: (English, French, Chinese). No pair of words that is held out meets in them.

    Errors: ValueError unless n is 1 to 100,000.
    """
    return _collect(n, seed, lambda sentence: not sentence.is_held_out)


def held_out(n: int, seed: int) -> list[Triple]:
    """n different sentences to test on: each holds a pair of words that never meet in `sentences`."""
    return _collect(n, seed, lambda sentence: sentence.is_held_out)


def _collect(n: int, seed: int, wanted: Callable[[Sentence], bool]) -> list[Triple]:
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 100_000:
        raise ValueError(f"n: {n!r}, expected a whole number from 1 to 100,000; ask for fewer")
    rng, found = random.Random(seed), dict[Triple, None]()
    while len(found) < n:
        sentence = draw(rng)
        if wanted(sentence):
            found[sentence.triple()] = None
    return list(found)
