# %% [markdown]
# # 08 · Encoder and decoder: translating a sentence
#
# After this chapter you can build the transformer of 2017 from parts that you already have, train it so that it
# translates English into French and Chinese, and search for the best sentence it knows. You can say what an encoder
# is for, when you need none, and why the best-known picture of a transformer, read as a language model, gives a model
# with a wonderful loss that can't write a sentence.
#
# Reading takes about 90 minutes, the eight exercises about two hours. Chapter 07 is enough to follow it: attention
# with heads, positions, the feed-forward block, and the block of 2017, which normalizes after adding.

# %%
import inspect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.attention import attend
from minillama.block import Parts
from minillama.config import Config
from minillama.course import FAST, check, predicted
from minillama.plots import seq2seq as plots
from minillama.seq2seq import VASWANI, Seq2Seq

torch.set_printoptions(precision=2, sci_mode=False)

# %% [markdown]
# ## Three ways to say that a cat sat on a mat
#
# The course has a small grammar: 26 nouns, 13 verbs besides *was*, colours, sizes, places, and all the rules that go
# with them. It makes sentences, each in three languages.

# %%
from minillama.grammar import held_out, sentences
from minillama.phrases import Phrase, Sentence

mat = "on", Phrase("the", "mat")
for subject in (Phrase("the", "cat"), Phrase("my", "mouse", ("small", "black"), plural=True)):
    print("\n".join(Sentence(subject, "sat", place=mat).triple()), end="\n\n")

# %% [markdown]
# Now try to translate word by word, as a language model writes: read one token, say one token.
#
# - *sat* is one word in English and three in French: *s'est assis*. The French sentence is longer.
# - *small black mice* is *petites souris noires*: the second adjective comes after the noun. When *petites* is to be
#   said, it is good to know that mice follow, who are feminine in French, and that there is more than one.
# - *assis* becomes *assises* for two mice. What decides that stands at the other end of the sentence.
# - In Chinese nothing of this happens. Instead 只 is needed if mice are counted (*两只老鼠*, two mice), and the place
#   often comes before the verb.
#
# So a translator wants two things. It has to have **read the whole source** before it says the first word. And what
# it says may have **another length and another order**. The models of the last chapters did neither. This chapter
# builds one with two halves: the *encoder* reads, the *decoder* writes.
#
# ### What is tested
#
# There are 20,000 sentences to learn from. If we tested with some of those, a model that has learned them by heart
# would win. If we took other sentences at random, many would differ from a known one by a single word. So the grammar
# keeps some **pairs of words** apart. In training, cats sleep, hide and dance. Never does a cat sit. Every test
# sentence holds such a pair.
#
# **Predict.** There are 400 test sentences. How many of them hold at least one *word* that training has never shown?
# 0, about 40, or all 400?

# %% predict: unknown
unknown = 0  # 0, 40 or 400

# %% reveal: unknown
triples, test = sentences(20_000, seed=1), held_out(40 if FAST else 400, seed=7)


def words_of(text):
    return set(text.rstrip(".").lower().split())


known = set().union(*(words_of(english) for english, _, _ in triples))
new = [english for english, _, _ in test if not words_of(english) <= known]
print(f"{len(known)} different English words in training; test sentences with a new one: {len(new)}")
print("in training and in the test:", len(set(triples) & set(test)))
print("cats that sit in training:", sum("cat sat" in english.replace("cats", "cat") for english, *_ in triples))
predicted(unknown, len(new))

# %% [markdown]
# No new words, only new combinations. Whoever has understood what *cat* is and what *sat* is can do it. Whoever has
# learned sentences by heart can't.

# %% [markdown]
# ## From sentences to tensors
#
# A token is a word here, and in Chinese a character. Five tokens are no words but **signs**: `<pad>`, `<bos>`
# (beginning of sequence), `<eos>` (end of sequence), and two that say what to do: `<fr>`, `<zh>` (for *zhōngwén*,
# Chinese). The sign goes in front of the English sentence. So one model learns both languages.

# %%
from minillama.translate import LANGUAGES, LONGEST, WordTokenizer, translate

tokenizer = WordTokenizer.train(text for triple in triples for text in triple)
pad, bos, eos = tokenizer.pad, tokenizer.bos, tokenizer.eos
print(tokenizer.vocab_size, "tokens; the first are", tokenizer.words[:5])
print(tokenizer.split("L'oiseau a dormi sous la table."), tokenizer.split("猫坐在垫子上。"))
source = tokenizer.source("The cat sat on the mat.", "fr")
print(source, "=", [tokenizer.words[token] for token in source])

# %% [markdown]
# ### Padding
#
# A model is trained on a batch of sentences, and a batch is one tensor, a rectangle. Sentences have different
# lengths. So the short ones are filled up at the end with a token that means nothing, the pad. This is called
# **padding**:
#
#     5 6 7        5 6 7      True True  True
#     8            8 0 0      True False False
#
# On the left two sentences, in the middle the tensor with `pad=0`, on the right the **mask**: where is a real token?
# The model needs the mask, since the tensor does not say it: in another vocabulary token 0 may be a word. Some models
# even pad with `<eos>`, which is a real token wherever a sentence ends. As in chapter 03, True means *may look*.
#
# **Exercise 08.1.** Write `pad_right`. It gives two tensors: whole numbers and bools.

# %% exercise: 08.1

# %% check: 08.1
pad_right = check("08.1", pad_right)

# %% [markdown]
# ## The encoder
#
# The encoder is a stack of blocks from chapter 07, and you know every part of it: embed the tokens, add positions,
# then block after block. One thing is missing: the causal mask. In a language model no token may see a later one,
# since the later one is what shall be guessed. Nobody has to guess the source. It is all there. So **every source
# token looks at every other one, in both directions**; only padding is hidden.
#
# This is the whole encoder, from the package. `may_look` is the padding mask, in a shape that fits all heads and all
# queries. (`inner` is for rotary positions and empty here: in 2017 positions were added.)

