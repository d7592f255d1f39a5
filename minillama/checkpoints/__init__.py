"""Real checkpoints: open a Llama in any of its formats, whoever trained it. Chapter 13."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minillama.block import Parts
from minillama.checkpoints import huggingface, llama2c, llamacpp, meta
from minillama.checkpoints.opened import Opened, Stored, build
from minillama.config import Config
from minillama.devices import pick_device
from minillama.llama import Llama
from minillama.saving import open_checkpoint

__all__ = ["Loaded", "Opened", "Stored", "inspect", "load"]


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that is ready to write.

    tokenizer: None if there is none that can be used; no_tokenizer says why. chat_template: the checkpoint's own, in
    Jinja. stop_tokens: ids that end an answer. source: the file or folder. notes: what a user should know.
    """

    model: Llama
    tokenizer: Any
    config: Config
    chat_template: str | None
    stop_tokens: tuple[int, ...]
    source: Path
    format: str
    no_tokenizer: str = ""
    notes: tuple[str, ...] = ()


def load(
    path_or_name: str | Path,
    *,
    parts: Parts | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    rope_factor: float | None = None,
    max_len: int | None = None,
    allow_nonfinite: bool = False,
) -> Loaded:
    """Open a checkpoint of any format: a file, a folder, or the name of an asset, which is fetched if need be.

    Formats: Hugging Face folders, Meta's folders, GGUF and llama2.c files, and the runs of this package.
    parts: what the model is built from, such as a learner's own; they must compute what LLaMA's compute.
    dtype: what the weights become (default: what they are; quantized ones float32). Where nothing has to be converted
    or moved, the model reads them from the file as it needs them: don't overwrite the file meanwhile.
    device: as in devices.pick_device; default the CPU.
    rope_factor, max_len: for Meta's files, which don't say them. max_len also shortens what other models accept.
    allow_nonfinite: take NaN and infinite weights, to look at them.
    Errors: ValueError, OSError that name the file, what was found, what was expected and what to do.
    """
    where = torch.device("cpu") if device is None else pick_device(str(device))
    path = find(path_or_name)
    if is_own(path):
        return _load_own(path, parts, dtype, where, max_len, allow_nonfinite)
    opened = inspect(path, rope_factor=rope_factor, max_len=max_len)
    reason, tokenizer = "", None
    try:
        tokenizer = opened.tokenizer()
        if tokenizer is None:
            reason = f"{path}: no tokenizer here"
    except ValueError as error:
        reason = str(error) if str(path) in str(error) else f"{path}: {error}"
    if tokenizer is not None and tokenizer.vocab_size > opened.config.vocab_size:
        raise ValueError(
            f"{path}: tokenizer {tokenizer.vocab_size:,} tokens, model {opened.config.vocab_size:,}; not a pair"
        )
    model = build(opened, parts or Parts(), dtype, where, allow_nonfinite)
    return Loaded(
        model, tokenizer, model.config, opened.chat_template, opened.stop_tokens, path, opened.format, reason,
        opened.notes,
    )  # fmt: skip


def inspect(path_or_name: str | Path, *, rope_factor: float | None = None, max_len: int | None = None) -> Opened:
    """Read only the headers of a checkpoint of somebody else's: its sizes, and where each weight is.

    Errors: as in load.
    """
    path = find(path_or_name)
    if path.is_dir():
        if meta.fits(path):
            opened = meta.open_folder(path, rope_factor, max_len)
        elif huggingface.fits(path):
            opened = huggingface.open_folder(path)
        else:
            raise FileNotFoundError(
                f"{path}: neither config.json (Hugging Face) nor params.json (Meta) in this folder; give another"
            )
    elif llamacpp.fits(path):
        opened = llamacpp.open_file(path)
    elif llama2c.fits(path):
        opened = llama2c.open_file(path)
    else:
        raise ValueError(f"{path}: expected a .gguf or .bin (llama2.c) file, or the folder that config.json is in")
    if rope_factor is not None and opened.format != "meta":
        raise ValueError(f"{path}: rope_factor is only for Meta's files, which don't say it; leave it out")
    if max_len is None:
        return opened
    if max_len > opened.config.max_len:
        raise ValueError(f"max_len={max_len}; this model accepts at most {opened.config.max_len:,}")
    return replace(opened, config=replace(opened.config, max_len=max_len))


def find(path_or_name: str | Path) -> Path:
    """The path itself, if it is there, or else the asset of that name, fetched if need be.

    Errors: FileNotFoundError for neither.
    """
    from minillama import assets

    path = Path(path_or_name)
    if path.exists():
        return path
    if str(path_or_name) in assets.ASSETS:
        return assets.fetch(str(path_or_name))
    raise FileNotFoundError(f"{path}: no such file or folder, and no asset; assets: {', '.join(assets.ASSETS)}")


def is_own(path: Path) -> bool:
    """Whether a folder is a checkpoint or a run of this package."""
    return path.is_dir() and ((path / "manifest.json").is_file() or any(path.glob("step-*/manifest.json")))


def is_foreign(path: Path) -> bool:
    """Whether there is a file, or a folder of somebody else's, that looks like a checkpoint."""
    if path.is_dir():
        return not is_own(path) and (meta.fits(path) or huggingface.fits(path))
    return path.is_file()


def _load_own(path, parts, dtype, device, max_len, allow_nonfinite) -> Loaded:
    opened = open_checkpoint(path, parts, other_parts=parts is not None, allow_nonfinite=allow_nonfinite)
    model = opened.model.to(device=device, dtype=dtype)
    if max_len is not None:
        model.config = replace(model.config, max_len=min(max_len, model.config.max_len))
    return Loaded(model, opened.tokenizer, model.config, None, (), path, "minillama")
