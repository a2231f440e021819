"""Names of tensors in checkpoints of timm's Vision Transformers with positions along time and along frequency apart.

CED, PaSST and MAEST are published so, each with a few names of its own. A file must hold exactly the tensors of its
layout: what is missing, unexpected or misshapen is an error that names it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from astfast.checkpoints.lazy_tensor import Float32, LazyTensor, concatenated
from astfast.checkpoints.sources import CheckpointFiles
from astfast.errors import CheckpointError, counted, listed
from astfast.models import assumed
from astfast.models.base import LabelNames
from astfast.models.vit import LastLayer, Layer, Weights
from astfast.ops import Embed, Head, LayerNorm, Linear, NormLinear

# Module -> shape of its weight; a bias has the first of these dimensions. D hidden, M MLP width, P patch size.
MODULES = {"patch_embed.proj": "D 1 P P", "norm": "D"}
BLOCK = {"norm1": "D", "attn.qkv": "3D D", "attn.proj": "D D", "norm2": "D", "mlp.fc1": "M D", "mlp.fc2": "D M"}
LAYER = re.compile(r"blocks\.(\d+)\.")
LAYER_NORM_EPS = 1e-6  # of the blocks and of the final norm
HEAD_LAYER_NORM_EPS = 1e-5
HEAD_DIM = 64  # of every published size


class TimmLayout(NamedTuple):
    """One family's names, and the shapes of its own tensors in symbols: T, F positions, L labels, C mel bins."""

    family: str
    name: str
    prefix: str  # of all tensors but the head's
    parameters: Mapping[str, str]  # name -> shape: positions, prefix tokens, statistics
    prefix_tokens: tuple[str, ...]  # of the parameters
    prefix_positions: str | None
    positions: tuple[str, str]  # along time (1, D, 1, T), along frequency (1, D, F, 1)
    head: tuple[str, str]  # LayerNorm and linear layer
    ignored: re.Pattern[str]

    def in_file(self, name: str) -> str:
        """A tensor's name as the file has it."""
        return name if name.startswith(self.head) else self.prefix + name


class TimmTensors(NamedTuple):
    """The tensors of one checkpoint by their names without prefixes, and the values of the symbols of their shapes."""

    layout: TimmLayout
    tensors: Mapping[str, LazyTensor]
    num_layers: int
    sizes: Mapping[str, int]

    @property
    def has_head(self) -> bool:
        return f"{self.layout.head[1]}.weight" in self.tensors


def fits(tensors: Iterable[str], layout: TimmLayout) -> bool:
    """Whether there are names that only this kind of layout has: its positions."""
    names = set(tensors)
    return any(layout.prefix + name in names for name in layout.positions)


def map_tensors(tensors: Mapping[str, LazyTensor], source: str, layout: TimmLayout) -> TimmTensors:
    """Tensors of a file, checked against a layout.

    Raises CheckpointError, naming the family and the first few tensors, for what is missing, unexpected or misshapen.
    """
    where = f"{source} (layout: {layout.name})"
    there = [name for name in tensors if not layout.ignored.fullmatch(name)]
    layers = {int(match[1]) for match in (LAYER.match(name.removeprefix(layout.prefix)) for name in there) if match}
    head = any(name.startswith(f"{module}.") for name in there for module in layout.head)
    expected = _expected(layout, len(layers), head)
    in_file = {layout.in_file(name): name for name in expected}
    missing = [name for name in in_file if name not in tensors]
    unexpected = [name for name in there if name not in in_file]
    for problem, names in (("lacks", missing), (f"has, beside those of {layout.family},", unexpected)):
        if names:
            raise CheckpointError(
                f"{where} {problem} {counted(names, 'tensor')}: {listed(names)}. Check that it is whole."
            )
    named = {name: tensors[as_written] for as_written, name in in_file.items()}
    old = named["patch_embed.proj.weight"]
    if len(old.shape) == 2 and round(old.shape[1] ** 0.5) ** 2 == old.shape[1]:  # saved as a linear layer
        side = round(old.shape[1] ** 0.5)
        named["patch_embed.proj.weight"] = old.reshape(old.shape[0], 1, side, side)
    sizes = _sizes(named, expected, where)
    if not layers:
        raise CheckpointError(f"{where} has no layers. Check that it is whole.")
    return TimmTensors(layout, named, len(layers), sizes)


def _expected(layout: TimmLayout, num_layers: int, head: bool) -> dict[str, str]:
    """Name -> shape in symbols of every tensor that the layout has."""
    modules = dict(MODULES)
    for n in range(num_layers):
        modules |= {f"blocks.{n}.{module}": shape for module, shape in BLOCK.items()}
    if head:
        modules |= dict(zip(layout.head, ("D", "L D"), strict=True))
    expected = dict(layout.parameters)
    for module, shape in modules.items():
        expected[f"{module}.weight"] = shape
        expected[f"{module}.bias"] = shape.split()[0]
    return expected


def _sizes(tensors: Mapping[str, LazyTensor], expected: Mapping[str, str], where: str) -> dict[str, int]:
    """The symbols' values: what most of the tensors that have a symbol say (of two the first), and all must agree."""
    votes: dict[str, Counter[int]] = {}
    for name, shape in expected.items():
        for symbol, size in zip(shape.split(), tensors[name].shape, strict=False):
            if size:
                votes.setdefault(symbol, Counter())[size] += 1
    sizes = {symbol: of_symbol.most_common(1)[0][0] for symbol, of_symbol in votes.items()}
    sizes |= {"1": 1, "2": 2, "3D": 3 * sizes["D"]}
    wrong = []
    for name, shape in expected.items():
        found = tensors[name].shape
        wanted = [sizes.get(symbol, symbol) for symbol in shape.split()]
        if list(found) != wanted:
            wrong.append(f"{name} is {list(found)}, not {wanted}")
    if wrong:
        raise CheckpointError(
            f"{where} has {counted(wrong, 'tensor')} of another shape than the others give them: {listed(wrong)}. "
            "Check that it is whole."
        )
    return sizes


