"""Key layouts (names of tensors) that AST checkpoints are published in, mapped to one canonical set of weights.

One table says which tensors an AST has and of what shape; each layout is a table of what it calls them. A file must
hold exactly the tensors of its layout: what is missing, unexpected or misshapen is an error that names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from astfast.checkpoints.lazy_tensor import LazyTensor, concatenated, zeros
from astfast.errors import CheckpointError, counted, listed
from astfast.models import vit
from astfast.models.ast.config import PREFIX, AstConfig
from astfast.models.ast.position_embeddings import adapted
from astfast.models.vit import LastLayer, Layer
from astfast.ops import Embed, Head, LayerNorm, Linear, NormLinear

# Canonical module -> shape of its weight; a bias has the first of these dimensions. D hidden, M MLP width, P patch
# size, T tokens, L labels.
PARAMETERS = {**dict.fromkeys(PREFIX, "1 1 D"), "position": "1 T D"}
MODULES = {"projection": "D 1 P P", "norm": "D"}
LAYER_MODULES = {"norm1": "D", "proj": "D D", "norm2": "D", "fc1": "M D", "fc2": "D M"}
SPLIT_QKV = {"q": "D D", "k": "D D", "v": "D D"}
FUSED_QKV = {"qkv": "3D D"}  # rows are [q; k; v]
HEAD_MODULES = {"head.norm": "D", "head.linear": "L D"}


class Layout(NamedTuple):
    """Names of the canonical tensors in one kind of file, and the LayerNorm epsilons that its models were made with."""

    name: str
    encoder: str  # prefix of everything but the head
    layer: str  # of layer {}, after the encoder's prefix
    names: Mapping[str, str]  # canonical parameter or module -> its name in the file
    head: Mapping[str, str]
    layer_norm_eps: float
    head_layer_norm_eps: float
    ignored: re.Pattern[str] | None = None

    @property
    def layer_modules(self) -> dict[str, str]:
        return LAYER_MODULES | (FUSED_QKV if "qkv" in self.names else SPLIT_QKV)


HUGGING_FACE = {
    "cls": "embeddings.cls_token",
    "dist": "embeddings.distillation_token",
    "position": "embeddings.position_embeddings",
    "projection": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}
HUGGING_FACE_HEAD = {"head.norm": "classifier.layernorm", "head.linear": "classifier.dense"}
V4_NAMES = HUGGING_FACE | {
    "q": "attention.attention.query",
    "k": "attention.attention.key",
    "v": "attention.attention.value",
    "proj": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
V5_NAMES = HUGGING_FACE | {
    "q": "attention.q_proj",
    "k": "attention.k_proj",
    "v": "attention.v_proj",
    "proj": "attention.o_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
AUTHORS_NAMES = {
    "cls": "cls_token",
    "dist": "dist_token",
    "position": "pos_embed",
    "projection": "patch_embed.proj",
    "norm": "norm",
    "norm1": "norm1",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
ENCODER = "audio_spectrogram_transformer."
V4 = Layout("transformers v4", ENCODER, "encoder.layer.{}.", V4_NAMES, HUGGING_FACE_HEAD, 1e-12, 1e-12)
LAYOUTS = (
    V4,
    Layout("transformers v4, bare ASTModel", "", "encoder.layer.{}.", V4_NAMES, HUGGING_FACE_HEAD, 1e-12, 1e-12),
    Layout("transformers v5", ENCODER, "layers.{}.", V5_NAMES, HUGGING_FACE_HEAD, 1e-12, 1e-12),
    Layout("transformers v5, bare ASTModel", "", "layers.{}.", V5_NAMES, HUGGING_FACE_HEAD, 1e-12, 1e-12),
    Layout(
        "the authors' .pth",
        encoder="v.",
        layer="blocks.{}.",
        names=AUTHORS_NAMES,
        head={"head.norm": "mlp_head.0", "head.linear": "mlp_head.1"},
        layer_norm_eps=1e-6,
        head_layer_norm_eps=1e-5,
        ignored=re.compile(r"v\.head(_dist)?\.(weight|bias)"),  # 1,000 ImageNet classes
    ),
)
SSAST = ("cpredlayer.", "gpredlayer.", "mask_embed", "p_input_")  # names of self-supervised pre-training


class AstTensors(NamedTuple):
    """The tensors of one checkpoint under their canonical names, exactly the set that its layout has."""

    source: str
    layout: Layout
    num_layers: int
    tensors: Mapping[str, LazyTensor]  # by canonical name: "layers.0.q.weight"
    names: Mapping[str, str]  # canonical name -> name in the file
    shapes: Mapping[str, str]  # canonical name -> shape in symbols

    @property
    def has_head(self) -> bool:
        return "head.linear.weight" in self.tensors

    def sizes(self) -> dict[str, int]:
        """The symbols' values as the tensors have them: D, M, P, T, and L with a head."""
        sources = {"D": PREFIX[0], "T": "position", "P": "projection.weight", "M": "layers.0.fc1.weight"}
        if self.has_head:
            sources["L"] = "head.linear.weight"
        found = {}
        for symbol, canonical in sources.items():
            dimensions = self.shapes[canonical].split()
            shape = self.tensors[canonical].shape
            if len(shape) != len(dimensions) or 0 in shape:
                raise CheckpointError(
                    f"{self.source} (AST, layout: {self.layout.name}): {self.names[canonical]} is {list(shape)}, not "
                    f"{dimensions}. Check that the file is whole."
                )
            found[symbol] = shape[dimensions.index(symbol)]
        return found


