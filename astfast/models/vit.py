"""Forward pass of a Vision Transformer: patches, pre-LN layers, pooling and classifier, of AST, CED, PaSST and MAEST.

Shapes: B clips, T tokens (P prefix tokens such as cls and dist, then F x T' patches), D hidden, M MLP width, L labels.
A spectrogram may be shorter than the model's: it has fewer patches, of the first positions along time. A model that
reads its logits off the prefix tokens has a ``LastLayer``, which computes only their rows; one that averages all tokens
(P = 0) has none: all of its layers are whole. What an Ops backend makes of a leaf of the weights is its own business:
these functions only hand the packed leaf back to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from astfast.models.token_merging import counts
from astfast.models.vit_config import VitConfig
from astfast.ops import Embed, Head, LayerNorm, Linear, NormLinear, Ops


@dataclass(frozen=True)
class Layer:
    """One pre-LN transformer layer. ``qkv`` rows are [q; k; v]."""

    qkv: NormLinear  # D -> 3D
    proj: Linear  # D -> D
    fc1: NormLinear  # D -> M
    fc2: Linear  # M -> D


@dataclass(frozen=True)
class LastLayer:
    """The last layer of which only the first P rows are read, so queries have a matrix of their own."""

    rows: int  # P, at least 1
    q: NormLinear  # D -> D
    kv: NormLinear  # D -> 2D
    proj: Linear
    fc1: NormLinear
    fc2: Linear


@dataclass(frozen=True)
class Weights:
    """Weights that the forward pass reads; leaves are arrays as read, or a backend's packed form of them."""

    embed: Embed
    layers: tuple[Layer, ...]
    last: LastLayer | None  # None for a model without prefix tokens
    norm: LayerNorm  # the final LN
    head: Head | None  # None for a checkpoint without a classifier
    token_merging: float = 0.0  # share of the patches that layers are spared, see token_merging.py


