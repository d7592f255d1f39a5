import re
import zlib

import pytest

from minillama.grammar import held_out, sentences
from minillama.phrases import Phrase, Sentence, join_french, words
from minillama.translate import LONGEST, WordTokenizer

TRAINING, TEST = sentences(8000, seed=5), held_out(3000, seed=6)
THE_CAT = ("The cat sat on the mat.", "Le chat s'est assis sur le tapis.", "猫坐在垫子上。")


def said(subject, verb, obj=None, where=None, adjective=""):
    """Phrases in short: "the small cats" is Phrase("the", "cat", ("small",), plural=True)."""
    place = (where[0], short(where[1])) if where else None
    return Sentence(short(subject), verb, short(obj) if obj else None, place, adjective).triple()


def short(text):
    determiner, *adjectives, noun = text.split()
    plural = noun.endswith("+")
    return Phrase(determiner, noun.rstrip("+"), tuple(adjectives), plural)


# Written by hand, not by the program.
GOLDEN = [
    (said("the cat", "sat", where=("on", "the mat")), *THE_CAT),
    (said("the cat+", "sat", where=("on", "the mat")),
     "The cats sat on the mat.", "Les chats se sont assis sur le tapis.", "猫坐在垫子上。"),
    (said("the mouse", "sat", where=("on", "the table")),
     "The mouse sat on the table.", "La souris s'est assise sur la table.", "老鼠坐在桌子上。"),
    (said("my small mouse+", "hid", where=("under", "this bed")),
     "My small mice hid under this bed.", "Mes petites souris se sont cachées sous ce lit.",
     "我的小老鼠躲在这张床下。"),
    (said("a bird", "slept", where=("in", "a house")),
     "A bird slept in a house.", "Un oiseau a dormi dans une maison.", "一只鸟睡在一栋房子里。"),
    (said("this bird", "sat", where=("on", "the worn chair")),
     "This bird sat on the old chair.", "Cet oiseau s'est assis sur la vieille chaise.", "这只鸟坐在旧椅子上。"),
    (said("the old bird", "danced", where=("behind", "the beautiful tree")),
     "The old bird danced behind the beautiful tree.", "Le vieil oiseau a dansé derrière le bel arbre.",
     "老鸟在美丽的树后面跳舞。"),
    (said("the old bird+", "danced", where=("behind", "the beautiful tree+")),
     "The old birds danced behind the beautiful trees.", "Les vieux oiseaux ont dansé derrière les beaux arbres.",
     "老鸟在美丽的树后面跳舞。"),
    (said("the man", "stayed", where=("beside", "the bed")),
     "The man stayed next to the bed.", "L'homme est resté à côté du lit.", "男人待在床旁边。"),
    (said("the woman", "stayed", where=("beside", "the tree")),
     "The woman stayed next to the tree.", "La femme est restée à côté de l'arbre.", "女人待在树旁边。"),
    (said("the woman+", "stayed", where=("beside", "the house+")),
     "The women stayed next to the houses.", "Les femmes sont restées à côté des maisons.", "女人们待在房子旁边。"),
    (said("a man", "stayed", where=("beside", "a tree")),
     "A man stayed next to a tree.", "Un homme est resté à côté d'un arbre.", "一个男人待在一棵树旁边。"),
    (said("two man+", "stayed", where=("beside", "a tree+")),
     "Two men stayed next to some trees.", "Deux hommes sont restés à côté d'arbres.", "两个男人待在一些树旁边。"),
    (said("two man+", "stayed", where=("beside", "a small tree+")),
     "Two men stayed next to some small trees.", "Deux hommes sont restés à côté de petits arbres.",
     "两个男人待在一些小树旁边。"),
    (said("the girl", "went", where=("to", "the school")),
     "The girl went to the school.", "La fille est allée à l'école.", "女孩去了学校。"),
    (said("the boy+", "went", where=("to", "the park")),
     "The boys went to the park.", "Les garçons sont allés au parc.", "男孩们去了公园。"),
    (said("three girl+", "went", where=("to", "the market+")),
     "Three girls went to the markets.", "Trois filles sont allées aux marchés.", "三个女孩去了市场。"),
    (said("our horse", "returned", where=("from", "the garden")),
     "Our horse came back from the garden.", "Notre cheval est revenu du jardin.", "我们的马从花园回来了。"),
    (said("our horse+", "returned", where=("from", "my school")),
     "Our horses came back from my school.", "Nos chevaux sont revenus de mon école.", "我们的马从我的学校回来了。"),
    (said("the girl", "saw", "the orange"), "The girl saw the orange.", "La fille a vu l'orange.", "女孩看见了橙子。"),
    (said("this girl", "ate", "my orange"),
     "This girl ate my orange.", "Cette fille a mangé mon orange.", "这个女孩吃了我的橙子。"),
    (said("this man+", "ate", "a apple"),
     "These men ate an apple.", "Ces hommes ont mangé une pomme.", "这些男人吃了一个苹果。"),
    (said("the dog", "found", "a key", ("under", "the table")),
     "The dog found a key under the table.", "Le chien a trouvé une clé sous la table.", "狗在桌子下找到了一把钥匙。"),
    (said("the boy", "bought", "three book+"),
     "The boy bought three books.", "Le garçon a acheté trois livres.", "男孩买了三本书。"),
    (said("this young woman", "bought", "two red hat+"),
     "This young woman bought two red hats.", "Cette jeune femme a acheté deux chapeaux rouges.",
     "这个年轻的女人买了两顶红色的帽子。"),
    (said("my old dog", "saw", "a old bird"),
     "My old dog saw an old bird.", "Mon vieux chien a vu un vieil oiseau.", "我的老狗看见了一只老鸟。"),
    (said("a beautiful horse", "hid", where=("behind", "a old red tree")),
     "A beautiful horse hid behind an old red tree.", "Un beau cheval s'est caché derrière un vieil arbre rouge.",
     "一匹美丽的马躲在一棵红色的老树后面。"),
    (said("the girl", "drew", "a small black cat+"),
     "The girl drew some small black cats.", "La fille a dessiné de petits chats noirs.", "女孩画了一些黑色的小猫。"),
    (said("the girl", "drew", "a white mouse+"),
     "The girl drew some white mice.", "La fille a dessiné des souris blanches.", "女孩画了一些白色的老鼠。"),
    (said("the boy", "drew", "this white flower"),
     "The boy drew this white flower.", "Le garçon a dessiné cette fleur blanche.", "男孩画了这朵白色的花。"),
    (said("the happy girl+", "played", where=("before", "the box+")),
     "The happy girls played in front of the boxes.", "Les filles heureuses ont joué devant les boîtes.",
     "快乐的女孩们在盒子前面玩。"),
    (said("the table", "was", adjective="green"), "The table was green.", "La table était verte.", "桌子是绿色的。"),
    (said("my chair+", "was", adjective="white"),
     "My chairs were white.", "Mes chaises étaient blanches.", "我的椅子是白色的。"),
    (said("the woman+", "was", adjective="tired"),
     "The women were tired.", "Les femmes étaient fatiguées.", "女人们很疲惫。"),
    (said("this hat+", "was", adjective="worn"),
     "These hats were old.", "Ces chapeaux étaient vieux.", "这些帽子很旧。"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "english", "french", "chinese"), GOLDEN, ids=[row[1] for row in GOLDEN])
