"""Key layouts (names of tensors) that DASS checkpoints are published in, mapped to one canonical set of weights.

The authors' image is [mel bins, frames], the transpose of astfast's: kernels of convolutions are transposed, and the
scans row by row and column by column change places. A file must hold exactly the tensors of its layout: what is
missing, unexpected or misshapen is an error that names it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from astfast.checkpoints.lazy_tensor import LazyTensor, zeros
from astfast.errors import CheckpointError, counted, listed
from astfast.models.dass.config import DassConfig
from astfast.models.dass.forward import Block, DassWeights, Stage
from astfast.ops import ConvNorm, Depthwise, LayerNorm, Linear, NormLinear, Scan

EPS = 1e-5  # of every LayerNorm
STATE = 2  # columns of a direction's projection beside those of its step: b and c
DIRECTIONS = (1, 0, 3, 2)  # of the authors' scans, in the order of ``ops.Scan``


@dataclass(frozen=True)
class Layout:
    """Names of the tensors in one kind of file that another kind has under other names."""

    name: str
    encoder: str  # prefix of everything but the head
    stem: tuple[str, str, str, str]  # of two convolutions, each with its LayerNorm
    down: tuple[str, str]  # of a convolution between stages and its LayerNorm
    x_proj: str
    dt_proj: str
    norm: str
    head: str


_HUB = {
    "stem": tuple(f"patch_embeddings.projection.{i}" for i in (0, 1, 3, 4)),
    "down": ("downsample.down", "downsample.norm"),
    "x_proj": "op.x_proj.weight",
    "dt_proj": "op.dt_projs.weight",
    "norm": "norm",
    "head": "head",
}
LAYOUTS = (
    Layout(
        "the DASS authors' .pth",
        encoder="v.",
        stem=("patch_embed.0", "patch_embed.2", "patch_embed.5", "patch_embed.7"),
        down=("downsample.1", "downsample.3"),
        x_proj="op.x_proj_weight",
        dt_proj="op.dt_projs_weight",
        norm="classifier.norm",
        head="v.classifier.head",
    ),
    Layout("DASS on the hub", "dass.", **_HUB),  # type: ignore[arg-type]
    Layout("DASS on the hub, bare DASSModel", "", **_HUB),  # type: ignore[arg-type]
)
HUB = LAYOUTS[1]


@dataclass(frozen=True)
class DassTensors:
    """The tensors of one checkpoint, exactly the set that its layout has, by canonical name."""

    source: str
    layout: Layout
    depths: tuple[int, ...]
    tensors: Mapping[str, LazyTensor]  # by canonical name: "0.1.fc1.weight" of stage 0's block 1
    names: Mapping[str, str]  # canonical name -> name in the file

    @property
    def has_head(self) -> bool:
        return "head.weight" in self.tensors

    def size(self, canonical: str, axis: int = 0) -> int:
        """The first or last size of a tensor. Raises CheckpointError for a tensor without dimensions or values."""
        shape = self.tensors[canonical].shape
        if not shape or 0 in shape:
            raise CheckpointError(
                f"{self.source} (DASS, layout: {self.layout.name}): {self.names[canonical]} has the shape "
                f"{list(shape)}. Check that the file is whole."
            )
        return shape[axis]

    def agreed(self, *places: tuple[str, int]) -> int:
        """The size that most of these tensors have along these dimensions, of two the first one's."""
        shapes = [(self.tensors[canonical].shape, axis) for canonical, axis in places]
        sizes = Counter(shape[axis] for shape, axis in shapes if axis < len(shape) and 0 not in shape)
        return sizes.most_common(1)[0][0] if sizes else self.size(*places[0])

    def rank(self, stage: int) -> int:
        """Rank of the steps of a stage's scans: what two of its projections and a sixteenth of the channels say."""
        projected = self.tensors[f"{stage}.0.op.x_proj"].shape
        channels = self.size(f"{stage}.norm.weight")
        said = [self.size(f"{stage}.0.op.dt_proj", -1), prod(projected[:-1]) // 4 - STATE, -(-channels // 16)]
        return Counter(said).most_common(1)[0][0]


def fit(tensors: Iterable[str]) -> bool:
    """Whether most of these names are those of a DASS, in one of the layouts."""
    names = set(tensors)
    layout = _best_layout(names)
    return 2 * sum(name in names for name in _names(layout, _depths(names, layout), True).values()) > len(names)


def map_tensors(tensors: Mapping[str, LazyTensor], source: str, depths: Sequence[int] | None = None) -> DassTensors:
    """Tensors of a file under their canonical names, by the layout that most of the names fit.

    ``depths`` come from a config; None reads them off the names. Raises CheckpointError, naming the first few, for
    tensors that are missing or that the layout doesn't have.
    """
    names = set(tensors)
    layout = _best_layout(names)
    found = tuple(depths) if depths is not None else _depths(names, layout)
    if sum(found) > len(names):
        raise CheckpointError(
            f"{source} (DASS): its config says depths {list(found)}, but it has only {len(names)} tensors. Check that "
            "the file is whole and its config.json its own."
        )
    expected = _names(layout, found, any(name.startswith(f"{layout.head}.") for name in names))
    missing = [name for name in expected.values() if name not in names]
    unexpected = sorted(names - set(expected.values()))
    for problem, names_of_it in (("lacks", missing), ("has, beside those of a DASS,", unexpected)):
        if names_of_it:
            raise CheckpointError(
                f"{source} (DASS, layout: {layout.name}, depths {'-'.join(map(str, found))}) {problem} "
                f"{counted(names_of_it, 'tensor')}: {listed(names_of_it)}. Check that the file is whole and its "
                "config.json its own."
            )
    return DassTensors(source, layout, found, {c: tensors[name] for c, name in expected.items()}, expected)


def _best_layout(names: set[str]) -> Layout:
    return max(LAYOUTS, key=lambda layout: len(names & set(_names(layout, _depths(names, layout), True).values())))


def _depths(names: set[str], layout: Layout) -> tuple[int, ...]:
    """Number of blocks of each stage, from the highest indices in the names; at least one stage of one block.

    A block has 14 tensors: indices that would make more than a block for four names are no DASS's.
    """
    block = re.compile(re.escape(layout.encoder) + r"layers\.(\d{1,3})\.blocks\.(\d{1,3})\.")
    found = {(int(match[1]), int(match[2])) for match in map(block.match, names) if match} or {(0, 0)}
    stages = 1 + max(stage for stage, _ in found)
    depths = [1] * stages
    for stage, index in found:
        depths[stage] = max(depths[stage], 1 + index)
    return tuple(depths) if 4 * sum(depths) <= max(len(names), 4) else (1,)


def _names(layout: Layout, depths: Sequence[int], head: bool) -> dict[str, str]:
    """Canonical name -> name in the file of every tensor that the layout has."""
    names: dict[str, str] = {}

    def add(canonical: str, in_file: str, *parameters: str) -> None:
        names.update({f"{canonical}.{p}": f"{in_file}.{p}" for p in parameters or ("weight", "bias")})

    conv0, norm0, conv1, norm1 = (layout.encoder + name for name in layout.stem)
    add("stem.conv", conv0)
    add("stem.norm", norm0)
    for i, depth in enumerate(depths):
        before = f"{layout.encoder}layers.{i - 1}."
        add(f"{i}.conv", conv1 if i == 0 else before + layout.down[0])
        add(f"{i}.norm", norm1 if i == 0 else before + layout.down[1])
        for j in range(depth):
            block, canonical = f"{layout.encoder}layers.{i}.blocks.{j}.", f"{i}.{j}."
            for module in ("norm", "op.out_norm", "norm2", "mlp.fc1", "mlp.fc2"):
                add(canonical + module, block + module)
            for module in ("op.in_proj", "op.conv2d", "op.out_proj"):
                add(canonical + module, block + module, "weight")
            parts = {"op.x_proj": layout.x_proj, "op.dt_proj": layout.dt_proj}
            parts |= {name: name for name in ("op.dt_projs_bias", "op.A_logs", "op.Ds")}
            names.update({canonical + part: block + name for part, name in parts.items()})
    add("norm", layout.encoder + layout.norm)
    if head:
        add("head", layout.head)
    return names


def canonical_weights(checkpoint: DassTensors, config: DassConfig) -> DassWeights:
    """The weights that the forward pass reads, still in their file.

    Raises CheckpointError, naming the first few, for tensors that aren't of the shape that ``config`` gives them.
    """
    wrong: list[str] = []

    def tensor(canonical: str, *shapes: tuple[int, ...]) -> LazyTensor:
        """The tensor, which must have one of these shapes, in the first of them."""
        found = checkpoint.tensors[canonical]
        if found.shape not in shapes:
            expected = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
            wrong.append(f"{checkpoint.names[canonical]} is {list(found.shape)}, not {expected}")
            return zeros(*shapes[0])
        return found.reshape(*shapes[0])

    def norm(canonical: str, width: int) -> LayerNorm:
        return LayerNorm(tensor(f"{canonical}.weight", (width,)), tensor(f"{canonical}.bias", (width,)), EPS)

    def linear(canonical: str, n: int, k: int, bias: bool = True) -> Linear:
        weight = tensor(f"{canonical}.weight", (n, k), (n, k, 1, 1))  # a convolution of 1 x 1 in some files
        return Linear(weight, tensor(f"{canonical}.bias", (n,)) if bias else zeros(n))

    def conv_norm(canonical: str, n: int, k: int) -> ConvNorm:
        conv = f"{canonical}.conv"
        kernel = tensor(f"{conv}.weight", (n, k, 3, 3))
        weight = _mapped(kernel, (n, 9 * k), lambda x: x.transpose(0, 3, 2, 1).reshape(n, 9 * k))
        return ConvNorm(Linear(weight, tensor(f"{conv}.bias", (n,))), norm(f"{canonical}.norm", n))

    def by_direction(canonical: str, *shapes: tuple[int, ...]) -> LazyTensor:
        """A tensor whose first dimension is the four directions, in the order of ``ops.Scan``."""
        found = tensor(canonical, *shapes)
        return _mapped(found, found.shape, lambda x: x[list(DIRECTIONS)])

    def block(name: str, c: int, rank: int, mlp: int) -> Block:
        projected = rank + STATE
        kernel = tensor(f"{name}.op.conv2d.weight", (c, 1, 3, 3))
        x_proj = by_direction(f"{name}.op.x_proj", (4, projected, c), (4 * projected, c))
        return Block(
            in_proj=NormLinear(norm(f"{name}.norm", c), linear(f"{name}.op.in_proj", c, c, bias=False)),
            conv=Depthwise(_mapped(kernel, (c, 9), lambda x: x.transpose(0, 1, 3, 2).reshape(c, 9))),
            x_proj=Linear(x_proj.reshape(4 * projected, c), zeros(4 * projected)),
            scan=Scan(
                by_direction(f"{name}.op.dt_proj", (4, c, rank), (4 * c, rank)),
                by_direction(f"{name}.op.dt_projs_bias", (4, c)),
                by_direction(f"{name}.op.A_logs", (4, c), (4 * c, 1)),
                by_direction(f"{name}.op.Ds", (4, c), (4 * c,)),
            ),
            out_proj=NormLinear(norm(f"{name}.op.out_norm", c), linear(f"{name}.op.out_proj", c, c, bias=False)),
            fc1=NormLinear(norm(f"{name}.norm2", c), linear(f"{name}.mlp.fc1", mlp, c)),
            fc2=linear(f"{name}.mlp.fc2", c, mlp),
        )

    widths = (config.stem_dim, *config.dims)
    stages = tuple(
        Stage(
            conv_norm(f"{i}", config.dims[i], widths[i]),
            tuple(
                block(f"{i}.{j}", config.dims[i], config.ranks[i], config.mlp_dims[i]) for j in range(config.depths[i])
            ),
        )
        for i in range(len(config.depths))
    )
    head = linear("head", config.num_labels, config.dims[-1]) if checkpoint.has_head else None
    weights = DassWeights(conv_norm("stem", config.stem_dim, 1), stages, norm("norm", config.dims[-1]), head)
    if wrong:
        raise CheckpointError(
            f"{checkpoint.source} (DASS, layout: {checkpoint.layout.name}) has {counted(wrong, 'tensor')} of another "
            f"shape than its sizes give them: {listed(wrong)}. Check that the file is whole and its "
            "config.json its own."
        )
    return weights


def _mapped(tensor: LazyTensor, shape: Sequence[int], function: Any) -> LazyTensor:
    """A tensor of this shape whose values are a function of another's, when they are read."""
    return LazyTensor(shape, lambda: np.ascontiguousarray(function(np.asarray(tensor))))
