"""How fast a small model writes: with and without the cache, against Hugging Face's generate with the same weights.

python benchmarks/decoding.py [--threads N] [--tokens N]
"""

import argparse

import torch
import transformers
from side_by_side import side_by_side

from minillama.config import Config
from minillama.generate import generate
from minillama.llama import Llama

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--tokens", type=int, default=256)
options = parser.parse_args()
torch.set_num_threads(options.threads)
torch.manual_seed(0)

config = Config(vocab_size=65, d_model=128, n_layers=4, n_heads=4, d_ff=344, max_len=512, tied=True)
ours = Llama(config).eval()
theirs = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
        vocab_size=65, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=344,
        max_position_embeddings=512, rms_norm_eps=config.norm_eps, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )
).eval()  # fmt: skip
names = {"attention_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm",
         "attention.": "self_attn.", "feedforward.": "mlp."}  # fmt: skip
weights = {}
for name, weight in ours.state_dict().items():
    for mine, yours in names.items():
        name = name.replace(mine, yours)
    weights[name if name.startswith("lm_head") else f"model.{name}"] = weight
theirs.load_state_dict(weights)

prompt = torch.randint(65, (1, 8))


def hugging_face(use_cache):
    with torch.no_grad():
        return theirs.generate(
            prompt, max_new_tokens=options.tokens, min_new_tokens=options.tokens, do_sample=False, use_cache=use_cache,
            attention_mask=torch.ones_like(prompt),
        )  # fmt: skip


def minillama(use_cache):
    return generate(ours, prompt, options.tokens, temperature=0, use_cache=use_cache)


assert torch.equal(minillama(True), hugging_face(True)), "the same weights must write the same text"
print(f"{options.tokens} tokens after a prompt of 8, {ours.n_parameters:,} parameters, {options.threads} thread(s)")
side_by_side(
    {
        "Hugging Face generate, cache": lambda: hugging_face(True),
        "minillama generate, cache": lambda: minillama(True),
        "Hugging Face generate, no cache": lambda: hugging_face(False),
        "minillama generate, no cache": lambda: minillama(False),
    },
    rounds=5,
    unit="tokens",
    per_call=options.tokens,
)
