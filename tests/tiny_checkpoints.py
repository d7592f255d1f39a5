"""Random tiny models of Transformers, in every variant that a plain Llama comes in, for the tests of checkpoints.

initializer_range=0.2 and random norms and biases: with the defaults, a forgotten norm or bias does not show.
"""

import pytest
import torch

SIZES = dict(
    vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-3, initializer_range=0.2, pad_token_id=None,
    bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
)  # fmt: skip
LLAMA_3 = dict(
    rope_type="llama3", rope_theta=5000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64,
)  # fmt: skip

# (Transformers' class, changes to SIZES)
VARIANTS: dict[str, tuple[str, dict]] = {
    "llama-1": ("Llama", dict(num_key_value_heads=6, rms_norm_eps=1e-6)),
    "grouped": ("Llama", {}),
    "one key head": ("Llama", dict(num_key_value_heads=1)),
    "llama-3": ("Llama", dict(rope_parameters=dict(rope_type="default", rope_theta=500000.0))),
    "llama-3.1": ("Llama", dict(rope_parameters=LLAMA_3)),
    "llama-3.2": ("Llama", dict(rope_parameters=LLAMA_3 | dict(factor=32.0), tie_word_embeddings=True)),
    "linear": ("Llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0))),
    "biased attention": ("Llama", dict(attention_bias=True)),
    "all biased": ("Llama", dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    "wide heads": ("Llama", dict(head_dim=8)),
    "smollm2": ("Llama", dict(num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True)),
    "mistral": ("Mistral", dict(sliding_window=None, head_dim=4)),
    "qwen2": ("Qwen2", {}),
}


def random_model(variant: str, **changes):
    """A model of Transformers with random weights, in float32, ready to compare with."""
    transformers = pytest.importorskip("transformers")
    kind, variant_changes = VARIANTS[variant]
    config = getattr(transformers, f"{kind}Config")(**(SIZES | variant_changes | changes))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand_like(parameter) + 0.5 if "norm" in name else torch.randn_like(parameter))
    return model


def tokens(vocab_size: int = 61) -> torch.Tensor:
    return torch.randint(vocab_size, (2, 150), generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def difference(ours, theirs) -> float:
    """The largest difference of logits between our model and Transformers'."""
    x = tokens(ours.config.vocab_size)
    return (ours(x) - theirs(x).logits).abs().max().item()


def interleaved(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Rows of q or k in the order of Meta and llama.cpp: channel i of a head goes to 2i, i + D/2 to 2i + 1."""
    D = weight.size(0) // n_heads
    rows = [h * D + pair + half * (D // 2) for h in range(n_heads) for pair in range(D // 2) for half in range(2)]
    return weight[rows]
