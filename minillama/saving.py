"""Checkpoints: a folder that is whole or does not count, and that says what it needs to be opened again.

step-000500/config.json       sizes of the model, names of its parts
            tokenizer.json
            model.safetensors
            training.json     recipe, step, versions, measurements
            training.pth      optimizers and random numbers: all that a resumed run needs (may be absent)
            manifest.json     SHA-256 and size of each file; written last
"""

import hashlib
import io
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from minillama.block import Parts
from minillama.config import Config
from minillama.files import megabytes, remove_stale_temps, replacing, replacing_folder, sha256
from minillama.llama import Llama
from minillama.tokenizer import Tokenizer, tokenizer_from_dict
from minillama.weights import load_weights, weights_to_save

MANIFEST = "manifest.json"
NEEDED = ("config.json", "tokenizer.json", "model.safetensors", "training.json")
NAME = re.compile(r"step-\d+")


@dataclass
class Checkpoint:
    """An opened checkpoint: the model with its weights, the tokenizer, and what is known of the training."""

    folder: Path
    model: Llama
    tokenizer: Tokenizer
    training: dict[str, Any]


def save_checkpoint(
    folder: Path,
    model: Llama,
    tokenizer: Tokenizer,
    training: dict[str, Any],
    state: dict[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
    extra: dict[str, bytes] | None = None,
):
    """Write a checkpoint. `training` is JSON; `state` (tensors, numbers, text) is only for resuming.

    dtype: what the weights are stored as (default: what they are). extra: more files, name -> content.
    It appears in one step, when all of it is written, and so replaces one that was there.
    Errors: DiskFull, other OSError; whatever was saved before stays.
    """
    files = {
        "config.json": _json({"config": model.config.to_dict(), "parts": model.parts.names()}),
        "tokenizer.json": _json(tokenizer.to_dict()),
        "model.safetensors": safetensors.torch.save(weights_to_save(model, dtype)),
        "training.json": _json(training),
        **(extra or {}),
    }
    if state is not None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        files["training.pth"] = buffer.getvalue()
    manifest = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()
    }
    with replacing_folder(folder) as new:
        for name, content in [*files.items(), (MANIFEST, _json(manifest))]:
            with replacing(new / name, size=len(content)) as file:
                file.write(content)


