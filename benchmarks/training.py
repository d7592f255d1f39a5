"""How fast a model learns: a step against Hugging Face's models of the same shape, and the time to one loss.

    python benchmarks/training.py [--threads N] [--loss]

Without --loss: seconds per optimizer step. With it: CPU seconds and validation loss (whole split) of the recipe
`shakespeare-taste` and of plain AdamW on a GPT-2 of 0.8 million parameters, which has the shape, batch and number of
steps of the CPU recipe in nanoGPT's README (that one ends at 1.898 measured this way).
"""

import argparse
import time

import torch
import torch.nn.functional as F
import transformers
from side_by_side import side_by_side

from minillama.assets import corpus
from minillama.config import Config
from minillama.data import Batches, split
from minillama.llama import Llama
from minillama.loop import train
from minillama.recipe import RECIPES
from minillama.tokenizer import CharTokenizer
from minillama.train import evaluate, learning_rate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--loss", action="store_true", help="the time to a loss (some minutes)")
options = parser.parse_args()
torch.set_num_threads(options.threads)
torch.manual_seed(0)
BATCH, LENGTH, STEPS = 12, 64, 2000


def gpt2():
    sizes = dict(vocab_size=65, n_positions=LENGTH, n_embd=128, n_layer=4, n_head=4)
    rest = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **rest))


def hugging_face_llama():
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=65, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=344,
            max_position_embeddings=LENGTH, tie_word_embeddings=True,
        )
    )  # fmt: skip


def stepper(model, logits_of, bf16=False):
    """A function that makes one plain AdamW step on random tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(65, (BATCH, LENGTH))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = logits_of(model(tokens))
        F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def steps():
    config = Config(vocab_size=65, d_model=128, n_layers=4, n_heads=4, d_ff=344, max_len=LENGTH, tied=True)
    print(f"one AdamW step, batch {BATCH} x {LENGTH}, 0.8 million parameters, {options.threads} thread(s)")
    side_by_side(
        {
            "GPT-2 of Hugging Face": stepper(gpt2(), lambda out: out.logits),
            "LLaMA of Hugging Face": stepper(hugging_face_llama(), lambda out: out.logits),
            "LLaMA of minillama": stepper(Llama(config), lambda out: out),
            "LLaMA of Hugging Face, bfloat16": stepper(hugging_face_llama(), lambda out: out.logits, bf16=True),
            "LLaMA of minillama, bfloat16": stepper(Llama(config), lambda out: out, bf16=True),
        },
        rounds=15,
        unit="tokens",
        per_call=BATCH * LENGTH,
    )


class Logits(torch.nn.Module):
    """A Hugging Face model that gives logits alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens).logits


def plain_adamw(text):
    """GPT-2 with AdamW, warm-up and cosine, clipping: what one writes first. -> CPU seconds, validation loss"""
    tokens = torch.tensor(CharTokenizer.train(text).encode(text))
    training, validation = split(tokens)
    model, batches = Logits(gpt2()), Batches(training, BATCH, LENGTH, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    began = time.process_time()
    for step in range(STEPS):
        rate = learning_rate(step, peak=1e-3, warmup_steps=100, total_steps=STEPS, floor=1e-4)
        optimizer.param_groups[0]["lr"] = rate
        x, y = batches(step)
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.process_time() - began, evaluate(model, validation, LENGTH)


def time_to_loss():
    text = corpus()
    began = time.process_time()
    run = train(RECIPES["shakespeare-taste"].but(evaluations=1), text, progress=False)
    ours = time.process_time() - began
    theirs, loss = plain_adamw(text)
    print(f"{'':<52} CPU seconds   validation loss")
    print(f"{'plain AdamW, GPT-2, 2,000 steps':<52} {theirs:>11.1f}   {loss:.4f}")
    print(f"{'shakespeare-taste, evaluation included':<52} {ours:>11.1f}   {run.validation_loss:.4f}")
    print(f"ratio {theirs / ours:.1f}")


time_to_loss() if options.loss else steps()
