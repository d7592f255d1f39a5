"""Build a LLaMA yourself: the parts, the model, the training, the text."""

__version__ = "0.1.0"