def fit(tensors: Iterable[str]) -> bool:
    """Whether most of these names are those of an AST, in one of the layouts."""
    names = set(tensors)
    _, _, expected = _best_layout(names)
    return 2 * sum(name in names for name, _ in expected.values()) > len(names)


def map_tensors(
    tensors: Mapping[str, LazyTensor], source: str, num_layers: int | None = None, qkv_bias: bool | None = None
) -> AstTensors:
    """Tensors of a file under their canonical names, by the layout that most of the names fit.

    ``num_layers`` and ``qkv_bias`` come from a config; None reads them off the names. Raises CheckpointError, naming
    the first few, for tensors that are missing or that the layout doesn't have, and for a file of another model.
    """
    if num_layers is not None and num_layers > len(tensors):
        raise CheckpointError(
            f"{source}: its config says {num_layers} layers, but it has only {len(tensors)} tensors. "
            "Check that the file is whole and its config.json its own."
        )
    names = set(tensors)
    layout, count, expected = _best_layout(names, num_layers, qkv_bias)
    found = [name for name, _ in expected.values() if name in names]
    if not found or not count:
        raise CheckpointError(
            f"{source} is no AST checkpoint: its tensors ({listed(sorted(tensors))}) fit none of the layouts "
            f"{'; '.join(layout.name for layout in LAYOUTS)}."
        )
    if any(name.startswith(SSAST) for name in names):
        raise CheckpointError(
            f"{source} is an SSAST before fine-tuning: it has no classifier, and pools and patches otherwise. astfast "
            "runs AST checkpoints."
        )
    ignored = layout.ignored
    missing = [name for name, _ in expected.values() if name not in names]
    unexpected = sorted(names - set(found))
    unexpected = [name for name in unexpected if not (ignored and ignored.fullmatch(name))]
    for problem, names_of_it in (("lacks", missing), ("has, beside those of an AST,", unexpected)):
        if names_of_it:
            raise CheckpointError(
                f"{source} (AST, layout: {layout.name}, {count} layers) {problem} {counted(names_of_it, 'tensor')}: "
                f"{listed(names_of_it)}. Check that the file is whole and its config.json its own."
            )
    in_file = {canonical: name for canonical, (name, _) in expected.items()}
    by_canonical = {canonical: tensors[name] for canonical, name in in_file.items()}
    shapes = {canonical: shape for canonical, (_, shape) in expected.items()}
    return AstTensors(source, layout, count, by_canonical, in_file, shapes)


def _best_layout(
    names: set[str], num_layers: int | None = None, qkv_bias: bool | None = None
) -> tuple[Layout, int, dict[str, tuple[str, str]]]:
    """The layout that most of the names fit, the number of its layers, and its tensors as ``_expected`` lists them."""

    def candidate(layout: Layout) -> tuple[Layout, int, dict[str, tuple[str, str]]]:
        layer = re.compile(re.escape(layout.encoder + layout.layer).replace(r"\{\}", r"(\d+)"))
        count = len({match[1] for match in map(layer.match, names) if match}) if num_layers is None else num_layers
        head = any(name.startswith(module) for name in names for module in layout.head.values())
        bias = any(_is_qkv_bias(name, layout) for name in names) if qkv_bias is None else qkv_bias
        return layout, count, _expected(layout, count, head, bias)

    return max(map(candidate, LAYOUTS), key=lambda found: sum(name in names for name, _ in found[2].values()))


def _is_qkv_bias(name: str, layout: Layout) -> bool:
    return any(name.endswith(f".{layout.names[m]}.bias") for m in ("q", "k", "v", "qkv") if m in layout.names)


