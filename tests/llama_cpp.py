"""llama.cpp, to compare with: the library inside the npm package node-llama-cpp, called from a process of its own.

python llama_cpp.py LIBRARIES MODEL < request.json > answer.json; the request: {"tokens": [...]} for logits of every
token, {"text": "..."} for ids, {"ids": [...]} for text, {"tokens": [...], "greedy": n} for n more ids,
{"tokens": [...], "timed": n, "threads": t} for the seconds that the prompt and each of n more tokens take.
"""

import ctypes as c
import json
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"


class ModelParams(c.Structure):
    _fields_ = [
        ("devices", c.c_void_p), ("overrides", c.c_void_p), ("n_gpu_layers", c.c_int32), ("split_mode", c.c_int),
        ("load_mode", c.c_int), ("lazy_mode", c.c_int), ("main_gpu", c.c_int32), ("tensor_split", c.c_void_p),
        ("callback", c.c_void_p), ("user_data", c.c_void_p), ("kv_overrides", c.c_void_p), ("vocab_only", c.c_bool),
        ("check_tensors", c.c_bool), ("use_extra_bufts", c.c_bool), ("no_host", c.c_bool), ("no_alloc", c.c_bool),
        ("load_mtp", c.c_bool),
    ]  # fmt: skip


class ContextParams(c.Structure):
    _fields_ = [
        *((name, c.c_uint32) for name in (
            "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq",
        )),
        ("n_threads", c.c_int32), ("n_threads_batch", c.c_int32), ("ctx_type", c.c_int), ("rope_scaling", c.c_int),
        ("pooling", c.c_int), ("attention", c.c_int), ("flash_attn", c.c_int),
        *((name, c.c_float) for name in ("base", "scale", "ext", "attn", "fast", "slow")), ("orig_ctx", c.c_uint32),
        ("defrag", c.c_float), ("cb_eval", c.c_void_p), ("cb_user", c.c_void_p), ("type_k", c.c_int),
        ("type_v", c.c_int),
        ("abort", c.c_void_p), ("abort_data", c.c_void_p), ("embeddings", c.c_bool), ("offload_kqv", c.c_bool),
        ("no_perf", c.c_bool), ("op_offload", c.c_bool), ("swa_full", c.c_bool), ("kv_unified", c.c_bool),
        ("samplers", c.c_void_p), ("n_samplers", c.c_size_t), ("ctx_other", c.c_void_p),
    ]  # fmt: skip


class Batch(c.Structure):
    _fields_ = [
        ("n_tokens", c.c_int32), ("token", c.POINTER(c.c_int32)), ("embd", c.c_void_p), ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)), ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    ]  # fmt: skip


def fetch(folder: Path) -> Path | None:
    """The folder of llama.cpp's libraries, fetched with npm; None where that can't be done."""
    libraries = folder / "package" / "bins" / "linux-x64"
    if libraries.is_dir():
        return libraries
    if sys.platform != "linux" or shutil.which("npm") is None:
        return None
    npm = subprocess.run(["npm", "pack", PACKAGE], cwd=folder, capture_output=True, timeout=300)
    archives = list(folder.glob("node-llama-cpp*.tgz"))
    if npm.returncode or not archives:
        return None
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return libraries if libraries.is_dir() else None


def ask(libraries: Path, model: Path, **request):
    """What llama.cpp answers. Errors: RuntimeError with what it said, if it does not like the file."""
    command = [sys.executable, __file__, str(libraries), str(model)]
    result = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=300)
    if result.returncode:
        raise RuntimeError(result.stderr[-3000:])
    return json.loads(result.stdout)


def main(libraries: Path, path: str):
    request = json.load(sys.stdin)
    for name in ("ggml-base", "ggml", "llama"):
        found = next(iter(sorted(libraries.glob(f"lib{name}.so*")) + sorted(libraries.glob(f"lib{name}.v*.so"))))
        library = c.CDLL(str(found), mode=c.RTLD_GLOBAL)
        if name == "ggml":
            library.ggml_backend_load_all_from_path(str(libraries).encode())
    library.llama_model_default_params.restype = ModelParams
    library.llama_context_default_params.restype = ContextParams
    library.llama_model_load_from_file.argtypes = [c.c_char_p, ModelParams]
    library.llama_init_from_model.argtypes = [c.c_void_p, ContextParams]
    library.llama_decode.argtypes = [c.c_void_p, Batch]
    library.llama_batch_init.restype = Batch
    library.llama_get_logits.argtypes, library.llama_get_logits.restype = [c.c_void_p], c.POINTER(c.c_float)
    for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_model_get_vocab", "llama_get_memory"):
        getattr(library, name).restype = c.c_void_p
    model = library.llama_model_load_from_file(path.encode(), library.llama_model_default_params())
    if not model:
        sys.exit("llama.cpp refuses the file")
    vocab = c.c_void_p(library.llama_model_get_vocab(c.c_void_p(model)))
    print(json.dumps(answer(library, model, vocab, request)))


def answer(library, model, vocab, request):
    if "text" in request:
        data, ids = request["text"].encode(), (c.c_int32 * 100_000)()
        n = library.llama_tokenize(vocab, data, len(data), ids, len(ids), False, request.get("special", False))
        return ids[:n]
    if "ids" in request:
        text = b""
        for i in request["ids"]:
            buffer = c.create_string_buffer(1000)
            n = library.llama_token_to_piece(vocab, i, buffer, 1000, 0, False)
            text += buffer.raw[:n]
        return text.decode("utf-8", "replace")
    tokens = request["tokens"]
    params = library.llama_context_default_params()
    assert params.offload_kqv and params.no_perf and params.op_offload, "the layout of llama_context_params has changed"
    params.n_ctx = params.n_batch = params.n_ubatch = 1024
    params.n_threads = params.n_threads_batch = request.get("threads", 1)
    if "timed" not in request:  # llama.cpp's own choice is faster, and less exact
        params.type_k = params.type_v = params.flash_attn = 0  # float32; no flash attention
    context = c.c_void_p(library.llama_init_from_model(c.c_void_p(model), params))
    n_vocab = library.llama_vocab_n_tokens(vocab)

    def decode(new, start, every=True):
        batch = library.llama_batch_init(len(new), 0, 1)
        batch.n_tokens = len(new)
        for i, token in enumerate(new):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, start + i, 1, 0
            batch.logits[i] = every or i == len(new) - 1
        assert library.llama_decode(context, batch) == 0
        return library.llama_get_logits(context)

    def logits(new, start):
        found = decode(new, start)
        return [found[i * n_vocab : (i + 1) * n_vocab] for i in range(len(new))]

    def seconds(new, start):
        begin = time.perf_counter()
        decode(new, start, every=False)
        return time.perf_counter() - begin

    if "timed" in request:
        seconds(tokens, 0)  # the first time, pages are read
        library.llama_memory_clear(c.c_void_p(library.llama_get_memory(context)), True)
        return [seconds(tokens, 0), [seconds(tokens[:1], len(tokens) + i) for i in range(request["timed"])]]

    rows, written = logits(tokens, 0), []
    if "greedy" not in request:
        return rows
    for step in range(request["greedy"]):
        best = max(range(n_vocab), key=rows[-1].__getitem__)
        written.append(best)
        rows = logits([best], len(tokens) + step)
    return written


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