def test_a_sentence_is_said_as_a_person_would_say_it(sentence, english, french, chinese):
    assert sentence == (english, french, chinese)


# Every noun with "a" and "some", again by hand.
NOUNS = """
a cat, some cats, un chat, des chats, 一只猫 / a dog, some dogs, un chien, des chiens, 一只狗
a mouse, some mice, une souris, des souris, 一只老鼠 / a bird, some birds, un oiseau, des oiseaux, 一只鸟
a horse, some horses, un cheval, des chevaux, 一匹马 / a girl, some girls, une fille, des filles, 一个女孩
a boy, some boys, un garçon, des garçons, 一个男孩 / a man, some men, un homme, des hommes, 一个男人
a woman, some women, une femme, des femmes, 一个女人 / a book, some books, un livre, des livres, 一本书
a key, some keys, une clé, des clés, 一把钥匙 / a flower, some flowers, une fleur, des fleurs, 一朵花
a hat, some hats, un chapeau, des chapeaux, 一顶帽子 / an apple, some apples, une pomme, des pommes, 一个苹果
an orange, some oranges, une orange, des oranges, 一个橙子 / a mat, some mats, un tapis, des tapis, 一块垫子
a bed, some beds, un lit, des lits, 一张床 / a table, some tables, une table, des tables, 一张桌子
a chair, some chairs, une chaise, des chaises, 一把椅子 / a box, some boxes, une boîte, des boîtes, 一个盒子
a tree, some trees, un arbre, des arbres, 一棵树 / a house, some houses, une maison, des maisons, 一栋房子
a garden, some gardens, un jardin, des jardins, 一个花园 / a school, some schools, une école, des écoles, 一所学校
a park, some parks, un parc, des parcs, 一个公园 / a market, some markets, un marché, des marchés, 一个市场
"""
NOUNS = [row.split(", ") for row in NOUNS.strip().replace("\n", " / ").split(" / ")]