# %%
print(inspect.getsource(Seq2Seq.encode))

# %% [markdown]
# What comes out? Often one reads that "the encoder turns the sentence into a vector of fixed length". Let us see.
#
# **Predict.** The vectors of this model have 96 numbers. A source of 8 tokens goes into the encoder, then one of 13.
# How many numbers come out for the one of 13 tokens: 96, 768 or 1248?

# %% predict: numbers
numbers = 1248  # 96, 768 or 1248

# %% reveal: numbers
config = Config(tokenizer.vocab_size, d_model=96, n_layers=2, n_heads=4, d_ff=384, max_len=LONGEST, tied=True)
untrained = Seq2Seq(config)
for english in ("The cat sat on the mat.", "My three small black cats slept next to a big tree."):
    source = torch.tensor([tokenizer.source(english, "fr")])
    encoded = untrained.encode(source)
    print(f"{source.size(1):>2} tokens in, {tuple(encoded.shape)} out: {encoded.numel()} numbers")
predicted(numbers, encoded.numel())

# %% [markdown]
# **One vector per token**: 13 times 96. Nothing is squeezed into a fixed length. The sentence about the fixed length
# is older than the transformer, and it was true: the translators of 2014 were *recurrent networks*. Those read a
# sentence word by word and keep one vector, which they change with every word; what the decoder got was that vector
# after the last word. It was their weak point, and attention was invented to get around it. What it costs you will
# measure below.
#
# In other words, the encoder does not summarize. It gives back the same sentence, as long as before, but each token
# has looked around. *black* can now know which noun it belongs to.

# %% [markdown]
# ## The decoder: what it reads, and what it says
#
# The decoder is a language model for French and Chinese: it reads what has been written so far and says the next
# token. But what has been written so far, while it is still learning? At first it writes nonsense. If it had to
# continue its own nonsense, it would never see a good sentence. So in training it reads the **right** words, whatever
# it would have said itself. This is called **teacher forcing**.
#
# Take the sentence *7 8*, with `bos` = 1 and `eos` = 2:
#
# | reads | 1 | 7 | 8 |
# |---|---|---|---|
# | **shall say** | 7 | 8 | 2 |
#
# It starts with `<bos>`, for something must be read before the first word is said. It ends with `<eos>`, or nobody
# would ever tell it to stop. And since every place has its own causal row of the mask, one pass through the model
# trains all three places at once.
#
# What it reads are the **inputs**; what it shall say are the **labels**. In a batch both are padded. Inputs get the
# pad. Labels get **-100**: a number that can't be a token, and that PyTorch's `cross_entropy` (and our
# `next_token_loss`) leaves out of the average.

# %%
from minillama.train import next_token_loss

no_idea = torch.zeros(1, 3, 5)  # three places, five tokens, all scores alike: ln 5 = 1.609 nats each
print(f"{next_token_loss(no_idea, torch.tensor([[3, 2, -100]])):.3f} nats, averaged over two places")
sure = no_idea.clone()
sure[0, 2, 0] = 100.0  # sure that a 0, the pad, comes at the last place
print(f"{next_token_loss(sure, torch.tensor([[3, 2, 0]])):.3f} nats, averaged over three: cheap, but no better")

# %% [markdown]
# The second line is why it matters. To say *pad* after the end is easy, and with pads among the labels the loss looks
# better than the translations are.
#
# **Exercise 08.2.** Write `teacher_forcing`. Your `pad_right` does most of the work. (In its docstring `targets` are
# the sentences that shall be written. `pad may be the same as eos` is a trap for those who look for pads in the
# result.)

# %% exercise: 08.2

# %% check: 08.2
teacher_forcing = check("08.2", teacher_forcing)

# %% [markdown]
# The figure shows a batch of two sentences. Read it column by column: above what is read, below what shall be said.
# The grey cells at the end of the short one teach nothing.

# %%
pair = [tokenizer.encode(text) for text in ("Le chat a dormi sous le lit.", "La pomme était rouge.")]
inputs, labels = teacher_forcing(pair, bos=bos, eos=eos, pad=pad)
in_words = [[tokenizer.words[token] for token in row] for row in inputs.tolist()]
labels_in_words = [[tokenizer.words[t] if t >= 0 else "-100" for t in row] for row in labels.tolist()]
plots.read_and_said(in_words, labels_in_words)
assert labels_in_words[0][-1] == "<eos>" and labels_in_words[1].count("-100") == 3

# %% [markdown]
# ## Cross-attention: the decoder asks the encoder
#
# Two halves, and nothing connects them yet. The connection is attention, the same as ever, with one change: **the
# queries come from the decoder, keys and values from the encoder**. Each target token asks, *what in the source do I
# need now?*
#
# By hand, with one target token and two source tokens. Say that the query is 1, and that the two keys are ln 3 = 1.1
# and 0, one number each. The scores are 1 · ln 3 and 1 · 0 (divided by √1). Their powers are e^(ln 3) = 3 and e⁰ = 1,
# so the weights are 3/4 and 1/4. With the values 6 and 2 the result is 3/4 · 6 + 1/4 · 2 = 5.

# %%
query, keys, values = torch.tensor([[1.0]]), torch.tensor([[math.log(3)], [0.0]]), torch.tensor([[6.0], [2.0]])
print("one query, two keys:", attend(query, keys, values))
print("three queries:", tuple(attend(torch.randn(3, 4), torch.randn(5, 4), torch.randn(5, 2)).shape))