def weights(found: TimmTensors, frequency_stride: int, time_stride: int) -> Weights:
    """The weights that the forward pass reads, still in their file; positions along time and frequency are added up."""
    layout, tensors, d = found.layout, found.tensors, found.sizes["D"]
    prefix = len(layout.prefix_tokens)

    def norm(name: str, eps: float = LAYER_NORM_EPS) -> LayerNorm:
        return LayerNorm(tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps)

    def linear(name: str) -> Linear:
        return Linear(tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def qkv(block: str, start: int, stop: int) -> NormLinear:
        """Rows start d to stop d of [q; k; v]."""
        whole = linear(f"{block}.attn.qkv")
        rows = Linear(whole.weight.rows(start * d, stop * d), whole.bias.rows(start * d, stop * d))
        return NormLinear(norm(f"{block}.norm1"), rows)

    def layer(block: str) -> Layer:
        fc1 = NormLinear(norm(f"{block}.norm2"), linear(f"{block}.mlp.fc1"))
        return Layer(qkv(block, 0, 3), linear(f"{block}.attn.proj"), fc1, linear(f"{block}.mlp.fc2"))

    layers = tuple(layer(f"blocks.{n}") for n in range(found.num_layers))
    last = None
    if prefix:
        block, whole = f"blocks.{found.num_layers - 1}", layers[-1]
        last = LastLayer(prefix, qkv(block, 0, 1), qkv(block, 1, 3), whole.proj, whole.fc1, whole.fc2)
        layers = layers[:-1]
    patch = found.sizes["P"]
    projection = Linear(tensors["patch_embed.proj.weight"].reshape(d, patch * patch), tensors["patch_embed.proj.bias"])
    tokens = [tensors[name].reshape(1, d) for name in layout.prefix_tokens]
    embed = Embed(
        projection=projection,
        prefix=concatenated(tokens) if tokens else LazyTensor((0, d), lambda: np.zeros((0, d), np.float32)),
        position=_positions(found),
        patch_size=patch,
        frequency_stride=frequency_stride,
        time_stride=time_stride,
    )
    head_norm, head_linear = layout.head
    head = Head(norm(head_norm, HEAD_LAYER_NORM_EPS), linear(head_linear)) if found.has_head else None
    return Weights(embed, layers, last, norm("norm"), head)


def _positions(found: TimmTensors) -> LazyTensor:
    """[P + F * T, D]: those of the prefix tokens, then time (1, D, 1, T) + frequency (1, D, F, 1), frequency first."""
    layout, d = found.layout, found.sizes["D"]
    time, frequency = (found.tensors[name] for name in layout.positions)
    patches = found.sizes["F"] * found.sizes["T"]

    def read() -> Float32:
        grid = np.asarray(frequency) + np.asarray(time)  # [1, D, F, T]
        return np.ascontiguousarray(grid.reshape(d, patches).T)

    of_patches = LazyTensor((patches, d), read)
    if layout.prefix_positions is None:
        return of_patches
    return concatenated([found.tensors[layout.prefix_positions].reshape(len(layout.prefix_tokens), d), of_patches])


def max_length(given: int | None, usual: int, found: TimmTensors, stride: int, source: str) -> int:
    """Frames of the longest input: as given, else the usual number. Raises CheckpointError for more than make as many
    patches as there are positions."""
    longest = found.sizes["T"] * stride + found.sizes["P"] - 1
    if given is not None and given > longest:
        raise CheckpointError(
            f"{source} ({found.layout.family}) has positions for {longest} frames and not for {given}: pass a "
            "max_length= up to that."
        )
    return usual if given is None else given


def num_heads(hidden: int, source: str) -> int:
    """Attention heads of a model of this width, which no tensor tells: of 64 each, as in all published ones."""
    if hidden % HEAD_DIM:
        raise CheckpointError(f"{source}: hidden size {hidden} makes no whole heads of {HEAD_DIM}.")
    return hidden // HEAD_DIM


def problem_type(
    found: TimmTensors, files: CheckpointFiles, given: Mapping[str, Any], published: Collection[int], notes: list[str]
) -> str:
    """As given, else that of every published model of the family: labels that may apply together, whose scores are
    sigmoids. Of a file without config.json and of other numbers of labels than ``published``, that is said in
    ``notes``."""
    if given.get("problem_type") is not None:
        return str(given["problem_type"])
    several = "multi_label_classification"
    if files.config is None and found.has_head and found.sizes["L"] not in published:
        notes += assumed.note(files.source, [f"problem_type={several} (sigmoid scores)"])
    return several


def label_names(found: TimmTensors, files: CheckpointFiles, given: LabelNames, notes: list[str]) -> tuple[str, ...]:
    """Names of the outputs: given, of config.json if it has any, of the packaged table of that many, or numbered.

    A packaged table is said in ``notes``.
    """
    taken: list[str] = []
    named = files.config if any((files.config or {}).get(name) for name in ("id2label", "label2id")) else None
    try:
        names = assumed.label_names(found.sizes.get("L"), named, given, taken)
    except CheckpointError as error:
        raise CheckpointError(f"{files.source} ({found.layout.family}): {error}") from None
    notes += assumed.note(files.source, taken)
    return names
