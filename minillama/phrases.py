"""How a sentence is said in English, French and Chinese, right in every ending. Chapter 08.

The words are in grammar.toml, the rules here: French nouns have a gender, adjectives and participles agree, neighbours
melt; Chinese counts with measure words and says the place before most verbs.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

Triple = tuple[str, str, str]  # English, French, Chinese
VOWELS = "aeiouéh"  # no h in these words is aspirated: l'homme
ELIDED = {"le": "l'", "la": "l'", "de": "d'", "se": "s'", "ce": "cet ", "ma": "mon "}
CONTRACTED = {"à le ": "au ", "à les ": "aux ", "de le ": "du ", "de les ": "des "}
COLOURS = ("black", "white", "red", "green")


@cache
def words() -> dict[str, Any]:
    """What grammar.toml holds: determiners, nouns, ..., each with its forms."""
    return tomllib.loads((files("minillama") / "grammar.toml").read_text(encoding="utf-8"))


def look_up(kind: str, word: str) -> dict[str, Any]:
    """The forms of a word, such as the noun "cat". Errors: ValueError that lists the words there are."""
    known = words()[f"{kind}s"]
    if word not in known:
        raise ValueError(f"{kind}: {word!r}, expected one of {', '.join(known)}; add it to grammar.toml")
    return known[word]


def plural_of(french: str) -> str:
    """The plural of a French noun, adjective or participle: chats, souris, chevaux, chapeaux."""
    if french.endswith(("s", "x")):
        return french
    return french[:-1] + "ux" if french.endswith("al") else french + ("x" if french.endswith("eau") else "s")


def agree(adjective: str, person: int, following: str = "") -> str:
    """The French form for a person: 0 noir, 1 noire, 2 noirs, 3 noires; before a vowel vieux is vieil."""
    forms = look_up("adjective", adjective)
    if person == 0 and following.startswith(tuple(VOWELS)) and "vowel" in forms:
        return forms["vowel"]
    form = forms["french"][person % 2]
    return plural_of(form) if person >= 2 else form


def join_french(*words: str) -> str:
    """Put words side by side and let neighbours melt.

    >>> join_french("à", "la", "école"), join_french("à côté de", "le", "lit"), join_french("se", "est", "assis")
    ("à l'école", 'à côté du lit', "s'est assis")
    """
    text = re.sub(r"\bde des? ", "de ", " ".join(words))  # of + some: à côté de maisons
    text = re.sub(rf"\b(le|la|de|se|ce|ma) (?=[{VOWELS}])", lambda match: ELIDED[match[1]], text)
    return re.sub(r"\b(à|de) les? ", lambda match: CONTRACTED[match[0]], text)


@dataclass(frozen=True)
class Phrase:
    """A noun and what stands around it.

    determiner: one of grammar.toml's; the plural of "a" is "some".
    Errors: ValueError for a word that is not in grammar.toml, or "two" of one thing.

    >>> cats = Phrase("my", "cat", ("small", "black"), plural=True)
    >>> cats.english(), cats.french(), cats.chinese()
    ('my small black cats', 'mes petits chats noirs', '我的黑色的小猫')
    """

    determiner: str
    noun: str
    adjectives: tuple[str, ...] = ()
    plural: bool = False

    def __post_init__(self):
        look_up("noun", self.noun)
        for adjective in self.adjectives:
            look_up("adjective", adjective)
        if not look_up("determiner", self.determiner)["english"][self.plural]:
            raise ValueError(f"plural: {self.plural} after {self.determiner!r}, expected True; say plural=True")

    @property
    def person(self) -> int:
        """Which French form agrees: 0 masculine, 1 feminine, 2 and 3 their plurals."""
        return (look_up("noun", self.noun)["gender"] == "f") + 2 * self.plural

    def english(self) -> str:
        determiner = look_up("determiner", self.determiner)["english"][self.plural]
        plural = look_up("noun", self.noun).get("plural", self.noun + ("es" if self.noun.endswith("x") else "s"))
        rest = " ".join([*(spell("adjective", a) for a in self.adjectives), plural if self.plural else self.noun])
        return f"{'an' if determiner == 'a' and rest[0] in VOWELS[:5] else determiner} {rest}"

    def french(self) -> str:
        noun = look_up("noun", self.noun)["french"]
        said = plural_of(noun) if self.plural else noun
        determiner = look_up("determiner", self.determiner)["french"][min(self.person, 2)]
        for adjective in reversed(self.adjectives):
            if "before" not in look_up("adjective", adjective):
                continue
            said = f"{agree(adjective, self.person, said)} {said}"
            determiner = "de" if determiner == "des" else determiner  # de petits chats
        after = [agree(a, self.person) for a in self.adjectives if "before" not in look_up("adjective", a)]
        return join_french(determiner, said, *after)

    def chinese(self) -> str:
        measure, noun = look_up("noun", self.noun)["chinese"]
        determiner = look_up("determiner", self.determiner)["chinese"][self.plural].replace("*", measure)
        stems = [look_up("adjective", a)["chinese"] for a in self.adjectives]
        described = "".join(stem + "的" for stem in stems if len(stem) > 1)
        described += "".join(stem for stem in stems if len(stem) == 1)  # 黑色的小猫: short ones at the noun
        people = self.plural and self.determiner == "the" and look_up("noun", self.noun)["kind"] == "human"
        return determiner + described + noun + ("们" if people else "")


def spell(kind: str, word: str) -> str:
    """The English word; its name in grammar.toml, unless that has an entry of its own."""
    return look_up(kind, word).get("english", word)


@dataclass(frozen=True)
class Sentence:
    """Who did what, to whom, where; or with the verb "was" who was how.

    >>> Sentence(Phrase("the", "cat"), "sat", place=("on", Phrase("the", "mat"))).triple()
    ('The cat sat on the mat.', "Le chat s'est assis sur le tapis.", '猫坐在垫子上。')
    """

    subject: Phrase
    verb: str
    object: Phrase | None = None
    place: tuple[str, Phrase] | None = None  # preposition and phrase
    adjective: str = ""  # after "was"

    def triple(self) -> Triple:
        """The sentence in English, French and Chinese."""
        english, french = (text[0].upper() + text[1:] + "." for text in (self.english(), self.french()))
        return english, french, self.chinese() + "。"

    def english(self) -> str:
        if self.adjective:
            was = "were" if self.subject.plural else "was"
            return f"{self.subject.english()} {was} {spell('adjective', self.adjective)}"
        said = [self.subject.english(), spell("verb", self.verb)]
        said += [self.object.english()] if self.object else []
        said += [spell("preposition", self.place[0]), self.place[1].english()] if self.place else []
        return " ".join(said)

    def french(self) -> str:
        many = self.subject.plural
        if self.adjective:
            was = "étaient" if many else "était"
            return f"{self.subject.french()} {was} {agree(self.adjective, self.subject.person)}"
        verb = look_up("verb", self.verb)
        said, participle = [self.subject.french()], verb["french"]
        if verb["with"] == "avoir":
            said += ["ont" if many else "a", participle]
        else:  # with être the participle agrees: la souris s'est cachée
            participle += "e" if self.subject.person % 2 else ""
            said += ["se"] if verb["with"] == "se" else []
            said += ["sont" if many else "est", plural_of(participle) if many else participle]
        said += [self.object.french()] if self.object else []
        said += [look_up("preposition", self.place[0])["french"], self.place[1].french()] if self.place else []
        return join_french(*said)

    def chinese(self) -> str:
        if self.adjective:
            stem = look_up("adjective", self.adjective)["chinese"]
            return self.subject.chinese() + (f"是{stem}的" if self.adjective in COLOURS else f"很{stem}")
        verb = look_up("verb", self.verb)["chinese"]
        if self.object:  # found a key on the bed: at the bed's top, found a key
            verb = ("在#" if self.place else "") + verb.replace("@", self.object.chinese())
        if self.place:
            where = self.place[1].chinese() + look_up("preposition", self.place[0])["chinese"]
            verb = verb.replace("#", where)
        return self.subject.chinese() + verb

    def pairs(self) -> set[str]:
        """What meets here: "cat sat" (subject, verb), "found key" (verb, object), "black cat" (also: was black)."""
        phrases = [self.subject, *([self.object] if self.object else []), *([self.place[1]] if self.place else [])]
        pairs = {f"{adjective} {phrase.noun}" for phrase in phrases for adjective in phrase.adjectives}
        pairs |= {f"{self.adjective} {self.subject.noun}", f"{self.subject.noun} {self.verb}"}
        return pairs | ({f"{self.verb} {self.object.noun}"} if self.object else set())

    @property
    def is_held_out(self) -> bool:
        """Does it hold a pair that is kept from training?"""
        return any(not self.pairs().isdisjoint(pairs) for pairs in words()["held_out"].values())