def verify(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or None: every file is there and agrees with the manifest."""
    path = folder / MANIFEST
    try:
        if not path.exists():
            return f"{folder}: no {MANIFEST}; saving it was interrupted"
        manifest = read_json(path)
        for name in NEEDED:
            if name not in manifest:
                return f"{path}: not a manifest (it does not name {name})"
        for name, wanted in manifest.items():
            file = folder / name
            if Path(name).name != name or not file.is_file():
                return f"{file}: missing, expected {megabytes(wanted['bytes'])}"
            if file.stat().st_size != wanted["bytes"]:
                return f"{file}: {file.stat().st_size:,} bytes, expected {wanted['bytes']:,}"
            if sha256(file) != wanted["sha256"]:
                return f"{file}: its SHA-256 is not the one in {MANIFEST}; the file has changed since it was saved"
    except OSError as error:
        return f"{folder}: cannot be read ({error})"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{path}: not a manifest ({error})"
    return None


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, the newest first, good or bad."""
    folders = [path for path in Path(run).glob("step-*") if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def newest_checkpoint(run: Path, report=print) -> Path | None:
    """The newest checkpoint of a run that is whole; None if there is none at all.

    `run` may also be a checkpoint itself. Damaged ones are passed over, and reported.
    Errors: ValueError if there are checkpoints and every one is damaged.
    """
    run = Path(run)
    is_one = run.is_dir() and (NAME.fullmatch(run.name) or any((run / name).exists() for name in (MANIFEST, *NEEDED)))
    folders = [run] if is_one else checkpoints(run)
    problems = []
    for folder in folders:
        problem = verify(folder)
        if problem is None:
            for skipped in problems:
                report(f"passed over: {skipped}")
            return folder
        problems.append(problem)
    if not problems:
        return None
    raise ValueError(
        f"{run}: no checkpoint is whole; restore one from a copy, or start again in another folder\n"
        + "\n".join(f"  {problem}" for problem in problems)
    )


def open_checkpoint(
    path: str | Path,
    parts: Parts | None = None,
    *,
    other_parts: bool = False,
    allow_nonfinite: bool = False,
    report=print,
) -> Checkpoint:
    """Open a run's newest checkpoint, or one checkpoint folder.

    parts: needed where it was made with parts that are not the package's own. Others than those it was made with are
    refused, unless other_parts=True.
    Errors: ValueError or OSError that names the file, what was found and what to do.
    """
    folder = newest_checkpoint(Path(path), report)
    if folder is None:
        raise FileNotFoundError(f"{path}: no checkpoint here; train one with: python -m minillama train")
    config_file = folder / "config.json"
    fields: Any = read_json(config_file)
    if not isinstance(fields, dict):
        raise ValueError(f"{config_file}: expected a JSON object, not {type(fields).__name__}; use another checkpoint")
    config = Config.from_dict(fields.get("config", {}), f"{config_file}: ")
    names: Any = fields.get("parts")
    if parts is None:
        try:
            parts = Parts.from_names(names)
        except ValueError as error:
            raise ValueError(f"{config_file}: {error}") from None
    if parts.names() != names and not other_parts:
        different = [f"{field}={name}" for field, name in parts.names().items() if names.get(field) != name]
        raise ValueError(
            f"{config_file}: made with parts {names}, not with {', '.join(different)}; pass the same parts, or say "
            f"other_parts=True if they compute the same"
        )
    tokenizer_file = folder / "tokenizer.json"
    try:
        tokenizer = tokenizer_from_dict(read_json(tokenizer_file))
    except ValueError as error:
        raise ValueError(f"{tokenizer_file}: {error}") from None
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"{folder}: tokenizer {tokenizer.vocab_size} tokens, model {config.vocab_size}; not a pair")
    model = Llama(config, parts)
    load_weights(model, folder / "model.safetensors", allow_nonfinite)
    return Checkpoint(folder, model.eval(), tokenizer, read_json(folder / "training.json"))


def read_state(folder: Path) -> dict[str, Any] | None:
    """Optimizers and random numbers of a checkpoint; None if it was saved without.

    Errors: ValueError if the file holds anything else than tensors, numbers and text: code in it is never run.
    """
    path = folder / "training.pth"
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        check_dense(state)
        return state
    except Exception as error:  # torch's reader fails in many ways
        size = path.stat().st_size
        raise ValueError(
            f"{path}: {size:,} bytes that are not a training state; use another checkpoint\n{error}"
        ) from None


def check_dense(state: Any):
    """Raise ValueError if a tensor claims more numbers than the file holds (stride 0, sparse)."""
    if isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            check_dense(value)
    elif isinstance(state, torch.Tensor) and (
        state.layout != torch.strided or state.untyped_storage().nbytes() < state.numel() * state.element_size()
    ):
        raise ValueError(f"a tensor of shape {tuple(state.shape)} that is sparse or repeats itself")


def clean_up(run: Path, keep: int = 2):
    """Delete what killed processes left half written, and checkpoints older than the `keep` newest whole ones."""
    run = Path(run)
    for folder in [run, *checkpoints(run)]:
        remove_stale_temps(folder)
    whole = [folder for folder in checkpoints(run) if verify(folder) is None]
    if len(whole) >= keep:
        for folder in checkpoints(run)[checkpoints(run).index(whole[keep - 1]) + 1 :]:
            (folder / MANIFEST).unlink(missing_ok=True)  # first: from here on it is no checkpoint
            shutil.rmtree(folder)


def read_json(path: Path) -> Any:
    """A JSON file's content. Errors: ValueError that names the file if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes that are not JSON ({error})") from None


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
