"""Recipes: everything that decides what a training run computes, under a name."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from minillama.config import Config, check_count, check_positive


@dataclass(frozen=True)
class Recipe:
    """Sizes of a model and how to train it. Lengths and steps are counted in tokens and optimizer steps.

    tokenizer: "char", or such as "bpe-1024": byte pairs, so many tokens in all, learned from the training part.
    d_model, n_layers, n_heads, n_kv_heads, d_ff: sizes as in Config. length: tokens per training window, and the
    model's max_len. accumulate: batches whose gradients are added up before each step.
    optimizer: "muon" (torch's, for the matrices inside the blocks, AdamW for the rest), "adamw" (the one of
    chapter 10), "torch-adamw". lr: peak learning rate; embedding_lr: AdamW's under Muon (default lr).
    schedule: "linear" or "cosine", down to 0. average: each step takes the weights this share of the way from their
    running average (0: no average); what is evaluated and saved is the average.
    dropout: share of each sub-layer's output that is set to 0 in training. precision: "auto", "bf16" or "fp32".
    Errors: ValueError that names the field, its value and what is expected.
    """

    name: str
    about: str
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    length: int
    steps: int
    batch_size: int
    lr: float
    tokenizer: str = "char"
    n_kv_heads: int | None = None
    embedding_lr: float | None = None
    accumulate: int = 1
    optimizer: str = "muon"
    weight_decay: float = 0.1
    warmup_steps: int = 50
    schedule: str = "linear"
    max_norm: float = 1.0
    dropout: float = 0.0
    average: float = 0.0
    precision: str = "auto"
    compile: bool = False
    evaluations: int = 5
    seed: int = 1

    def __post_init__(self):
        if self.tokenizer != "char" and not re.fullmatch(r"bpe-\d{3,6}", str(self.tokenizer)):
            raise ValueError(f"tokenizer={self.tokenizer!r}; expected 'char', or 'bpe-' and a number such as bpe-1024")
        for field in ("length", "steps", "batch_size", "accumulate", "evaluations"):
            check_count(field, getattr(self, field), limit=2**31)
        for field in ("lr", "max_norm", "embedding_lr"):
            if getattr(self, field) is not None:
                check_positive(field, getattr(self, field))
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r}; expected one of {', '.join(allowed)}")
        for field in ("dropout", "average", "weight_decay"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f"{field}={value!r}; expected a number from 0 to less than 1")
        for field in ("warmup_steps", "seed"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
                raise ValueError(f"{field}={value!r}; expected a whole number from 0 on")
        self.config(vocab_size=1)  # the sizes check themselves

    def config(self, vocab_size: int) -> Config:
        """Sizes of the model that this recipe trains: plain LLaMA with a tied output layer."""
        return Config(
            vocab_size=vocab_size,
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,  # type: ignore[arg-type]
            d_ff=self.d_ff,
            max_len=self.length,
            tied=True,
        )

    def but(self, **changes: Any) -> "Recipe":
        """The same recipe with some fields changed; the name then says so, unless it is changed too."""
        unknown = set(changes) - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise ValueError(f"unknown field {sorted(unknown)[0]!r}; a recipe has {', '.join(vars(self))}")
        return dataclasses.replace(self, **changes)


CHOICES = {
    "optimizer": ("muon", "adamw", "torch-adamw"),
    "schedule": ("linear", "cosine"),
    "precision": ("auto", "bf16", "fp32"),
}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "shakespeare-taste",
            "a first taste in under a minute: words, speakers, no sense",
            d_model=64, n_layers=3, n_heads=2, d_ff=176, length=64,
            steps=700, batch_size=12, lr=6e-3, weight_decay=0.0, warmup_steps=30,
        ),
        Recipe(
            "shakespeare-quick",
            "at most three minutes on two cores: lines that scan",
            d_model=128, n_layers=4, n_heads=4, d_ff=344, length=128,
            steps=2200, batch_size=16, lr=4e-3,
        ),
        Recipe(
            "shakespeare-best",
            "about fifteen minutes on two cores: the best that 1.8 million parameters give",
            d_model=192, n_layers=4, n_heads=3, d_ff=512, length=256,
            steps=4600, batch_size=12, lr=4e-3, warmup_steps=100, dropout=0.15, compile=True,
        ),
    )
}  # fmt: skip


def find_recipe(recipe: Recipe | str) -> Recipe:
    """A recipe by its name. Errors: ValueError that lists the names."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise ValueError(f"recipe {recipe!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[recipe]