# Every adjective with a dog, a chair, dogs, chairs.
ADJECTIVES = """
small, petit chien, petite chaise, petits chiens, petites chaises, 小狗
big, grand chien, grande chaise, grands chiens, grandes chaises, 大狗
old, vieux chien, vieille chaise, vieux chiens, vieilles chaises, 老狗
worn, vieux chien, vieille chaise, vieux chiens, vieilles chaises, 旧狗
young, jeune chien, jeune chaise, jeunes chiens, jeunes chaises, 年轻的狗
beautiful, beau chien, belle chaise, beaux chiens, belles chaises, 美丽的狗
tired, chien fatigué, chaise fatiguée, chiens fatigués, chaises fatiguées, 疲惫的狗
happy, chien heureux, chaise heureuse, chiens heureux, chaises heureuses, 快乐的狗
sad, chien triste, chaise triste, chiens tristes, chaises tristes, 伤心的狗
black, chien noir, chaise noire, chiens noirs, chaises noires, 黑色的狗
white, chien blanc, chaise blanche, chiens blancs, chaises blanches, 白色的狗
red, chien rouge, chaise rouge, chiens rouges, chaises rouges, 红色的狗
green, chien vert, chaise verte, chiens verts, chaises vertes, 绿色的狗
"""
ADJECTIVES = [row.split(", ") for row in ADJECTIVES.strip().split("\n")]

# Every verb with a girl, boys, girls.
VERBS = """
sat, La fille s'est assise, Les garçons se sont assis, Les filles se sont assises, 女孩坐在床上
slept, La fille a dormi, Les garçons ont dormi, Les filles ont dormi, 女孩睡在床上
hid, La fille s'est cachée, Les garçons se sont cachés, Les filles se sont cachées, 女孩躲在床上
stayed, La fille est restée, Les garçons sont restés, Les filles sont restées, 女孩待在床上
played, La fille a joué, Les garçons ont joué, Les filles ont joué, 女孩在床上玩
danced, La fille a dansé, Les garçons ont dansé, Les filles ont dansé, 女孩在床上跳舞
went, La fille est allée, Les garçons sont allés, Les filles sont allées, 女孩去了床
returned, La fille est revenue, Les garçons sont revenus, Les filles sont revenues, 女孩从床回来了
saw, La fille a vu, Les garçons ont vu, Les filles ont vu, 女孩看见了床
found, La fille a trouvé, Les garçons ont trouvé, Les filles ont trouvé, 女孩找到了床
ate, La fille a mangé, Les garçons ont mangé, Les filles ont mangé, 女孩吃了床
bought, La fille a acheté, Les garçons ont acheté, Les filles ont acheté, 女孩买了床
drew, La fille a dessiné, Les garçons ont dessiné, Les filles ont dessiné, 女孩画了床
"""
VERBS = [row.split(", ") for row in VERBS.strip().split("\n")]


@pytest.mark.parametrize("row", NOUNS, ids=lambda row: row[0])
def test_a_noun_has_its_plural_its_gender_and_its_measure_word(row):
    noun = row[0].split()[1]
    one, many = Phrase("a", noun), Phrase("a", noun, plural=True)
    assert [one.english(), many.english(), one.french(), many.french(), one.chinese()] == row
    assert many.chinese() == "一些" + words()["nouns"][noun]["chinese"][1]


@pytest.mark.parametrize("row", ADJECTIVES, ids=lambda row: row[0])
def test_an_adjective_agrees_and_stands_where_it_belongs(row):
    adjective, *french, chinese = row
    phrases = [Phrase("my", noun, (adjective,), many) for many in (False, True) for noun in ("dog", "chair")]
    assert [phrase.french().split(" ", 1)[1] for phrase in phrases] == french
    assert phrases[0].chinese() == "我的" + chinese