# %% [markdown]
# The second line has 3 queries and 5 keys, since the two sentences have their own lengths. The table of weights is 3
# high and 5 wide: a row per target token, a column per source token. The result has a row per query.
#
# And the mask? Is a *causal* one needed? No. The whole source was there before the first target word is written.
# What must be hidden is padding, and padding means some **columns**: nobody may look there. The mask of 08.1 has the
# shape (B, S). The scores have the shape (B, T, S). Between the two an axis is missing, and `real[:, None, :]` puts
# it in with length 1: shape (B, 1, S), the same row for all T queries.
#
# **Exercise 08.3.** Write `cross_attention`, for one head. The weights are tables as `nn.Linear` keeps them: (D, C),
# a row for each number that comes out. That is why the docstring says `.T`, which turns a table on its side. Use
# `attend(q, k, v, mask)` from chapter 03.

# %% exercise: 08.3

# %% check: 08.3
cross_attention = check("08.3", cross_attention)

# %% [markdown]
# `Attention` of chapter 04 does the same with many heads and a last matrix, if it is given a `context`:
# `attention(x, mask, context=encoded)` takes queries from x, keys and values from `encoded`.
#
# ## A layer of the decoder
#
# The block of 2017 has two sub-layers: look around, then think. The decoder's has three:
#
# 1. **self-attention**: what have I written so far? (causal mask)
# 2. **cross-attention**: what does the source say about that? (padding mask)
# 3. **feed-forward**: think.
#
# Around each goes what chapter 07 called post-norm: add, then normalize, `norm(x + sublayer(x))`. Each of the three
# has a norm of its own.
#
# **Exercise 08.4.** Write the `forward` of `DecoderBlock`. `__init__` is given, and names the three sub-layers and
# the three norms. `**inner` holds what only the self-attention understands (such as a rotation): hand it on there,
# and only there. That both masks may be None need not worry you; attention knows what to do with None.

# %% exercise: 08.4

# %% check: 08.4
DecoderBlock = check("08.4", DecoderBlock)

# %% [markdown]
# The rest is assembly, and the package does it. `Seq2Seq` embeds source and target with the same table, runs
# `encode`, and then this (two checks of the sizes left out):
#
#     x = embedded target tokens + positions
#     for layer in self.decoder:
#         x = layer(x, encoded, causal, may_look)
#     return self.lm_head(self.decoder_norm(x))
#
# It can be built with your layer. Count what is in it: each encoder layer has one attention, each decoder layer has
# two.

# %% varies
torch.manual_seed(0)
translator = Seq2Seq(replace(config, d_model=48, d_ff=192, head_dim=None) if FAST else config, VASWANI, DecoderBlock)
for name, part in (("encoder", translator.encoder), ("decoder", translator.decoder)):
    print(f"{name}: {sum(p.numel() for p in part.parameters()):>7,} parameters")
logits = translator(torch.tensor([[3, 40, 50, 60]]), torch.tensor([[bos, 70]]))
print("source of 4 tokens, target of 2:", tuple(logits.shape), "for each target token, a score for each token")

# %% [markdown]
# ## It learns to translate
#
# A batch: 32 English sentences, each of them once with `<fr>` and once with `<zh>`. The sources are padded by your
# `pad_right`, the targets made by your `teacher_forcing`.


# %%
def translation_loss(model, batch):
    """How surprised the model is by the French and the Chinese of some English sentences, in nats per token"""
    sources, targets = [], []
    for triple in batch:
        for language, place in LANGUAGES.items():  # fr: 1, zh: 2
            sources.append(tokenizer.source(triple[0], language))
            targets.append(tokenizer.encode(triple[place]))
    source, real = pad_right(sources, pad)
    inputs, labels = teacher_forcing(targets, bos=bos, eos=eos, pad=pad)
    return next_token_loss(model(source, inputs, real), labels)


# %% [markdown]
# The training loop is the one of the last chapters. The learning rate goes up during the first tenth of the steps and
# then down to 0 (post-norm needs such a slow start), and steps that would be too long are cut. Chapter 10 explains
# both. The loop is told which loss to use, since we shall train four more models with it.


# %%
def train(model, loss_of, steps, lr=3e-3):
    """Train with 32 sentences per step. -> the losses"""
    generator, losses = torch.Generator().manual_seed(0), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(10 * (step + 1) / steps, 1 - step / steps)
        chosen = torch.randint(len(triples), (32,), generator=generator)
        loss = loss_of(model, [triples[i] for i in chosen.tolist()])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


# %% [markdown]
# Train it. In the full run these are 1,000 steps and take about a minute.

