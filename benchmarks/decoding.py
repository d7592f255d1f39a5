"""How fast a small model writes: with and without the cache, against Hugging Face's generate with the same weights.

    python benchmarks/decoding.py [--threads N] [--tokens N]

Where there is a C++ compiler, both sides run through torch.compile as well, which takes about a minute to compile.
"""

import argparse
import copy
from functools import partial

import torch
import torch.nn.functional as F
import transformers
from side_by_side import side_by_side

from minillama import devices
from minillama.attention import Attention
from minillama.block import Parts
from minillama.config import Config
from minillama.generate import generate
from minillama.llama import Llama

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--tokens", type=int, default=256)
options = parser.parse_args()
torch.set_num_threads(options.threads)
torch.manual_seed(0)

config = Config(vocab_size=65, d_model=128, n_layers=4, n_heads=4, d_ff=344, max_len=512, tied=True)
ours = Llama(config).eval()
torchs_parts = Parts(norm=torch.nn.RMSNorm, attention=partial(Attention, attend=F.scaled_dot_product_attention))
with_torchs_parts = Llama(config, torchs_parts).eval()
with_torchs_parts.load_state_dict(ours.state_dict())
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


def hugging_face(model, use_cache=True):
    with torch.no_grad():
        return model.generate(
            prompt, max_new_tokens=options.tokens, min_new_tokens=options.tokens, do_sample=False, use_cache=use_cache,
            attention_mask=torch.ones_like(prompt),
        )  # fmt: skip


def minillama(model, use_cache=True):
    return generate(model, prompt, options.tokens, temperature=0, use_cache=use_cache)


sides = {
    "Hugging Face generate, cache": lambda: hugging_face(theirs),
    "minillama generate, cache": lambda: minillama(ours),
    "the same, torch's norm and attention": lambda: minillama(with_torchs_parts),
    "Hugging Face generate, no cache": lambda: hugging_face(theirs, use_cache=False),
    "minillama generate, no cache": lambda: minillama(ours, use_cache=False),
}
if devices.compiler():
    compiled, theirs_compiled = torch.compile(ours, dynamic=True), copy.deepcopy(theirs)
    theirs_compiled.forward = torch.compile(theirs_compiled.forward, dynamic=True)
    sides["Hugging Face, cache, torch.compile"] = lambda: hugging_face(theirs_compiled)
    sides["minillama, cache, torch.compile"] = lambda: minillama(compiled)

expected = hugging_face(theirs)
for name, write in sides.items():
    assert torch.equal(write(), expected), f"{name}: the same weights must write the same text"
print(f"{options.tokens} tokens after a prompt of 8, {ours.n_parameters:,} parameters, {options.threads} thread(s)")
side_by_side(sides, rounds=5, unit="tokens", per_call=options.tokens)
