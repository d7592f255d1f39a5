"""The transformer of 2017: an encoder reads a sentence, a decoder writes another one. Chapter 08.

Letters: S source tokens, T target tokens; otherwise as everywhere.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minillama.attention import Attention, causal_mask
from minillama.block import Parts, PostNormBlock
from minillama.config import Config
from minillama.feedforward import ReLUFeedForward
from minillama.norm import LayerNorm
from minillama.position import Sinusoidal

VASWANI = Parts(
    norm=LayerNorm,
    feedforward=ReLUFeedForward,
    attention=partial(Attention, bias=True),
    position=Sinusoidal,
    block=PostNormBlock,
)


class DecoderBlock(nn.Module):
    """One layer of the decoder: look at what is written, look at the source, think; normalize after adding.

    Shape: x (B, T, C), encoded (B, S, C) -> (B, T, C). mask and source_mask bool, broadcast to (B, H, T, T) and
    (B, H, T, S), True means "may look". `inner` goes to the self-attention as it is.
    Computes a = norm(x + attention(x)); b = norm(a + cross_attention(a, encoded)); norm(b + feedforward(b)). Queries of
    the cross-attention come from the decoder, keys and values from the encoder; it has no causal mask.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.1.
    """

    def __init__(self, config: Config, parts: Parts):
        super().__init__()
        sizes: dict[str, int] = {"n_kv_heads": config.n_kv_heads}
        if config.head_dim * config.n_heads != config.d_model:
            sizes["head_dim"] = config.head_dim
        self.attention = parts.attention(config.d_model, config.n_heads, **sizes)
        self.attention_norm = parts.norm(config.d_model, eps=config.norm_eps)
        self.cross_attention = parts.attention(config.d_model, config.n_heads, **sizes)
        self.cross_attention_norm = parts.norm(config.d_model, eps=config.norm_eps)
        self.feedforward = parts.feedforward(config.d_model, config.d_ff)
        self.feedforward_norm = parts.norm(config.d_model, eps=config.norm_eps)

    def forward(
        self, x: Tensor, encoded: Tensor, mask: Tensor | None = None, source_mask: Tensor | None = None, **inner
    ) -> Tensor:
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        x = self.cross_attention_norm(x + self.cross_attention(x, source_mask, context=encoded))
        return self.feedforward_norm(x + self.feedforward(x))


class Seq2Seq(nn.Module):
    """An encoder-decoder; with the default parts the one of 2017. Both sides share one vocabulary and its embedding.

    Shape: source (B, S), target (B, T), whole numbers below vocab_size -> logits (B, T, V); logits[:, t] scores the
    token after target[:, t].
    source_mask: (B, S) bool, True where a token is real; padding in the source is hidden from everyone. Padding in
    the target stands on the right, where no real token looks, and its labels are -100 (teacher_forcing).
    config.n_layers: blocks of the encoder, and as many of the decoder. Give d_ff: the paper's is 4 * d_model.
    parts.block makes the encoder's layers, decoder_block(config, parts) the decoder's.
    Both stacks end in a norm, as torch.nn.Transformer's do; the paper has none, since its last layer just normalized.
    Errors: ValueError if the batches differ in size or a mask is not (B, S) bool.
    Source: Vaswani et al. 2017, arXiv:1706.03762.

    >>> model = Seq2Seq(Config(vocab_size=11, d_model=8, n_layers=1, n_heads=2, d_ff=32))
    >>> model(torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])).shape
    torch.Size([1, 2, 11])
    """

    def __init__(
        self,
        config: Config,
        parts: Parts = VASWANI,
        decoder_block: Callable[[Config, Parts], nn.Module] = DecoderBlock,
    ):
        super().__init__()
        self.config, self.parts = config, parts
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.position: Any = parts.position(config)
        self.encoder = nn.ModuleList(parts.block(config, parts) for _ in range(config.n_layers))
        self.encoder_norm = parts.norm(config.d_model, eps=config.norm_eps)
        self.decoder = nn.ModuleList(decoder_block(config, parts) for _ in range(config.n_layers))
        self.decoder_norm = parts.norm(config.d_model, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.apply(self._init_weights)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight

    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.d_model**-0.5)  # Sinusoidal multiplies by sqrt(d_model)
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @property
    def n_parameters(self) -> int:
        """Numbers to learn; tied ones count once."""
        return sum(p.numel() for p in self.parameters())

    def _embed(self, tokens: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """-> (B, T, C), and what the self-attentions need to know about positions"""
        positions = torch.arange(tokens.size(1), device=tokens.device)
        rotate = self.position.rotate
        inner = {} if rotate is None else {"rotate": partial(rotate, positions=positions)}
        return self.position.add(self.embed_tokens(tokens), positions), inner

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """What the source says, once for all target tokens. (B, S) -> (B, S, C)"""
        may_look = _keys(source_mask, source)
        x, inner = self._embed(source)
        for layer in self.encoder:
            x = layer(x, may_look, **inner)
        return self.encoder_norm(x)

    def decode(self, target: Tensor, encoded: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Scores of the token after each target token, given the encoded source. -> (B, T, V)"""
        if len(target) != len(encoded):
            raise ValueError(f"target: {len(target)} rows, expected {len(encoded)}, one for each source; pair them up")
        may_look, causal = _keys(source_mask, encoded), causal_mask(target.size(1), device=target.device)
        x, inner = self._embed(target)
        for layer in self.decoder:
            x = layer(x, encoded, causal, may_look, **inner)
        return self.lm_head(self.decoder_norm(x))

    def forward(self, source: Tensor, target: Tensor, source_mask: Tensor | None = None) -> Tensor:
        return self.decode(target, self.encode(source, source_mask), source_mask)


def _keys(mask: Tensor | None, source: Tensor) -> Tensor | None:
    """(B, S) -> (B, 1, 1, S): the same keys for all heads and queries."""
    if mask is None:
        return None
    if mask.dtype != torch.bool or mask.shape != source.shape[:2]:
        raise ValueError(
            f"source_mask: {mask.dtype} {tuple(mask.shape)}, expected bool {tuple(source.shape[:2])}, True where a "
            f"token is real; try source != pad"
        )
    return mask[:, None, None, :]


def pad_right(sequences: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Line up sequences of different lengths at their beginnings. -> tokens (B, S), mask (B, S), True where real.

    >>> tokens, mask = pad_right([[5, 6, 7], [8]], pad=0)
    >>> tokens.tolist(), mask.int().tolist()
    ([[5, 6, 7], [8, 0, 0]], [[1, 1, 1], [1, 0, 0]])
    """
    rows = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
    return tokens, mask


def teacher_forcing(targets: Sequence[Sequence[int]], *, bos: int, eos: int, pad: int) -> tuple[Tensor, Tensor]:
    """What the decoder reads, and what it shall say at each place: the token after the one it just read.

    targets: sentences of unequal lengths, without bos and eos. -> inputs (B, T), labels (B, T).
    Each row of inputs is bos and the sentence, each of labels the sentence and eos; after that pad, and -100, which
    next_token_loss does not count. pad may be the same as eos.

    >>> inputs, labels = teacher_forcing([[7, 8], [9]], bos=1, eos=2, pad=0)
    >>> inputs.tolist(), labels.tolist()
    ([[1, 7, 8], [1, 9, 0]], [[7, 8, 2], [9, 2, -100]])
    """
    inputs, _ = pad_right([[bos, *target] for target in targets], pad)
    labels, _ = pad_right([[*target, eos] for target in targets], -100)
    return inputs, labels