@pytest.mark.parametrize("row", VERBS, ids=lambda row: row[0])
def test_a_verb_agrees_with_its_subject(row):
    verb, *french, chinese = row
    forms, bed = words()["verbs"][verb], Phrase("the", "bed")
    where = {} if "objects" in forms else {"place": (forms.get("where", "on"), bed)}
    what = {"object": bed} if "objects" in forms else {}
    subjects = [Phrase("the", "girl"), Phrase("the", "boy", (), True), Phrase("the", "girl", (), True)]
    triples = [Sentence(subject, verb, **what, **where).triple() for subject in subjects]
    for triple, start in zip(triples, french, strict=True):
        assert triple[1].startswith(start + " ")
    assert triples[0][2] == chinese + "。"


def test_the_tables_above_leave_no_word_out():
    assert {row[0].split()[1] for row in NOUNS} == set(words()["nouns"])
    assert {row[0] for row in ADJECTIVES} == set(words()["adjectives"])
    assert {row[0] for row in VERBS} == set(words()["verbs"])


PREPOSITIONS = {
    "on": ("on", "sur l'arbre", "上"), "under": ("under", "sous l'arbre", "下"),
    "behind": ("behind", "derrière l'arbre", "后面"), "before": ("in front of", "devant l'arbre", "前面"),
    "beside": ("next to", "à côté de l'arbre", "旁边"), "in": ("in", "dans l'arbre", "里"),
}  # fmt: skip


@pytest.mark.parametrize("preposition", PREPOSITIONS)
def test_a_place_is_said_before_the_noun_in_english_and_french_and_around_it_in_chinese(preposition):
    english, french, chinese = PREPOSITIONS[preposition]
    triple = said("the cat", "slept", where=(preposition, "the tree"))
    assert triple == (f"The cat slept {english} the tree.", f"Le chat a dormi {french}.", f"猫睡在树{chinese}。")


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("de", "le", "lit"), "du lit"),
        (("de", "la", "table"), "de la table"),
        (("de", "le", "arbre"), "de l'arbre"),
        (("de", "les", "arbres"), "des arbres"),
        (("de", "des", "lits"), "de lits"),
        (("de", "des", "arbres"), "d'arbres"),
        (("de", "de", "petits", "lits"), "de petits lits"),
        (("de", "une", "table"), "d'une table"),
        (("à", "le", "parc"), "au parc"),
        (("à", "les", "écoles"), "aux écoles"),
        (("à", "la", "école"), "à l'école"),
        (("ce", "oiseau"), "cet oiseau"),
        (("cette", "orange"), "cette orange"),
        (("ma", "école"), "mon école"),
        (("le", "chat", "a", "vu", "une", "orange"), "le chat a vu une orange"),
        (("elle", "se", "est", "assise"), "elle s'est assise"),
    ],
)
def test_french_neighbours_melt(parts, joined):
    assert join_french(*parts) == joined


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Phrase("the", "cow"), "noun: 'cow', expected one of cat, dog"),
        (lambda: Phrase("the", "cat", ("huge",)), "adjective: 'huge', expected one of small"),
        (lambda: Phrase("your", "cat"), "determiner: 'your', expected one of the, a"),
        (lambda: Phrase("two", "cat"), "plural: False after 'two', expected True"),
        (lambda: Sentence(Phrase("the", "cat"), "flew").triple(), "verb: 'flew', expected one of sat"),
        (lambda: sentences(0, seed=1), "n: 0, expected a whole number from 1"),
        (lambda: held_out(10**6, seed=1), "n: 1000000, expected"),
        (lambda: sentences(True, seed=1), "n: True, expected"),
    ],
)
def test_what_the_grammar_cannot_say_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_an_english_sentence_has_one_translation_and_comes_once():
    for triples in (TRAINING, TEST):
        assert len({english for english, _, _ in triples}) == len(triples)
    assert not {english for english, _, _ in TRAINING} & {english for english, _, _ in TEST}


def test_no_sentence_breaks_a_rule_that_can_be_seen():
    for english, french, chinese in TRAINING + TEST:
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  ", english)
        assert not re.search(
            r"\b([Ll]e|[Ll]a|de|se|[Cc]e|[Mm]a|beau) [aeiouéhÉ]|\bà les? |\bde (le|les|des|de) |  ", french
        )
        assert not re.search(r"\b(un|ce|cet|le|mon|notre) vieux [aeéoh]|\bcet [^aeéoh]|d[eu]s? d[eu]s? ", french)
        assert not re.search(r"\b[Uu]n \S+s\b(?<!tapis)|\b[Cc]es \S+[^sx] |[Dd]eux \S+[^sx] ", french)
        assert not re.search(r"二|的们|一[上下后前旁里]|\s|[A-Za-z]", chinese)
        assert english[0].isupper() and french[0].isupper()
        assert (english[-1], french[-1], chinese[-1]) == (".", ".", "。")