# %% varies
losses = train(translator, translation_loss, steps=60 if FAST else 1000)
for step in (0, len(losses) // 10, len(losses) // 2, len(losses) - 1):
    print(f"step {step:>4}: {losses[step]:.3f} nats per token")
assert losses[-1] < (4.5 if FAST else 0.05)

# %% [markdown]
# ## Writing: always the best next word
#
# The model gives scores for the next token. To get a sentence, ask, take the token with the highest score, put it at
# the end, and ask again, until `<eos>` comes. This is **greedy decoding**.
#
# A batch of sentences does not end all at once. One that has ended must wait: it gets `<eos>` again and again until
# the last one is done. Two traps wait as well:
#
# - A model that never says `<eos>` would go on for ever. So there is a largest number of new tokens, `n_new`.
# - In many models the sign for the beginning is the same token as the sign for the end. An `<eos>` that was *given*
#   ends nothing. Only one that was *written* does.
#
# **Exercise 08.5.** Write `write_greedily`. It knows nothing of encoders: it is handed a function that gives the
# scores of the next token. Yours will write with this model, and with two others. `scores.argmax(dim=-1)` says where
# in each row the highest score is; `x.masked_fill(mask, value)` gives x with `value` wherever the mask is True.

# %% exercise: 08.5

# %% check: 08.5
write_greedily = check("08.5", write_greedily)

# %% [markdown]
# Now translate with it. Note that the encoder runs **once** per sentence; only the decoder runs again for each new
# token.


# %%
def until_end(row):
    """The text of a row of tokens, up to <eos>"""
    return tokenizer.decode(row[: row.index(eos)] if eos in row else row)


@torch.no_grad()
def translated(model, english, language):
    source, real = pad_right([tokenizer.source(text, language) for text in english], pad)
    encoded = model.encode(source, real)
    start = torch.full((len(source), 1), bos)
    target = write_greedily(lambda target: model.decode(target, encoded, real)[:, -1], start, LONGEST, eos)
    return [until_end(row[1:]) for row in target.tolist()]


# %% [markdown]
# Two sentences in which a cat sits, which no cat has done before, one with a bird that comes back, and one with a
# found key. (In the full run. After the few steps of a quick run it says nothing of sense.)

# %% varies
examples = ["The cat sat on the mat.", "My small black cats sat under an old tree.",
            "This bird came back from the garden.", "The girl found a key on the bed."]  # fmt: skip
for english, french, chinese in zip(examples, *(translated(translator, examples, x) for x in LANGUAGES), strict=True):
    print(english, french[:90], chinese[:45], "", sep="\n")

# %% [markdown]
# Look at what French asks for. Several cats are *petits* and *noirs* and *se sont* assis. An old tree is *un vieil
# arbre*, since *vieux* changes before a vowel; so does *ce* before *oiseau*. The girl adds no e to *trouvé*, since
# *trouver* goes with *avoir*. And Chinese says first where, on the bed, and then what was found. (In our run one
# character is missing there: a key is 钥匙. *Found a key* is a pair that training never shows.)
#
# How many of the test sentences are right, to the last letter? That share is called **exact match**.

# %% varies
english_test = [triple[0] for triple in test]
said = {language: translated(translator, english_test, language) for language in LANGUAGES}
right = {
    language: [mine == triple[LANGUAGES[language]] for mine, triple in zip(said[language], test, strict=True)]
    for language in LANGUAGES
}
for language in LANGUAGES:
    print(f"{language}: {100 * sum(right[language]) / len(test):.0f} % of {len(test)} sentences without a mistake")
    assert FAST or sum(right[language]) / len(test) >= 0.9

# %% [markdown]
# Over nine in ten in both languages (in the full run), and each of these sentences holds a combination that it has
# never seen. What goes wrong in the rest?

# %% varies
for language, place in LANGUAGES.items():
    wrong = [(triple, mine) for triple, mine in zip(test, said[language], strict=True) if mine != triple[place]]
    for triple, mine in wrong[:2]:
        print(triple[0], f"  said:  {mine[:80]}", f"  right: {triple[place]}", "", sep="\n")

# %% [markdown]
# What fails are the held-out pairs themselves. In our run: no mouse is black in training, so the model has never seen
# *souris noires*, has often seen *noirs*, and takes the wrong ending. And *old* has two words in Chinese, 老 for cats
# and trees, 旧 for what is worn; a worn box was kept from it.

# %% [markdown]
# ## The best first word may not begin the best sentence
#
# Greedy decoding never looks back. Here is a toy model of three tokens: 0 is the end, 1 and 2 are words. It begins
# with 1 with a probability of 0.6, with 2 with 0.399. After 1 it is unsure: end 0.4, 1 or 2 0.3 each. After 2 it is
# sure: end 0.9.
#
# The probability of a whole text is the product: first token, times second token given the first, and so on. Greedy
# begins with 1, then takes the end: 0.6 · 0.4 = 0.24.
#
# **Predict.** What is the probability of the best text of this model? (Two tokens, the end included, are enough.)

# %% predict: probability
probability = 0.36  # a number between 0 and 1

# %% [markdown]
# In the figure greedy's way is dashed. The solid one starts worse and ends better.

# %% reveal: probability
first = [("1", 0.6), ("2", 0.399)]
after = {"1": [("end", 0.4), ("1", 0.3), ("2", 0.3)], "2": [("end", 0.9), ("1", 0.05), ("2", 0.05)]}
second = [[(word, share, begin * share) for word, share in after[name]] for name, begin in first]
plots.search_tree(first, second, greedy=(0, 0), best=(1, 0))
best = max(product for leaves in second for *_, product in leaves)
print(f"greedy {0.6 * 0.4:.2f}, best {best:.2f}")
assert best > 0.6 * 0.4
predicted(probability, best, within=1.05)

# %% [markdown]
# To be sure of the best text one would have to look at all of them. With 387 tokens and 20 places that are 387²⁰.
# **Beam search** is the compromise: follow not one text but a few at the same time, say 4, the *beam*. In each round
# continue each of them with every token, and of all these keep the 4 best.
#
# Products of many small numbers become too small for a computer. So one adds logarithms instead: ln(a · b) = ln a +
# ln b. A **log-probability** is negative; 0 would be certain, and the best is the one nearest to 0. For the two texts
# above:

# %%
print(f"ln 0.6 + ln 0.4 = {math.log(0.6) + math.log(0.4):.2f}    ln 0.399 + ln 0.9 = {math.log(0.399 * 0.9):.2f}")

# %% [markdown]
# A text that has ended is finished. It stays on the list with the sum it has, and competes with those that go on; as
# soon as `width` others are better, it falls out.
#
# By hand, with the toy model and a beam of 2. Round 1: keep 1 (ln 0.6 = -0.51) and 2 (ln 0.399 = -0.92). Round 2: six
# continuations, from 0.36 down to 0.02; the best two are *2 end* (0.36) and *1 end* (0.24). Both have ended: stop.
#
# **Exercise 08.6.** Write `search_beam`, for one text, with lists instead of tensors. Like `write_greedily`, it is
# handed a function, which here gives log-probabilities.

# %% exercise: 08.6

# %% check: 08.6
search_beam = check("08.6", search_beam)

# %% [markdown]
# Which sentences does the translator have in its beam? In front stands the probability, e to the power of the sum.


# %% varies
@torch.no_grad()
def next_log_probs_for(english, language):
    encoded = translator.encode(torch.tensor([tokenizer.source(english, language)]))
    return lambda tokens: translator.decode(torch.tensor([tokens]), encoded)[0, -1].log_softmax(dim=-1).tolist()


for language in LANGUAGES:
    found = search_beam(next_log_probs_for(examples[1], language), [bos], LONGEST, 4, eos)
    for total, tokens in found:
        print(f"{math.exp(total):.4f}  {until_end(tokens[1:])[:80]}")
assert found == sorted(found, reverse=True)

# %% [markdown]
# In the full run the first one has nearly all the probability. The others are its neighbours: another number, another
# adjective, or no sentence at all. Does the wider search help?

# %% varies
few = test[: 10 if FAST else 200]
for width in (1, 4):
    for language, place in LANGUAGES.items():
        texts = translate(translator, tokenizer, [triple[0] for triple in few], language, width)
        share = sum(text == triple[place] for text, triple in zip(texts, few, strict=True)) / len(few)
        print(f"{language}, beam of {width}: {100 * share:.1f} % exact match")

# %% [markdown]
# Hardly at all, and that is what to expect here: this model is nearly always sure. Beam search pays where a model
# hesitates between several ways to say the same thing. In 2017 translators used it with a beam of 4. It has a bias:
# every further token makes a sum smaller, so short texts win. The package's `beam.search` divides the sum by
# ((5 + length) / 6)^0.6 to make up for it, as the paper did. Chat models do not use it: for *write me a story* there
# is no best sentence, and chapter 11 draws at random instead.

# %% [markdown]
# ## How wrong is a wrong translation?
#
# *Les petits chats noir* for *Les petits chats noirs*: exact match says 0, as it does for *Bonjour*. A finer measure
# compares pieces of the two texts. **chrF** (Popović 2015) takes pieces of 1 to 6 characters. By hand, with pieces of
# up to 2, said *aab*, expected *abb*:
#
# | pieces of | said | expected | in both | precision | recall |
# |---|---|---|---|---|---|
# | 1 | a, a, b | a, b, b | a, b | 2/3 | 2/3 |
# | 2 | aa, ab | ab, bb | ab | 1/2 | 1/2 |
# | average | | | | 7/12 | 7/12 |
#
# **Precision** asks: of what was said, how much is right? **Recall** asks: of what is right, how much was said? Note
# that *a* is found once and not twice, for it is expected once: a piece counts as often as it stands in *both*.
# Otherwise *noir noir noir noir* would be a fine translation of *noir*.
#
# One number is made of the two averages P and R by the formula 5PR / (4P + R), times 100. If P and R are the same,
# that is P. If they differ, it lies nearer to R: to leave something out is worse than to say too much. (For β = 2 the
# 5 is 1 + β², and the 4 is β².) Half a sentence, all of it right, has P = 1 and R = 0.5:

# %%
P, R = 1.0, 0.5
print(f"recall counts more:   {100 * 5 * P * R / (4 * P + R):.1f}")
print(f"both count the same:  {100 * 2 * P * R / (P + R):.1f}")

# %% [markdown]
# **Exercise 08.7.** Write `chrf`. `Counter(list)` from Python's `collections` counts how often each thing is in a
# list; `a & b` of two Counters keeps the smaller count of each, and `.total()` adds all counts up.

# %% exercise: 08.7

# %% check: 08.7
chrf = check("08.7", chrf)

# %%
for text in ("Les petits chats noirs", "Les petits chats noir", "Les petits chats", "Les chiens blancs", "Bonjour"):
    print(f"{text:<24} {chrf(text, 'Les petits chats noirs'):>5.1f}")

# %% [markdown]
# For one sentence this is what sacreBLEU gives, the program that most papers use. And our translator, on all test
# sentences and on those that it got wrong? (These are averages over sentences. Published chrF adds up the counts of
# all sentences first, which weighs long ones more.)

# %% varies
for language, place in LANGUAGES.items():
    scores = [chrf(mine, triple[place]) for mine, triple in zip(said[language], test, strict=True)]
    missed = [score for score, ok in zip(scores, right[language], strict=True) if not ok]
    print(
        f"{language}: chrF {sum(scores) / len(scores):.1f};  of the wrong ones {sum(missed) / max(1, len(missed)):.1f}"
    )
    assert FAST or sum(scores) / len(scores) > 95

# %% [markdown]
# In the full run even the wrong ones have most of their characters right: one word is another.

# %% [markdown]
# ## Which word came from where?
#
# The cross-attention has a row of weights for each target token. Nobody has told it which French word belongs to
# which English one. Let us read it off while the model translates. The function below stands in for `attend` in the
# last layer of the decoder and keeps the weights, averaged over its four heads.


# %%
@torch.no_grad()
def where_it_looks(english, target, language):
    """-> the source's words, the weights (T, S): for each target token, and <eos>, where it looks as it is written"""
    seen = []

    def watching(q, k, v, mask=None):
        seen.append((q @ k.mT / math.sqrt(q.size(-1))).softmax(dim=-1)[0].mean(dim=0))
        return attend(q, k, v, mask)

    source, inputs = tokenizer.source(english, language), [bos, *tokenizer.encode(target)]
    attention = translator.decoder[-1].cross_attention
    attention.attend = watching
    translator(torch.tensor([source]), torch.tensor([inputs]))
    attention.attend = attend
    return [tokenizer.words[token] for token in source], seen[0]


# %% [markdown]
# Read the figure row by row: the word that is being written, and where it looks. In the full run a dark line goes
# down along the diagonal, with one step back: *black* stands before *cat* in English, *noir* after *chat* in French.

# %%
small_black = Phrase("the", "cat", ("small", "black"))
english, french, _ = Sentence(small_black, "sat", place=mat).triple()
source_words, weights = where_it_looks(english, french, "fr")
written = [*tokenizer.split(french), "<eos>"]
plots.alignment(written, source_words, weights, "Which English word is each French word made of?")
assert torch.allclose(weights.sum(dim=1), torch.ones(len(written)))
assert FAST or source_words[weights[written.index("chat")].argmax()] == "cat"

# %% [markdown]
# This is called an **alignment**. Not every row has one place. There is no English word for *est*, and where a row
# needs nothing from the source, its weight goes somewhere all the same: to the sign in front, or to the period. And
# *Le* and *le* do not look at *the* alone, in our run, but also at a word behind it. They have to: it takes the noun
# to choose between *le*, *la* and *les*.
#
# Chinese, with a sentence whose order is another one. Its characters are written in pinyin on the axis, so that the
# figure looks the same on every computer, with Chinese fonts or without:
#
# | 女 | 孩 | 在 | 床 | 上 | 找 | 到 | 了 | 一 | 把 | 钥 | 匙 |
# |---|---|---|---|---|---|---|---|---|---|---|---|
# | nǚ | hái | zài | chuáng | shàng | zhǎo | dào | le | yì | bǎ | yào | shi |
# | girl | | at | bed | on | find | | (done) | one | (of keys) | key | |
#
# *On the bed* stands at the end of the English sentence and before the verb in Chinese. In the full run you see it as
# a block that has moved.

# %%
english, chinese = "The girl found a key on the bed.", "女孩在床上找到了一把钥匙。"
pinyin = "nǚ hái zài chuáng shàng zhǎo dào le yì bǎ yào shi . <eos>".split()
source_words, weights = where_it_looks(english, chinese, "zh")
plots.alignment(pinyin, source_words, weights, "Which English word is each Chinese character made of?")
assert weights.shape == (14, 10)
assert FAST or source_words[weights[3].argmax()] == "bed"

# %% [markdown]
# What chapter 03 said about rows of weights holds here too. They say where an average came from, and by the last
# layer of the encoder the vector at *cat* is no longer only the cat: it has looked around. Other layers of the same
# model look less tidy than this one.
#
# ## What a fixed length would cost
#
# Back to the vector of fixed length. Build it: the same model, but `encode` averages its vectors into **one**, and
# the decoder gets only that. It has the same number of parameters, the same data, the same steps.


# %%
class OneVector(Seq2Seq):
    """The encoder hands over a single vector: the average over the real tokens"""

    def encode(self, source, source_mask):
        encoded, real = super().encode(source, source_mask), source_mask[:, :, None]  # (B, S, C), (B, S, 1)
        return (encoded * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)  # (B, 1, C)

    def decode(self, target, encoded, source_mask=None):
        return super().decode(target, encoded)  # one vector, and no padding in it


torch.manual_seed(0)
squeezed = OneVector(translator.config, VASWANI, DecoderBlock)

# %% [markdown]
# (To be fair: recurrent networks of 2014 did not average, and had vectors of 1,000 and more numbers. But the point is
# the same: a sentence of 4 words and one of 14 have to get through the same door.) The full run takes another minute.

# %% varies
train(squeezed, translation_loss, steps=60 if FAST else 1000)
said_squeezed = {language: translated(squeezed, english_test, language) for language in LANGUAGES}
for language, place in LANGUAGES.items():
    share = sum(mine == triple[place] for mine, triple in zip(said_squeezed[language], test, strict=True)) / len(test)
    print(f"{language}: {100 * share:.0f} % exact match with one vector")

# %% [markdown]
# Now by length. The more words, the more has to be squeezed into the one vector. In the full run its line falls and
# the other stays where it is.

# %% varies
groups = {"4-5": range(6), "6-7": range(6, 8), "8-9": range(8, 10), "10+": range(10, 99)}
lines, counts = {"one vector per token": [], "one vector": []}, []
for lengths in groups.values():
    rows = [i for i, english in enumerate(english_test) if len(english.split()) in lengths]
    counts.append(2 * len(rows))
    for name, texts in zip(lines, (said, said_squeezed), strict=True):
        good = sum(texts[x][i] == test[i][place] for x, place in LANGUAGES.items() for i in rows)
        lines[name].append(good / max(1, 2 * len(rows)))
plots.right_by_length(list(groups), lines, counts)
assert FAST or lines["one vector per token"][-1] > lines["one vector"][-1] + 0.3

# %% [markdown]
# Bahdanau, Cho and Bengio saw the same in 2014, and let the decoder look at all the vectors instead. That was the
# first attention. Three years later the transformer kept the attention and threw out the recurrent network.
#
# ## The same task without an encoder
#
# LLaMA has no encoder and no cross-attention. Can it translate? Write both sentences in one line, the source, a sign,
# the target, and let a language model continue:
#
#     <fr> The cat sat . <bos> Le chat s' est assis . <eos>
#
# When it writes *chat*, its ordinary causal self-attention may look at everything before, the English sentence
# included. Source and target lie side by side in one text.
#
# What are the labels? As always the next token. But the English sentence is given. Nobody asks the model to guess it.
# So its labels are -100, and the first one that counts stands **under the sign**: having read it, the model shall say
# the first French word. In chapter 14 the same trick teaches LLaMA to answer questions.
#
# **Exercise 08.8.** Write `one_line`, for one sentence, with lists.

# %% exercise: 08.8

# %% check: 08.8
one_line = check("08.8", one_line)

# %%
pairs = [("The cat sat.", "Le chat s'est assis."), ("The cat was small.", "猫很小。")]
for language, (english, text) in zip(LANGUAGES, pairs, strict=True):
    tokens, labels = one_line(tokenizer.source(english, language), tokenizer.encode(text), bos, eos)
    print("reads", [tokenizer.words[token] for token in tokens])
    print("says ", [tokenizer.words[label] if label >= 0 else "" for label in labels], "\n")

# %% [markdown]
# Now a small LLaMA, three layers, built from the package's parts (you will build it yourself in the next chapter). It
# has a third fewer parameters than the translator. Same sentences, same loop; in the full run a minute again.


# %%
from minillama.llama import Llama


def one_line_loss(model, batch):
    lines = [
        one_line(tokenizer.source(triple[0], language), tokenizer.encode(triple[place]), bos, eos)
        for triple in batch
        for language, place in LANGUAGES.items()
    ]
    tokens, _ = pad_right([tokens for tokens, _ in lines], pad)
    labels, _ = pad_right([labels for _, labels in lines], -100)
    return next_token_loss(model(tokens), labels)


# %% varies
small = translator.config
torch.manual_seed(0)
llama = Llama(replace(small, n_layers=3, d_ff=small.d_model * 8 // 3, max_len=2 * LONGEST))
print(f"encoder and decoder: {translator.n_parameters:,} parameters; decoder only: {llama.n_parameters:,}")
losses = train(llama, one_line_loss, steps=60 if FAST else 800)
print(f"loss at the end: {losses[-1]:.3f} nats per token")
assert losses[-1] < (4.5 if FAST else 0.1)


# %% [markdown]
# It writes with your `write_greedily` as well. No function had to change: `llama` itself gives the scores.


# %% varies
@torch.no_grad()
def continued(english, language):
    start = torch.tensor([[*tokenizer.source(english, language), bos]])
    row = write_greedily(lambda tokens: llama(tokens)[:, -1], start, 12 if FAST else LONGEST, eos)[0].tolist()
    return until_end(row[start.size(1) :])


few = test[: 5 if FAST else 150]
for language, place in LANGUAGES.items():
    share = sum(continued(triple[0], language) == triple[place] for triple in few) / len(few)
    print(f"{language}: {100 * share:.0f} % of {len(few)} test sentences without a mistake; the first:")
    print("   ", few[0][0], continued(few[0][0], language)[:70])
    assert FAST or share >= 0.9

# %% [markdown]
# As good as the encoder-decoder, with fewer parameters (in the full run). So what is an encoder good for? Its tokens
# look in both directions. And it may read something else than text: a picture, a sound. What is the price? Such a
# model needs **a source and a target**, two things that belong together. A language model needs text and nothing
# else, and of that there is far more. Whatever you want, a translation, an answer, a summary, is then the
# continuation of some text.

# %% [markdown]
# ## The popular mistake
#
# Many articles explain LLaMA with the picture of 2017: encoder on the left, decoder on the right. Suppose you take
# that picture at its word and train it as a language model. There is only one text. So the encoder reads it, the
# decoder reads it, and the decoder predicts the next token:
#
#     encoded = encode(text)
#     logits  = decode(text, encoded)        # causal mask, as it should be
#     loss    = next_token_loss(logits, text moved by one)
#
# Everything in it is right by itself. The decoder has its causal mask. The labels are moved by one. Train it on the
# English sentences of the grammar, and beside it, on the same sentences, a LLaMA.
#
# **Predict.** How low does the loss of the encoder-decoder get in 200 steps? Nobody can know whether the cat sat or
# slept, so for an honest model it must stay near 2 nats per word. Which of 2, 1 and 0.1 does it come nearest to?

# %% predict: leak
leak = 0.1  # 2, 1 or 0.1


# %%
def english_rows(batch):
    return teacher_forcing([tokenizer.encode(triple[0]) for triple in batch], bos=bos, eos=eos, pad=pad)


def picture_loss(model, batch):
    inputs, labels = english_rows(batch)
    return next_token_loss(model(inputs, inputs, inputs != pad), labels)


def llama_loss(model, batch):
    inputs, labels = english_rows(batch)
    return next_token_loss(model(inputs), labels)


# %% [markdown]
# Look where the two lines end.

# %% reveal: leak
torch.manual_seed(0)
picture, honest = Seq2Seq(small), Llama(small)
curves = {"the picture": train(picture, picture_loss, 200), "LLaMA": train(honest, llama_loss, 200)}
plots.losses(curves, smooth=10)
ends = {name: sum(curve[-10:]) / 10 for name, curve in curves.items()}
assert ends["the picture"] < 0.5 < 1.5 < ends["LLaMA"]
predicted(leak, min((2, 1, 0.1), key=lambda nats: abs(nats - ends["the picture"])))

# %% [markdown]
# The loss of the picture has collapsed. If that were true, it would know before each word which one comes: what the
# cat did, and where, and which colour the table had. Now let both write. They draw each next word at random, with the
# probabilities that the model gives. The picture's encoder reads what has been written so far, for there is nothing
# else to read.


# %% varies
@torch.no_grad()
def write(next_logits, n_texts=5):
    torch.manual_seed(1)
    tokens = torch.full((n_texts, 1), bos)
    for _ in range(14):
        shares = next_logits(tokens)[:, -1].softmax(dim=-1)
        tokens = torch.cat([tokens, torch.multinomial(shares, 1)], dim=1)
    return [until_end(row[1:])[:95] for row in tokens.tolist()]


print("the picture:", *write(lambda tokens: picture(tokens, tokens)), sep="\n  ")
print("LLaMA:", *write(honest), sep="\n  ")

# %% [markdown]
# Noise on the one side, and on the other sentences, or nearly so after only 200 steps. What happened?
# The decoder can't see ahead. The **encoder** can: its tokens look in both directions, and the decoder may look at
# all of them. So the decoder learned a single thing: *find your own place in the encoder's text, and copy the word
# after it.* That is cheaper than learning English. When it writes, there is no word after it.
#
# Ask for the next word of sentences that are cut off, so that nothing of it can be seen:


# %% varies
@torch.no_grad()
def loss_on_cut_text(next_logits):
    """Nats on the next word, when nothing but the words before it is there"""
    total = n = 0
    for english in english_test[:100]:
        tokens = torch.tensor([[bos, *tokenizer.encode(english), eos]])
        for t in range(1, tokens.size(1)):
            total += F.cross_entropy(next_logits(tokens[:, :t])[:, -1], tokens[:, t]).item()
            n += 1
    return total / n


cut = {"the picture": loss_on_cut_text(lambda x: picture(x, x)), "LLaMA": loss_on_cut_text(honest)}
for name, nats in cut.items():
    print(f"{name:<12} in training {ends[name]:.2f} nats per word, on cut text {nats:.2f}")
assert cut["the picture"] > cut["LLaMA"] + 1

# %% [markdown]
# LLaMA's two numbers are about the same, and a little higher for the second, since these sentences hold pairs that it
# has never seen. The picture's are worlds apart.
#
# ### The proof
#
# You need no training to find this out. `certify` changes a token and looks whether anything before it moves. It
# takes any function from tokens to logits. Here is a picture that has learned nothing:

# %% varies
from minillama.certify import certify

torch.manual_seed(0)
fresh = Seq2Seq(small)
certificate = certify(lambda tokens: fresh(tokens, tokens), vocab_size=tokenizer.vocab_size)
print(*str(certificate).splitlines()[:2], sep="\n")
assert "causal" in certificate.failed

# %% [markdown]
# Can it be saved? Give the encoder a causal mask too, and nothing leaks any more; but then it is a second decoder in
# front of the first. Give it only the beginning of a text, and let the decoder write the rest: that is honest, and it
# is what we did with the translations, with *two* texts. Or **take the encoder away**. The cross-attention has then
# nothing to look at, and goes too. What is left in each layer is causal self-attention and a feed-forward block:


# %%
def sublayers(layer):
    return [name for name, _ in layer.named_children() if not name.endswith("norm")]


print("decoder, 2017:", *sublayers(Seq2Seq(small).decoder[0]))
print("LLaMA:        ", *sublayers(Llama(small).layers[0]))
certificate = certify(Llama(small))
print("certified" if certificate.passed else certificate)
assert certificate.passed and "cross_attention" not in sublayers(Llama(small).layers[0])

# %% [markdown]
# That is LLaMA. It is called **decoder-only** for this reason, and there is no encoder in it that anyone could draw.
#
# ## What LLaMA 1, 2 and 3 do here
#
# | | transformer, 2017 (base) | LLaMA 1 | Llama 2 | Llama 3.1 |
# |---|---|---|---|---|
# | encoder layers | 6 | none | none | none |
# | decoder layers | 6 | 32 (7B) to 80 (65B) | 32 (7B) to 80 (70B) | 32 (8B) to 126 (405B) |
# | attentions per decoder layer | 2, self and cross | 1 | 1 | 1 |
# | `d_model` | 512 | 4096 to 8192 | 4096 to 8192 | 4096 to 16384 |
# | parameters | 65 million | 7 to 65 billion | 7 to 70 billion | 8 to 405 billion |
# | learns from | pairs of sentences | text | text | text |
# | norm | after adding | before | before | before |
#
# Sources: [Attention Is All You Need](https://arxiv.org/abs/1706.03762), table 3;
# [LLaMA](https://arxiv.org/abs/2302.13971), table 2; [Llama 2](https://arxiv.org/abs/2307.09288), section 2.2;
# [The Llama 3 Herd of Models](https://arxiv.org/abs/2407.21783), table 3. To translate, you ask a LLaMA to do so, in
# one line, as above.
#
# Cross-attention has come back in one place: for **images**. In the Llama 3 paper (section 7) a picture goes through
# an encoder of its own, and extra cross-attention layers, one after every fourth layer of the language model, let the
# text look at it. There a source and a target are two different things again.

# %%
from minillama.config import PRESETS

for name in ("llama-1-7b", "llama-1-65b", "llama-2-70b", "llama-3.1-8b", "llama-3.1-405b"):
    print(f"{name:<15} {PRESETS[name].n_layers:>3} layers, d_model {PRESETS[name].d_model:>6,}")
assert PRESETS["llama-3.1-405b"].n_layers == 126 and PRESETS["llama-3.1-405b"].d_model == 16384

# %% [markdown]
# ## What you have now
#
# - An encoder reads the whole source, in both directions, and gives back a vector per token. Fixed length was the
#   recurrent networks' trouble.
# - A decoder reads what has been written, with a causal mask, and asks the encoder: queries from the decoder, keys
#   and values from the encoder.
# - Teacher forcing: it reads the right words. Labels are the inputs moved by one, with `<eos>`, and with -100 where
#   nothing is to be learned.
# - Greedy takes the best next token. Beam search follows several texts. Neither knows the best text for sure.
# - Test with combinations that training has not shown. Exact match is strict, chrF says how far off.
# - A decoder alone can do the same with both texts in one line.
# - An encoder that sees the text that shall be predicted gives the answer away. The loss won't tell you; `certify`
#   does.
#
# ## Further reading
#
# - *Attention Is All You Need*, Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser and Polosukhin, 2017. Now
#   you can read all of section 3.
# - *Sequence to Sequence Learning with Neural Networks*, Sutskever, Vinyals and Le, 2014. The vector of fixed length.
# - *Neural Machine Translation by Jointly Learning to Align and Translate*, Bahdanau, Cho and Bengio, 2014. The way
#   out of it, with alignments like yours.
# - *chrF: character n-gram F-score for automatic MT evaluation*, Popović, 2015.
# - *Google's Neural Machine Translation System*, Wu et al., 2016. Where the length penalty comes from.
# - *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer* (T5), Raffel et al., 2020.
#   Encoder-decoder, decoder-only and what lies between, compared.
# - *The Annotated Transformer*, Rush, 2018. The model of this chapter, line by line.
#
# Next, in chapter 09, you build LLaMA itself, from your own parts.
