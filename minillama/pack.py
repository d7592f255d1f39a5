"""Make a run small enough to ship: weights in bfloat16, measured again as they are, with a certificate."""

import hashlib
import json
from pathlib import Path

import torch

from minillama.certify import certify
from minillama.data import split_text
from minillama.saving import Checkpoint, open_checkpoint, save_checkpoint
from minillama.train import evaluate


def validation_loss(checkpoint: Checkpoint, text: str) -> float:
    """Loss of a checkpoint over the whole validation part (the last tenth) of the text it was trained on, in nats per
    token, in windows of the model's max_len.

    Errors: ValueError if it was trained on another text.
    """
    trained_on, this = checkpoint.training["identity"]["text_sha256"], hashlib.sha256(text.encode()).hexdigest()
    if trained_on != this:
        raise ValueError(
            f"{checkpoint.folder}: trained on a text with SHA-256 {trained_on}, not on this one ({this}); "
            f"give it with --text"
        )
    tokens = torch.tensor(checkpoint.tokenizer.encode(split_text(text)[1]))
    return evaluate(checkpoint.model, tokens, checkpoint.model.config.max_len)


def pack(run: str | Path, folder: str | Path, text: str, command: str) -> Checkpoint:
    """Write a run's newest checkpoint to `folder`: with what a reader wants to know, without what training needs.

    The validation loss is measured again, with the weights as they are stored; the certificate is of that model.
    `command` is what made the run.
    Errors: ValueError, OSError as in open_checkpoint; ValueError if the model fails its certificate.
    """
    run, folder = Path(run), Path(folder)
    packed = open_checkpoint(run)
    for parameter in packed.model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    certificate = certify(packed.model)
    if not certificate.passed:
        raise ValueError(f"{run}: not packed, since it fails its certificate\n{certificate}")
    training = packed.training | {"validation_loss": validation_loss(packed, text), "command": command}
    extra = {"certificate.json": (json.dumps(certificate.to_dict(), indent=2) + "\n").encode()}
    if (run / "metrics.csv").exists():
        extra["metrics.csv"] = (run / "metrics.csv").read_bytes()
    save_checkpoint(folder, packed.model, packed.tokenizer, training, dtype=torch.bfloat16, extra=extra)
    return open_checkpoint(folder)
