"""Types of the native C++ module (csrc/bindings.cpp). Wrong arguments raise ValueError naming the argument."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

stub_crc32: int  # of this file when the module was built

# Activations are float32, or bfloat16 as the upper halves of float32 values in uint16.
Activations = NDArray[np.float32] | NDArray[np.uint16]

def available_threads() -> int:
    """Physical cores that this process may keep busy: affinity mask and cgroup quota."""

def empty(bytes: int, /) -> NDArray[np.uint8]:
    """Memory of undefined contents, 64-byte aligned, on huge pages where it is large."""

def own_pool(cpus: Sequence[int], /) -> None:
    """Gives the calling thread a pool of its own, whose threads run on these CPUs, as it does from now on."""

def checksum(bytes: memoryview | NDArray[np.uint8], threads: int, /) -> int:
    """Checksum of a row of bytes, the same for any number of threads: 64 bits, against damage, not forgery."""

def release_freed_memory() -> None:
    """Gives memory that was freed back to the system, where the allocator keeps it."""

def tiers() -> list[tuple[str, str]]:
    """(name, what this machine lacks for it or "") of every tier, each faster than the one before it."""

class PackedLinear:
    """A linear layer in the layout of one tier and precision."""

class PackedEmbed:
    """A patch projection with its prefix tokens and positions."""

class PackedNorm:
    """A LayerNorm."""

    def __init__(self, weight: NDArray[np.float32], bias: NDArray[np.float32], eps: float) -> None:
        """Weight and bias [D]."""

    def parts(self) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
        """The arguments that make it."""

class PackedScan:
    """Parameters of a selective scan in four directions."""

    def __init__(
        self,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        decay: NDArray[np.float32],
        skip: NDArray[np.float32],
    ) -> None:
        """Weight [4, R, C], bias [4, C], decay [4, C] = A, skip [C], the sum of D over the directions."""

    def parts(self) -> tuple[NDArray[np.float32], ...]:
        """The arguments that make it."""

class Recording:
    """Ops of a context, to be run by one call, which takes the GIL once."""

    def __init__(self) -> None:
        """Without ops: ``ComputeContext.recorder`` adds them, and keeps what they read and write."""

    def replay(self, x: NDArray[np.float32], input: NDArray[np.float32], /) -> None:
        """Copies x to ``input``, of its shape, where these are not one, and runs the ops in their order."""

class ComputeContext:
    """Kernels of a tier in a precision, and a number of threads."""

    def __init__(self, tier: str, precision: str, threads: int) -> None:
        """Precision float32, bfloat16 or int8. RuntimeError where the system has no more threads."""

    @property
    def tier(self) -> str:
        """Name of the tier whose kernels compute: the one asked for, or one below it."""

    def recorder(self, recording: Recording, /) -> ComputeContext:
        """The same context, but that its ops are added to a recording once their arguments are checked, not run."""

    def pack_linear(
        self,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        exact: bool = False,
        factors: NDArray[np.float32] | None = None,
    ) -> PackedLinear:
        """Weight [N, K], bias [N]; ``exact``: to be multiplied in float32, by ``head``; ``factors`` [K]: what int8's
        ``linear_residual`` multiplies columns of its input by before it quantises them."""

    def pack_convolution(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> PackedLinear:
        """Weight [N, 9 K], bias [N] of ``conv_norm``; of one channel, a spectrogram's, it is not quantised."""

    def pack_embed(
        self,
        kernel: NDArray[np.float32],
        bias: NDArray[np.float32],
        prefix: NDArray[np.float32],
        position: NDArray[np.float32],
        patch_size: int,
        frequency_stride: int,
        time_stride: int,
    ) -> PackedEmbed:
        """Kernel [D, patch_size * patch_size] with mel bins contiguous, prefix [P, D], position [P + patches, D]."""

    def linear_parts(self, w: PackedLinear, /) -> tuple[Any, ...]:
        """The arguments of ``linear_of_parts`` that make it, panels as an array over its memory."""

    def linear_of_parts(
        self,
        use: str,
        n: int,
        k: int,
        panels: NDArray[np.uint8],
        bias: NDArray[np.float32],
        factors: NDArray[np.float32] | None,
        /,
    ) -> PackedLinear:
        """What was packed for "model", "unquantised" or "exact" kernels of the same tier and precision. ``panels``, on
        a cache line, are kept and must not be written to."""

    def embed_parts(self, w: PackedEmbed, /) -> tuple[Any, ...]:
        """Parts of the projection, as ``linear_parts`` has them, and the other arguments of ``embed_of_parts``."""

    def embed_of_parts(
        self,
        projection: PackedLinear,
        prefix: NDArray[np.float32],
        position: NDArray[np.float32],
        patch_size: int,
        frequency_stride: int,
        time_stride: int,
        /,
    ) -> PackedEmbed:
        """As ``pack_embed``. The arrays are kept and must not be written to."""

    def patch_embed(self, spectrogram: NDArray[np.float32], w: PackedEmbed, out: NDArray[np.float32], /) -> None:
        """Spectrogram [B, frames, mels], out [B, P + patches, D]."""

    def norm_linear(
        self, x: NDArray[np.float32], norm: PackedNorm, w: PackedLinear, out: Activations, gelu: bool, /
    ) -> None:
        """x [B, T, K], out [B, T, N]."""

    def linear_residual(self, x: Activations, w: PackedLinear, residual: NDArray[np.float32], /) -> None:
        """x [B, T, K], residual [B, T, N], added to."""

    def linear(self, x: Activations, w: PackedLinear, out: NDArray[np.float32], /) -> None:
        """x [B, T, K], out [B, T, N]."""

    def norm_linear_residual(
        self, x: NDArray[np.float32], norm: PackedNorm, w: PackedLinear, residual: NDArray[np.float32], /
    ) -> None:
        """x [B, T, K], residual [B, T, N], added to."""

    def conv_norm(
        self,
        x: NDArray[np.float32],
        w: PackedLinear,
        norm: PackedNorm,
        grid: tuple[int, int],
        out: NDArray[np.float32],
        gelu: bool,
        /,
    ) -> None:
        """x [B, rows * columns, K] of a grid, out [B, positions of the halved grid, N]; ``w`` of pack_convolution."""

    def depthwise_silu(
        self, x: Activations, weight: NDArray[np.float32], grid: tuple[int, int], out: Activations, /
    ) -> None:
        """x and out [B, rows * columns, C] of a grid, weight [9, C]."""

    def selective_scan(
        self,
        x: Activations,
        projected: NDArray[np.float32],
        w: PackedScan,
        grid: tuple[int, int],
        out: NDArray[np.float32],
        /,
    ) -> None:
        """x and out [B, rows * columns, C] of a grid, projected [B, rows * columns, 4 * (R + 2)]."""

    def attention(
        self,
        q: Activations,
        kv: Activations,
        heads: int,
        out: Activations,
        sizes: NDArray[np.float32] | None = None,
    ) -> None:
        """q and out [B, R, D], kv [B, T, 2 D] = [k, v], sizes [B, T]: what each key's exponential is multiplied by."""

    def merge_tokens(
        self,
        x: NDArray[np.float32],
        keys: Activations,
        sizes: NDArray[np.float32],
        heads: int,
        count: int,
        prefix: int,
        unmerged: bool = False,
    ) -> None:
        """x and keys [B, T, D], sizes [B, T]: the first T - count tokens of x and sizes are what is left. ``unmerged``:
        all sizes are 1, and written first."""

    def pool(
        self,
        x: NDArray[np.float32],
        norm: PackedNorm,
        out: NDArray[np.float32],
        sizes: NDArray[np.float32] | None = None,
    ) -> None:
        """x [B, R, D], out [B, D]: mean over the R rows of LN(x), weighted by sizes [B, R]."""

    def head(
        self, x: NDArray[np.float32], norm: PackedNorm | None, w: PackedLinear, out: NDArray[np.float32], /
    ) -> None:
        """x [B, D], out [B, L]; ``w`` packed with ``exact``; no LayerNorm where ``norm`` is None."""

    def exp(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        """e^x for x <= 0, elementwise, as attention computes it."""

    def gelu(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        """gelu(x), elementwise, as the epilogue of a product computes it."""

class LogMel:
    """Log-mel spectrograms of one front end on one tier."""

    def __init__(
        self,
        tier: str,
        frame_length: int,
        frame_shift: int,
        fft_length: int,
        num_mel_bins: int,
        pre_emphasis: float,
        floor: float,
        shift: float,
        scale: float,
        window: NDArray[np.float64],
        filters: NDArray[np.float64],
        edges: str = "whole_frames",
        signal_emphasis: float = 0.0,
        addend: float = 0.0,
    ) -> None:
        """Window [frame_length], filters [num_mel_bins, fft_length / 2 + 1]; out = (log(max(energy, floor) + addend) -
        shift) * scale. ``edges``: "whole_frames", whose mean is removed, or "reflect" or "constant" (zeros) for centred
        ones, of x[i + 1] - signal_emphasis x[i] unless that is 0."""

    def run(self, waves: Sequence[NDArray[np.float32]], out: NDArray[Any], threads: int) -> None:
        """Waves [samples] each, out [B, max_length, num_mel_bins]."""