def _expected(layout: Layout, num_layers: int, head: bool, qkv_bias: bool) -> dict[str, tuple[str, str]]:
    """Canonical name -> (name in the file, shape in symbols) of every tensor that the layout has."""
    expected = {name: (layout.encoder + layout.names[name], shape) for name, shape in PARAMETERS.items()}

    def add(canonical: str, in_file: str, shape: str, bias: bool = True) -> None:
        expected[f"{canonical}.weight"] = (f"{in_file}.weight", shape)
        if bias:
            expected[f"{canonical}.bias"] = (f"{in_file}.bias", shape.split(maxsplit=1)[0])

    for module, shape in MODULES.items():
        add(module, layout.encoder + layout.names[module], shape)
    for n in range(num_layers):
        for module, shape in layout.layer_modules.items():
            in_file = layout.encoder + layout.layer.format(n) + layout.names[module]
            add(f"layers.{n}.{module}", in_file, shape, bias=qkv_bias or module not in SPLIT_QKV | FUSED_QKV)
    for module, shape in HEAD_MODULES.items() if head else ():
        add(module, layout.head[module], shape)
    return expected


def canonical_weights(checkpoint: AstTensors, config: AstConfig, file_grid: tuple[int, int]) -> vit.Weights:
    """The weights that the forward pass reads, still in their file.

    Layers' q, k and v are stacked, the last layer's split in q and kv; position embeddings, which the file has for
    ``file_grid``, are adapted to the grid of ``config``. Raises CheckpointError for a tensor that isn't of the shape
    that ``config`` gives it.
    """
    d = config.hidden_size
    _check_shapes(checkpoint, config)

    def norm(name: str, eps: float = config.layer_norm_eps) -> LayerNorm:
        return LayerNorm(checkpoint.tensors[f"{name}.weight"], checkpoint.tensors[f"{name}.bias"], eps)

    def linear(name: str) -> Linear:
        return Linear(checkpoint.tensors[f"{name}.weight"], checkpoint.tensors[f"{name}.bias"])

    def qkv(layer: str, wanted: str) -> Linear:
        """The rows of q, k and v that ``wanted`` lists, without a gap; zeros for a bias that the model has not."""
        fused = f"{layer}.qkv.weight" in checkpoint.tensors
        start = "qkv".index(wanted) * d

        def stacked(parameter: str) -> LazyTensor:
            if fused:
                return checkpoint.tensors[f"{layer}.qkv.{parameter}"].rows(start, start + len(wanted) * d)
            return concatenated([checkpoint.tensors[f"{layer}.{part}.{parameter}"] for part in wanted])

        has_bias = f"{layer}.qkv.bias" in checkpoint.tensors or f"{layer}.q.bias" in checkpoint.tensors
        return Linear(stacked("weight"), stacked("bias") if has_bias else zeros(len(wanted) * d))

    def layer(name: str) -> Layer:
        return Layer(
            qkv=NormLinear(norm(f"{name}.norm1"), qkv(name, "qkv")),
            proj=linear(f"{name}.proj"),
            fc1=NormLinear(norm(f"{name}.norm2"), linear(f"{name}.fc1")),
            fc2=linear(f"{name}.fc2"),
        )

    projection = linear("projection")
    embed = Embed(
        projection=Linear(projection.weight.reshape(d, config.patch_size**2), projection.bias),
        prefix=concatenated([checkpoint.tensors[name].reshape(1, d) for name in PREFIX]),
        position=adapted(checkpoint.tensors["position"], file_grid, config.grid[1]),
        patch_size=config.patch_size,
        frequency_stride=config.frequency_stride,
        time_stride=config.time_stride,
    )
    last = f"layers.{checkpoint.num_layers - 1}"
    whole = layer(last)
    last_layer = LastLayer(
        rows=len(PREFIX),
        q=NormLinear(whole.qkv.norm, qkv(last, "q")),
        kv=NormLinear(whole.qkv.norm, qkv(last, "kv")),
        proj=whole.proj,
        fc1=whole.fc1,
        fc2=whole.fc2,
    )
    layers = tuple(layer(f"layers.{n}") for n in range(checkpoint.num_layers - 1))
    head = Head(norm("head.norm", config.head_layer_norm_eps), linear("head.linear")) if checkpoint.has_head else None
    return vit.Weights(embed, layers, last_layer, norm("norm"), head)


def _check_shapes(checkpoint: AstTensors, config: AstConfig) -> None:
    sizes = checkpoint.sizes() | {"D": config.hidden_size, "M": config.intermediate_size, "P": config.patch_size}
    sizes |= {"1": 1, "3D": 3 * config.hidden_size}
    wrong = []
    for canonical, tensor in checkpoint.tensors.items():
        expected = tuple(sizes[symbol] for symbol in checkpoint.shapes[canonical].split())
        if tensor.shape != expected:
            wrong.append(f"{checkpoint.names[canonical]} is {list(tensor.shape)}, not {list(expected)}")
    if wrong:
        raise CheckpointError(
            f"{checkpoint.source} (AST, layout: {checkpoint.layout.name}) has {counted(wrong, 'tensor')} of another "
            f"shape than its geometry gives them: {listed(wrong)}. Check that the file is whole and its "
            "config.json its own."
        )