def spelled(word):
    return {"returned": "came back", "worn": "old"}.get(word, word)


def inflected(noun):
    return rf"\b({noun}|{words()['nouns'][noun].get('plural', noun + 'e?s')})"


@pytest.mark.parametrize("kind", ["subject_verb", "verb_object", "adjective_noun"])
def test_held_out_pairs_never_meet_in_training_and_do_in_the_test(kind):
    for pair in words()["held_out"][kind]:
        first, second = pair.split()
        if kind == "subject_verb":
            pattern = rf"{inflected(first)} {spelled(second)}\b"
        elif kind == "verb_object":
            pattern = rf"\b{first} \w+( \w+){{0,2}} {inflected(second)}\b"
        else:
            noun, adjective = inflected(second), spelled(first)
            pattern = rf"\b{adjective}( \w+)? {noun}\b|{noun} (was|were) {adjective}\b"
        assert not [english for english, _, _ in TRAINING if re.search(pattern, english)]
        assert [english for english, _, _ in TEST if re.search(pattern, english)]


def test_the_cat_sat_on_the_mat_is_a_sentence_that_training_never_shows():
    sentence = Sentence(Phrase("the", "cat"), "sat", place=("on", Phrase("the", "mat")))
    assert sentence.triple() == THE_CAT
    assert sentence.is_held_out
    english = " ".join(english for english, _, _ in TRAINING)
    assert "cat slept" in english and "bird sat" in english and "on the mat" in english


@pytest.mark.parametrize("language", [0, 1, 2])
def test_every_word_of_the_test_is_learned_in_training(language):
    known = {word for triple in TRAINING for word in WordTokenizer.split(triple[language])}
    assert {word for triple in TEST for word in WordTokenizer.split(triple[language])} <= known


def test_every_word_of_the_data_occurs():
    english = " ".join(triple[0] for triple in TRAINING).lower()
    for noun in words()["nouns"]:
        assert re.search(rf"{inflected(noun)}\b", english)
    for kind in ("adjectives", "verbs", "prepositions"):
        for word, forms in words()[kind].items():
            assert re.search(rf"\b{forms.get('english', word)}\b", english)


def test_a_seed_gives_the_same_sentences_on_every_machine():
    assert sentences(50, seed=5) == TRAINING[:50] != sentences(50, seed=7)
    assert zlib.crc32(repr(TRAINING[:1000]).encode()) == 4283655599  # another one after a change of the grammar


def test_the_tokenizer_gives_every_sentence_back():
    tokenizer = WordTokenizer.train(text for triple in TRAINING for text in triple)
    for triple in TRAINING + TEST:
        for text in triple:
            tokens = tokenizer.encode(text)
            assert tokenizer.decode(tokens) == text
            assert len(tokens) < LONGEST and min(tokens) >= 5
    assert tokenizer.words == WordTokenizer(reversed(tokenizer.words[5:])).words


def test_the_tokenizer_cuts_words_apostrophes_and_characters():
    assert WordTokenizer.split("L'oiseau s'est caché.") == ["L'", "oiseau", "s'", "est", "caché", "."]
    assert WordTokenizer.split("猫坐。") == ["猫", "坐", "。"]


def test_a_source_starts_with_its_language():
    tokenizer = WordTokenizer.train(["The cat."])
    french, chinese = (tokenizer.source("The cat.", language) for language in ("fr", "zh"))
    assert french[1:] == chinese[1:] == tokenizer.encode("The cat.")
    assert (tokenizer.words[french[0]], tokenizer.words[chinese[0]]) == ("<fr>", "<zh>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("The cow.", "word: 'cow', expected one of the 8 known"),
        ("The  cat.", "text: 'The  cat.', expected 'The cat.'"),
        ("The cat .", "expected 'The cat.'"),
        ("<fr>", "word: '<', expected"),
    ],
)
def test_what_the_tokenizer_cannot_give_back_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        WordTokenizer.train(["The cat."]).encode(text)


def test_an_unknown_language_or_a_word_given_twice_is_refused():
    with pytest.raises(ValueError, match="language: 'de', expected one of fr, zh"):
        WordTokenizer.train(["The cat."]).source("The cat.", "de")
    with pytest.raises(ValueError, match="words: one is there twice"):
        WordTokenizer(["a", "a"])
