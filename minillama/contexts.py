"""What can be put around training: dropout, and an orderly stop. Chapter 10."""

import signal
import threading
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from minillama.llama import Llama


@contextmanager
def dropout(model: Llama, share: float):
    """While this is open, set a random share of each sub-layer's output to 0 whenever the model is in train mode.

    The model itself stays a plain LLaMA. Source: Srivastava et al. 2014; Vaswani et al. 2017, section 5.4.
    """

    def drop(module: nn.Module, _, output: Tensor) -> Tensor:
        return F.dropout(output, share, module.training)

    layers: Any = model.layers
    sublayers = [sub for layer in layers for sub in (layer.attention, layer.feedforward)] if share else []
    hooks = [sublayer.register_forward_hook(drop) for sublayer in sublayers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def stop_on_ctrl_c(report):
    """Give an event that the first Ctrl-C sets; the second one interrupts as usual.

    So a step or a save is never cut in the middle. Outside the main thread Ctrl-C stays what it was.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_ctrl_c(*_):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        report("\nCtrl-C: finishing this step and saving; once more to stop at once")

    before = signal.signal(signal.SIGINT, on_ctrl_c)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