def forward(ops: Ops, w: Weights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
    """Normalised log-mel spectrogram [B, frames, mels] -> logits [B, L], float32."""
    return ops.head(embed(ops, w, spectrogram, ws), w.head, ws["logits"])


def embed(ops: Ops, w: Weights, spectrogram: Any, ws: Mapping[str, Any]) -> Any:
    """Normalised log-mel spectrogram [B, frames, mels] -> mean after the final LN [B, D], float32: of the prefix
    tokens, or of all tokens if there are none."""
    x = ops.patch_embed(spectrogram, w.embed, ws["tokens"])  # [B, T, D]
    if w.token_merging:
        states, sizes = encode_merging(ops, w.layers, w.last, x, ws, w.token_merging)
        return ops.pool(states, w.norm, ws["embedding"], sizes)
    return ops.pool(encode(ops, w.layers, w.last, x, ws), w.norm, ws["embedding"])


def pack(ops: Ops, w: Weights) -> Weights:
    """The same weights with every leaf in the backend's own layout; leaves are read one at a time."""
    layers = tuple(pack_layer(ops, layer) for layer in w.layers)
    last = None if w.last is None else pack_last_layer(ops, w.last)
    head = None if w.head is None else ops.pack_head(w.head)
    return replace(w, embed=ops.pack_embed(w.embed), layers=layers, last=last, norm=ops.pack_norm(w.norm), head=head)


def pack_layer(ops: Ops, w: Layer) -> Layer:
    """The layer with every leaf in the backend's own layout; leaves are read one at a time."""
    return Layer(
        qkv=ops.pack_norm_linear(w.qkv, value_columns=w.proj.weight.shape[1]),
        proj=ops.pack_linear(w.proj, input_layer=w.qkv),
        fc1=ops.pack_norm_linear(w.fc1),
        fc2=ops.pack_linear(w.fc2, input_layer=w.fc1),
    )


def pack_last_layer(ops: Ops, w: LastLayer) -> LastLayer:
    """As ``pack_layer``."""
    return LastLayer(
        rows=w.rows,
        q=ops.pack_norm_linear(w.q),
        kv=ops.pack_norm_linear(w.kv, value_columns=w.proj.weight.shape[1]),
        proj=ops.pack_linear(w.proj, input_layer=w.kv),
        fc1=ops.pack_norm_linear(w.fc1),
        fc2=ops.pack_linear(w.fc2, input_layer=w.fc1),
    )


def encode(ops: Ops, layers: Sequence[Layer], last: LastLayer | None, x: Any, ws: Mapping[str, Any]) -> Any:
    """Tokens [B, T, D] -> the states to be pooled: [B, P, D] with a ``LastLayer``, [B, T, D] without."""
    for layer in layers:
        x = transformer_layer(ops, layer, x, ws)
    return x if last is None else last_layer(ops, last, x, ws)


def transformer_layer(ops: Ops, w: Layer, x: Any, ws: Mapping[str, Any]) -> Any:
    """[B, T, D] -> [B, T, D]: x += proj(attention(LN x)); x += fc2(gelu(fc1(LN x)))."""
    d = x.shape[-1]
    qkv = ops.norm_linear(x, w.qkv, ws["qkv"])  # [B, T, 3D]
    context = ops.attention(qkv[..., :d], qkv[..., d:], ws["context"])  # [B, T, D]
    x = ops.linear_residual(context, w.proj, x)
    return ops.linear_residual(ops.norm_linear(x, w.fc1, ws["hidden"], activation="gelu"), w.fc2, x)


def encode_merging(
    ops: Ops, layers: Sequence[Layer], last: LastLayer | None, x: Any, ws: Mapping[str, Any], fraction: float
) -> tuple[Any, Any]:
    """As ``encode``, but that each of ``layers`` merges similar tokens between attention and MLP, as in Bolya et al.
    2022 (https://arxiv.org/abs/2210.09461). Returns the sizes of the states too, if they are to be pooled by them."""
    d, prefix, sizes = x.shape[-1], 0 if last is None else last.rows, None
    for w, count in zip(layers, counts(fraction, x.shape[1] - prefix, len(layers)), strict=True):
        tokens = x.shape[1]
        qkv = ops.norm_linear(x, w.qkv, _first(ws["qkv"], tokens))  # [B, T, 3D]
        context = ops.attention(qkv[..., :d], qkv[..., d:], _first(ws["context"], tokens), sizes)
        x = ops.linear_residual(context, w.proj, x)
        if count:
            x, sizes = ops.merge_tokens(x, qkv[..., d : 2 * d], sizes, count, prefix)
        hidden = ops.norm_linear(x, w.fc1, _first(ws["hidden"], x.shape[1]), activation="gelu")
        x = ops.linear_residual(hidden, w.fc2, x)
    if last is None:
        return x, sizes
    return last_layer(ops, last, x, {**ws, "last_kv": _first(ws["last_kv"], x.shape[1])}, sizes), None


def _first(buffer: Any, tokens: int) -> Any:
    """A buffer [B, T, D] as one of fewer tokens, without gaps; None where the backend makes its own."""
    if buffer is None:
        return None
    clips, _, width = buffer.shape
    return buffer.reshape(-1, width)[: clips * tokens].reshape(clips, tokens, width)  # a view where rows have gaps, too


def last_layer(ops: Ops, w: LastLayer, x: Any, ws: Mapping[str, Any], sizes: Any = None) -> Any:
    """[B, T, D] -> [B, P, D], exactly the first P rows of ``transformer_layer``: keys and values cover all tokens,
    queries, projection and MLP only the rows that are read (for AST 7.2% of all operations saved at 1,214 tokens)."""
    rows = x[:, : w.rows]  # [B, P, D]
    q = ops.norm_linear(rows, w.q, ws["last_q"])  # [B, P, D]
    kv = ops.norm_linear(x, w.kv, ws["last_kv"])  # [B, T, 2D]
    rows = ops.linear_residual(ops.attention(q, kv, ws["last_context"], sizes), w.proj, rows)
    return ops.linear_residual(ops.norm_linear(rows, w.fc1, ws["last_hidden"], activation="gelu"), w.fc2, rows)


def workspace(config: VitConfig) -> dict[str, tuple[tuple[int, ...], str]]:
    """Every buffer of the forward pass, see ``Family.workspace``."""
    return {
        "spectrogram": ((config.max_length, config.num_mel_bins), "output"),
        **encoder_workspace(config.num_tokens, config.hidden_size, config.intermediate_size, config.prefix_tokens),
        "embedding": ((config.hidden_size,), "output"),
        "logits": ((config.num_labels,), "output"),
    }


def shared(config: VitConfig) -> tuple[tuple[str, ...], ...]:
    """See ``Family.shared``: attention is over before the MLP begins."""
    return (("hidden",), ("qkv", "context"), *((("last_kv",),) if config.prefix_tokens else ()))


def encoder_workspace(tokens: int, hidden: int, mlp: int, prefix: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Buffers of ``encode`` and of its tokens; ``prefix`` is P, 0 without a ``LastLayer``."""
    buffers: dict[str, tuple[tuple[int, ...], str]] = {
        "tokens": ((tokens, hidden), "stream"),
        "qkv": ((tokens, 3 * hidden), "activation"),
        "context": ((tokens, hidden), "operand"),
        "hidden": ((tokens, mlp), "operand"),
    }
    if prefix:
        buffers |= {
            "last_q": ((prefix, hidden), "activation"),
            "last_kv": ((tokens, 2 * hidden), "activation"),
            "last_context": ((prefix, hidden), "operand"),
            "last_hidden": ((prefix, mlp), "operand"),
        }
    return buffers
