"""The GPU backend: weights folded and packed, then one kernel launch an op. Thin: the work is in ``astfast.kernels``.

Nothing here needs a GPU but the default launcher: given the interpreter, an emulator or a recorder in its place, the
same code runs on CPU or "meta" tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from astfast.backends import folding
from astfast.backends.base import Embed, Head, LayerNorm, Linear, NormLinear
from astfast.errors import BackendError
from astfast.front_end import LOG_FLOOR, FrontEnd, mel_filters
from astfast.kernels import attention, head, launch, linear, log_mel, patch_embed, tuning

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
STREAM_SCALE = {"float32": 1.0, "float16": 2.0**-5, "bfloat16": 1.0}  # keeps massive activations below 65,504
OLDEST = (8, 0)  # compute capability
TOKENS_AT_ONCE = 40_000  # 32 clips of AST-base: enough tiles to fill any GPU


@dataclass(frozen=True)
class Target:
    """What the tiles are chosen for: a compute capability (or AMD architecture) and its number of multiprocessors."""

    arch: tuning.Arch
    multiprocessors: int
    name: str


@dataclass(frozen=True)
class Stream:
    """The residual stream and the sums of squares of every 64 columns of it, which its next reader turns into rstd."""

    x: torch.Tensor  # [B, T, D]
    sumsq: torch.Tensor  # [B, T, ceil(D / 64)] float32

    @property
    def shape(self) -> torch.Size:
        return self.x.shape

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Stream:
        return Stream(self.x[index], self.sumsq[index])


@dataclass(frozen=True)
class PackedLinear:
    """A folded weight [N, K] in the compute type and its bias [N] in float32; eps of the norm in front, if any."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float = 0.0


@dataclass(frozen=True)
class PackedEmbed:
    """Folded patch projection [D, p * p] and the table [T, D] of all that is added to it."""

    weight: torch.Tensor
    table: torch.Tensor
    geometry: Embed  # patch size and strides are read from it


@dataclass(frozen=True)
class PackedFrontEnd:
    """The constant matrices of the log-mel front end, float32."""

    spectral: torch.Tensor  # [frame_length, fft_length]
    mel: torch.Tensor  # [fft_length / 2, mels rounded up to a power of two]


