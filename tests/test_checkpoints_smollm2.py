"""A real model, SmolLM2-135M-Instruct: the same numbers and the same text as Transformers and llama.cpp. 98 MB."""

import time
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from minillama.attention import Attention
from minillama.block import Parts
from minillama.checkpoints import load
from minillama.checkpoints.export import export
from minillama.config import PRESETS
from minillama.generate import generate
from tests import llama_cpp
from tests.test_checkpoints_export import libraries  # noqa: F401  (a fixture)
from tests.tiny_checkpoints import interleaved

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow
PROMPTS = [
    "The capital of France is", "def factorial(n):\n", "Once upon a time there was a fox who",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def ours():
    try:
        from minillama.assets import fetch

        path = fetch("smollm2")
    except (OSError, ValueError) as error:
        pytest.skip(f"SmolLM2 can't be fetched here: {error}")
    start = time.process_time()
    loaded = load(path)
    seconds = time.process_time() - start
    print(f"loaded in {seconds:.1f} s of computing")
    assert seconds < 8
    return loaded


@pytest.fixture(scope="module")
def theirs(ours):
    """Transformers' model, with the numbers that the gguf package reads from the file."""
    gguf = pytest.importorskip("gguf")
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1e5),
    )  # fmt: skip
    names = {
        "token_embd": "model.embed_tokens", "output_norm": "model.norm", "blk": "model.layers",
        "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    weights = {}
    for tensor in gguf.GGUFReader(ours.source).tensors:
        name = ".".join(names.get(part, part) for part in tensor.name.split("."))
        weight = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        if ".q_proj" in name or ".k_proj" in name:
            order = interleaved(torch.arange(len(weight)), 9 if ".q_proj" in name else 3)
            weight = torch.empty_like(weight).index_copy_(0, order, weight)
        weights[name] = weight
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def test_the_file_says_what_the_preset_says(ours):
    assert ours.config == PRESETS["smollm2-135m"]
    assert ours.stop_tokens == (0, 2) and "<|im_start|>" in ours.chat_template
    assert {parameter.dtype for parameter in ours.model.parameters()} == {torch.float32}


@torch.no_grad()
@pytest.mark.parametrize("attend", ["eager", "sdpa"])
def test_logits_are_those_of_transformers_with_either_way_to_attend(attend, ours, theirs):
    tokens, model = torch.randint(49152, (2, 100)), ours.model
    if attend == "sdpa":
        model = load(
            ours.source, parts=Parts(attention=partial(Attention, attend=F.scaled_dot_product_attention))
        ).model
    theirs.set_attn_implementation(attend)
    difference = (model(tokens) - theirs(tokens).logits).abs().max().item()
    print(f"{attend}: largest difference of logits {difference:.1e}")
    assert difference <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("prompt", PROMPTS)
def test_64_greedy_tokens_are_those_that_transformers_finds_best(prompt, ours, theirs):
    theirs.set_attn_implementation("eager")
    ids = torch.tensor([ours.tokenizer.encode(prompt, allow_special=True)])
    said = generate(ours.model, ids, 64, temperature=0)
    best = theirs(said[:, :-1]).logits[:, ids.size(1) - 1 :].argmax(dim=-1)  # of each token, given all before it
    assert said.size(1) == ids.size(1) + 64 and best.tolist() == said[:, ids.size(1) :].tolist()
    print(repr(ours.tokenizer.decode(said[0].tolist())))


def test_what_is_exported_to_transformers_is_the_same_model_and_tokenizer(ours, tmp_path):
    path = export(
        ours.model, ours.tokenizer, tmp_path / "out", chat_template=ours.chat_template, stop_tokens=ours.stop_tokens
    )
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        path, output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    for prompt in PROMPTS:
        assert tokenizer.encode(prompt) == ours.tokenizer.encode(prompt, allow_special=True)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    tokens = torch.tensor([ours.tokenizer.encode(PROMPTS[0])])
    with torch.no_grad():
        assert (again(tokens).logits - ours.model(tokens)).abs().max() <= 1e-5
    back = load(path)
    assert back.config == ours.config and back.tokenizer.encode(PROMPTS[1]) == ours.tokenizer.encode(PROMPTS[1])


def test_what_is_exported_to_llama_cpp_computes_the_same(ours, libraries, tmp_path):  # noqa: F811
    path = export(ours.model, ours.tokenizer, tmp_path / "model.gguf", "gguf", stop_tokens=ours.stop_tokens)
    prompt = "def f(x):\n    return ½ + 1234  # 日本 😀"
    ids = llama_cpp.ask(libraries, path, text=prompt)
    assert ids == ours.tokenizer.encode(prompt)
    with torch.no_grad():
        difference = (
            torch.tensor(llama_cpp.ask(libraries, path, tokens=ids)) - ours.model(torch.tensor([ids]))[0]
        ).abs()
    print(f"largest difference of logits from llama.cpp: {difference.max():.1e}")
    assert difference.max() <= 1e-4
    ids = ours.tokenizer.encode(PROMPTS[0])
    said = llama_cpp.ask(libraries, path, tokens=ids, greedy=32)
    assert said == generate(ours.model, torch.tensor([ids]), 32, temperature=0)[0, len(ids) :].tolist()
