"""How fast byte-pair encoding learns and encodes TinyShakespeare, against the libraries tokenizers and sentencepiece.

    python benchmarks/bpe.py [--tokens N]

One thread each. (This file must not be called tokenizers.py: it would be imported in place of the library.)
"""

import argparse
import io
import os

os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # before the library is imported

import sentencepiece
import tokenizers
from side_by_side import side_by_side

from minillama.assets import corpus
from minillama.tokenizer import BytePairTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--tokens", type=int, default=512, help="size of the vocabulary")
options = parser.parse_args()
text = corpus()
lines = text.splitlines(keepends=True)
MEGABYTES = len(text.encode()) / 1e6


def train_ours():
    return BytePairTokenizer.train(text, options.tokens)


def train_tokenizers():
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer, library.decoder = byte_level, tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=options.tokens, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    library.train_from_iterator([text], trainer)
    return library


def train_sentencepiece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.split("\n")), model_writer=model, vocab_size=options.tokens, model_type="bpe",
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=False, num_threads=1, minloglevel=3,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def encode_ours():
    return BytePairTokenizer(ours.merges).encode(text)  # a new one, which has not seen a word yet


def encode_tokenizers(pieces):
    library = tokenizers.Tokenizer.from_str(saved)  # likewise: it keeps words too
    return [token for piece in pieces for token in library.encode(piece).ids]


def encode_sentencepiece():
    return [token for line in lines for token in theirs.encode(line.removesuffix("\n"))]


ours, library, theirs = train_ours(), train_tokenizers(), train_sentencepiece()
saved = library.to_str()
assert ours.decode(encode_ours()) == library.decode(encode_tokenizers([text])) == text
assert ours.vocab_size == library.get_vocab_size() == theirs.get_piece_size() == options.tokens

print(f"training on {MEGABYTES:.3f} MB, {options.tokens} tokens, one thread")
side_by_side(
    {"tokenizers": train_tokenizers, "minillama": train_ours, "sentencepiece": train_sentencepiece},
    rounds=5,
    unit="MB",
    per_call=MEGABYTES,
)
print(f"encoding {MEGABYTES:.3f} MB, nothing remembered from before")
side_by_side(
    {
        "tokenizers, one text": lambda: encode_tokenizers([text]),
        "tokenizers, line by line": lambda: encode_tokenizers(lines),
        "minillama, one text": encode_ours,
        "sentencepiece, line by line": encode_sentencepiece,
    },
    rounds=5,
    unit="MB",
    per_call=MEGABYTES,
)
learned = {ours.decode([token]) for token in range(256, ours.vocab_size)}
n_shared = len(learned & {library.decode([token]) for token in range(options.tokens)})
n_ours, n_library, n_theirs = len(encode_ours()), len(encode_tokenizers([text])), len(encode_sentencepiece())
print("Tokens that the text becomes, and what each does differently:")
print(f"minillama      {n_ours:,}; begins with 256 bytes; of pairs that are as frequent, the smallest goes first")
print(f"tokenizers     {n_library:,}; the same, but it numbers the bytes in another order, so ties fall otherwise;")
print(f"               {n_shared} of {len(learned)} merges make the same tokens")
print(f"sentencepiece  {n_theirs:,}, and {text.count(chr(10)):,} line feeds that it does not encode; begins with the")
print("               characters of the text instead of 256 bytes, so more of its tokens are merges")