class CudaOps:
    """The Ops protocol on one GPU. Raises BackendError for a precision that the GPU backend doesn't have."""

    name = "cuda"

    def __init__(
        self,
        heads: int,
        precision: str = "bfloat16",
        device: str | list[str] = "cuda",
        *,
        launcher: launch.Launcher = launch.run,
        target: Target | None = None,
        tiles: tuning.Tiles | None = None,
    ) -> None:
        if precision not in DTYPES:
            raise BackendError(f"the GPU backend has no precision {precision!r}: use one of {', '.join(DTYPES)}")
        if not isinstance(device, str) and len(device) != 1:
            raise BackendError(f"one backend runs on one GPU, not on {len(device)}: load one tagger for each device")
        self.heads = heads
        self.precision = precision
        self.dtype = DTYPES[precision]
        self.device = torch.device(device if isinstance(device, str) else device[0])
        self.target = target or target_of(self.device)
        self.hardware = self.target.name
        self._launch = launcher
        self._scale = STREAM_SCALE[precision]
        self._tiles = tiles or tuning.tiles_for(self.target.arch, self.dtype.itemsize)
        # float32 products run on tensor cores where there are any, as three TF32 products.
        nvidia = isinstance(self.target.arch, int)
        self._products = "tf32x3" if nvidia and self.dtype == torch.float32 else "ieee"
        self._front_ends: dict[FrontEnd, PackedFrontEnd] = {}

    def _constant(self, x: folding.Matrix, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(dtype).to(self.device)

    def pack_embed(self, w: Embed) -> PackedEmbed:
        weight, table = folding.embedding(w, self._scale)
        return PackedEmbed(self._constant(weight, self.dtype), self._constant(table), w)

    def pack_norm_linear(self, w: NormLinear) -> PackedLinear:
        weight, bias = folding.rms_linear(w)
        return PackedLinear(self._constant(weight, self.dtype), self._constant(bias), w.norm.eps * self._scale**2)

    def pack_linear(self, w: Linear) -> PackedLinear:
        weight, bias = folding.residual_linear(w, self._scale)
        return PackedLinear(self._constant(weight, self.dtype), self._constant(bias))

    def pack_norm(self, w: LayerNorm) -> PackedLinear:
        weight, bias = folding.float64(w.weight), folding.float64(w.bias)
        return PackedLinear(self._constant(weight), self._constant(bias), w.eps * self._scale**2)

    def pack_head(self, w: Head) -> PackedLinear:
        weight, bias = folding.normalised_linear(NormLinear(w.norm, w.linear))
        return PackedLinear(self._constant(weight), self._constant(bias), w.norm.eps)

    def empty(self, shape: tuple[int, ...], kind: str) -> Any:
        if kind == "stream":
            parts = linear.statistics_parts(shape[-1])
            return Stream(self._empty(shape, self.dtype), self._empty((*shape[:-1], parts), torch.float32))
        return self._empty(shape, self.dtype if kind == "activation" else torch.float32)

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def micro_batch(self, num_tokens: int) -> int:
        return max(1, TOKENS_AT_ONCE // num_tokens)

    def inference(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    def to_host(self, x: torch.Tensor) -> NDArray[np.float32]:
        return np.array(x.cpu().numpy(), dtype=np.float32)

    def log_mel(self, waves: Sequence[NDArray[np.float32]], front_end: FrontEnd, out: torch.Tensor) -> torch.Tensor:
        samples = min(max(map(len, waves)), front_end.input_samples)
        batch = np.zeros((len(waves), samples), np.float32)
        for row, wave in zip(batch, waves, strict=True):
            row[: len(wave)] = wave[:samples]
        lengths = np.array([min(len(wave), samples) for wave in waves], np.int32)
        on_device = torch.from_numpy(batch).to(self.device), torch.from_numpy(lengths).to(self.device)
        return self.log_mel_of_batch(*on_device, front_end, out)

    def log_mel_of_batch(
        self, waves: torch.Tensor, lengths: torch.Tensor, front_end: FrontEnd, out: torch.Tensor
    ) -> torch.Tensor:
        """``log_mel`` of waveforms that are on the device: [B, samples] float32 or int16, lengths [B] int32."""
        if front_end not in self._front_ends:
            filters = mel_filters(front_end)[:, :-1].T  # [bins, mels], without the unused Nyquist bin
            padded = 1 << (front_end.num_mel_bins - 1).bit_length()
            filters = np.pad(filters, ((0, 0), (0, padded - front_end.num_mel_bins)))
            spectral = folding.spectral_matrix(front_end)
            self._front_ends[front_end] = PackedFrontEnd(self._constant(spectral), self._constant(filters))
        constants = self._front_ends[front_end]
        self._launch(
            log_mel.log_mel(
                waves,
                lengths,
                constants.spectral,
                constants.mel,
                out,
                frame_length=front_end.frame_length,
                frame_shift=front_end.frame_shift,
                gain=1.0 / 32768.0 if waves.dtype == torch.int16 else 1.0,
                floor=LOG_FLOOR,
                shift=front_end.shift,
                scale=front_end.scale,
                precision="ieee",
                tile=self._tiles.log_mel,
            )
        )
        return out

    def patch_embed(self, spectrogram: Any, w: PackedEmbed, out: Stream) -> Stream:
        if isinstance(spectrogram, np.ndarray):
            spectrogram = torch.from_numpy(np.ascontiguousarray(spectrogram, np.float32)).to(self.device)
        self._launch(
            patch_embed.patch_embed(
                spectrogram,
                w.weight,
                w.table,
                self._scale,
                out.x,
                out.sumsq,
                patch_size=w.geometry.patch_size,
                frequency_stride=w.geometry.frequency_stride,
                time_stride=w.geometry.time_stride,
                precision=self._products,
                tile=self._tiles.patch_embed,
            )
        )
        return out

    def _tile(self, table: tuple[tuning.Tile, ...], x: torch.Tensor | Stream, w: PackedLinear) -> tuning.Tile:
        return tuning.linear_tile(table, x.shape[0] * x.shape[1], len(w.weight), self.target.multiprocessors)

    def norm_linear(
        self, x: Stream, w: PackedLinear, out: torch.Tensor, activation: Literal["gelu"] | None = None
    ) -> torch.Tensor:
        tile = self._tile(self._tiles.norm_linear, x, w)
        self._launch(
            linear.norm_linear(
                x.x, x.sumsq, w.weight, w.bias, w.eps, out, activation=activation, precision=self._products, tile=tile
            )
        )
        return out

    def attention(self, q: torch.Tensor, kv: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        few = q.shape[1] <= self._tiles.few_queries.m
        tile = self._tiles.few_queries if few else self._tiles.attention
        self._launch(attention.attention(q, kv, out, heads=self.heads, precision=self._products, tile=tile))
        return out

    def linear_residual(self, x: torch.Tensor, w: PackedLinear, residual: Stream) -> Stream:
        tile = self._tile(self._tiles.residual, x, w)
        self._launch(
            linear.linear_residual(
                x, w.weight, w.bias, self._scale, residual.x, residual.sumsq, precision=self._products, tile=tile
            )
        )
        return residual

    def pool(self, x: Stream, w: PackedLinear, out: torch.Tensor) -> torch.Tensor:
        self._launch(head.pool(x.x, w.weight, w.bias, w.eps, out))
        return out

    def head(self, x: torch.Tensor, w: PackedLinear, out: torch.Tensor) -> torch.Tensor:
        self._launch(head.head(x, w.weight, w.bias, w.eps, out, precision="ieee", tile=self._tiles.head))
        return out


def target_of(device: torch.device) -> Target:
    """The target that a CUDA (or ROCm) device is."""
    properties = torch.cuda.get_device_properties(device)
    arch: tuning.Arch = 10 * properties.major + properties.minor
    if torch.version.hip:
        arch = properties.gcnArchName.split(":")[0]
    return Target(arch, properties.multi_processor_count, properties.name)


def unavailable(device: str | list[str] = "auto") -> str | None:
    """Why the GPU backend can't run here and what to do about it, or None when it can."""
    if torch.cuda._is_in_bad_fork():
        return "CUDA can't be used in a forked process that inherited it: start workers with the 'spawn' method"
    if not torch.cuda.is_available():
        built = "CUDA" if torch.version.cuda else "ROCm" if torch.version.hip else None
        if built is None:
            return f"this PyTorch ({torch.__version__}) is a CPU build: install one with CUDA from pytorch.org"
        return f"PyTorch ({torch.__version__}, built for {built}) sees no GPU: check the driver with nvidia-smi"
    for name in [device] if isinstance(device, str) else device:
        index = int(name.split(":")[1]) if ":" in name else 0
        if index >= torch.cuda.device_count():
            return f"there is no {name}: this machine has {torch.cuda.device_count()} GPUs, numbered from cuda:0"
        if torch.version.cuda and torch.cuda.get_device_capability(index) < OLDEST:
            return f"{torch.cuda.get_device_name(index)} is older than compute capability 8.0: use device='cpu'"
    return None


def fastest_precision() -> str:
    """Every GPU that this backend runs on computes bfloat16 on its matrix units."""
    return "bfloat16"
