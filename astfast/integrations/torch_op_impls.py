"""Implementations of ``torch.ops.astfast`` on plain tensors: the native CPU engine, or Triton kernels on a GPU.

Weights come as a checkpoint has them. They are packed at the first use of an op, and the packed form is kept for as
long as the weight tensor lives; a weight that was written to since is packed again.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from astfast.errors import BackendError
from astfast.front_end import FrontEnd
from astfast.ops import Embed, Head, LayerNorm, Linear, NormLinear, map_arrays
from astfast.pcm import INT16_FULL_SCALE

packed_weights: Any = WeakTensorKeyDictionary()  # weight -> {key: (versions, other tensors, packed)}
_lock = threading.Lock()  # of GPU ops, which share packed weights and autotuning results


def pack_once(pack: Callable[[Any], Any], w: Any, *key: Any) -> Any:
    """``pack(as_arrays(w))``, cached for these very tensors and ``key`` until one of the tensors is written to."""
    tensors: list[torch.Tensor] = []
    map_arrays(tensors.append, w)
    if any(x.is_inference() for x in tensors):
        return pack(as_arrays(w))  # torch does not count the writes to an inference tensor
    # Layers may share a norm, but not a matrix.
    weight = next((x for x in tensors if x.dim() == 2), tensors[0])
    others = [x for x in tensors if x is not weight]
    versions = [x._version for x in tensors]
    entries = packed_weights.setdefault(weight, {})
    entry = entries.get(key)
    # The other tensors are kept, so that no new one can take the place of an old one in memory.
    if entry is None or entry[0] != versions or any(a is not b for a, b in zip(entry[1], others, strict=True)):
        entry = entries[key] = versions, others, pack(as_arrays(w))
    return entry[2]


def as_arrays(w: Any) -> Any:
    """A dataclass of weights with float32 numpy arrays in the place of its tensors."""
    return map_arrays(lambda x: x.detach().to("cpu", torch.float32).numpy(), w)


class OpImpl(Protocol):
    """Implementation of the ops on one kind of device. Contracts are those of ``astfast.ops``, but no op writes in
    place."""

    def log_mel(self, waves: torch.Tensor, lengths: torch.Tensor, front_end: FrontEnd) -> torch.Tensor: ...
    def patch_embed(self, spectrogram: torch.Tensor, w: Embed) -> torch.Tensor: ...
    def norm_linear(self, x: torch.Tensor, w: NormLinear, gelu: bool) -> torch.Tensor: ...
    def attention(self, q: torch.Tensor, kv: torch.Tensor, heads: int) -> torch.Tensor: ...
    def linear_residual(self, x: torch.Tensor, w: Linear, residual: torch.Tensor) -> torch.Tensor: ...
    def pool(self, x: torch.Tensor, w: LayerNorm) -> torch.Tensor: ...
    def head(self, x: torch.Tensor, w: Head) -> torch.Tensor: ...


@contextlib.contextmanager
def implementation(device: torch.device) -> Iterator[OpImpl]:
    """Context with the implementation for tensors on ``device``; a GPU is the current one in it, and its calls take
    turns. Raises BackendError for a device other than CPU and CUDA, and for a GPU in a forked child."""
    if device.type == "cpu":
        yield CpuOpImpl()
    elif device.type == "cuda":
        if torch.cuda._is_in_bad_fork():
            raise BackendError(f"{device}: CUDA does not survive a fork: start workers with the 'spawn' method")
        with torch.cuda.device(device), _lock:
            yield CudaOpImpl(functools.partial(_cuda_ops, device))
    else:
        raise BackendError(f"no astfast ops on {device}: move the tensors to a CPU or a CUDA device")


class CpuOpImpl:
    """The native engine. The stream is float32; weights and activations are float32 or bfloat16."""

    def log_mel(self, waves: torch.Tensor, lengths: torch.Tensor, front_end: FrontEnd) -> torch.Tensor:
        waves = waves / INT16_FULL_SCALE if waves.dtype == torch.int16 else waves.float()
        clips = [wave[:length] for wave, length in zip(_numpy(waves), lengths.tolist(), strict=True)]
        out = torch.empty(len(waves), front_end.max_length, front_end.num_mel_bins)
        _cpu_ops(1, "float32").log_mel(clips, front_end, _numpy(out))
        return out

    def patch_embed(self, spectrogram: torch.Tensor, w: Embed) -> torch.Tensor:
        ops = _cpu_ops(1, _precision(w.projection.weight))
        packed = pack_once(ops.pack_embed, w, "patch_embed", ops.precision, w.geometry)
        out = torch.empty(len(spectrogram), *w.position.shape)
        ops.patch_embed(_numpy(spectrogram.float()), packed, _numpy(out))
        return out

    def norm_linear(self, x: torch.Tensor, w: NormLinear, gelu: bool) -> torch.Tensor:
        ops = _cpu_ops(1, _precision(w.linear.weight))
        packed = pack_once(ops.pack_norm_linear, w, "norm_linear", ops.precision, w.norm.eps)
        out = x.new_empty(*x.shape[:2], len(w.linear.weight), dtype=w.linear.weight.dtype)
        ops.norm_linear(_numpy(x), packed, _numpy(out), "gelu" if gelu else None)
        return out

    def attention(self, q: torch.Tensor, kv: torch.Tensor, heads: int) -> torch.Tensor:
        out = torch.empty(q.shape, dtype=q.dtype)
        _cpu_ops(heads, _precision(q)).attention(_numpy(q), _numpy(kv), _numpy(out))
        return out

    def linear_residual(self, x: torch.Tensor, w: Linear, residual: torch.Tensor) -> torch.Tensor:
        ops = _cpu_ops(1, _precision(w.weight))
        packed = pack_once(ops.pack_linear, w, "linear_residual", ops.precision)
        out = residual.clone(memory_format=torch.contiguous_format)
        ops.linear_residual(_numpy(x), packed, _numpy(out))
        return out

    def pool(self, x: torch.Tensor, w: LayerNorm) -> torch.Tensor:
        ops = _cpu_ops(1, "float32")
        out = torch.empty(x.shape[0], x.shape[2])
        ops.pool(_numpy(x), pack_once(ops.pack_norm, w, "pool", w.eps), _numpy(out))
        return out

    def head(self, x: torch.Tensor, w: Head) -> torch.Tensor:
        ops = _cpu_ops(1, "float32")
        out = torch.empty(len(x), len(w.linear.weight))
        ops.head(_numpy(x), pack_once(ops.pack_head, w, "head", w.norm.eps), _numpy(out))
        return out


class CudaOpImpl:
    """The GPU backend. Stream, activations and weights are of one type.

    Its stream is neither centred nor scaled, so that the sums of squares of its rows take a pass of their own: the
    engine is faster. ``make_ops(heads, precision)`` makes the backend, its stream not scaled.
    """

    def __init__(self, make_ops: Callable[[int, str], Any]) -> None:
        self._make_ops = make_ops

    def log_mel(self, waves: torch.Tensor, lengths: torch.Tensor, front_end: FrontEnd) -> torch.Tensor:
        out = waves.new_empty(len(waves), front_end.max_length, front_end.num_mel_bins, dtype=torch.float32)
        within = lengths.clamp(1, waves.shape[1])  # without waiting for the GPU, as an error would
        on_device = waves.contiguous(), within.to(waves.device, torch.int32)
        result: torch.Tensor = self._make_ops(1, "float32").log_mel_on_device(*on_device, front_end, out)
        return result

    def patch_embed(self, spectrogram: torch.Tensor, w: Embed) -> torch.Tensor:
        ops = self._make_ops(1, _precision(w.projection.weight))
        packed = pack_once(_plain_packing(ops).embed, w, "patch_embed", ops.precision, w.geometry)
        stream = ops.empty((len(spectrogram), *w.position.shape), "stream")
        result: torch.Tensor = ops.patch_embed(spectrogram.float().contiguous(), packed, stream).x
        return result

    def norm_linear(self, x: torch.Tensor, w: NormLinear, gelu: bool) -> torch.Tensor:
        from astfast.backends.cuda.fallback_ops import centred_sums_of_squares
        from astfast.backends.cuda.packing import Stream

        ops = self._make_ops(1, _precision(w.linear.weight))
        packed = pack_once(ops.pack_norm_linear, w, "norm_linear", ops.precision, w.norm.eps)
        stream = Stream(_rows(x), centred_sums_of_squares(x))  # the packed weight subtracts the mean of x itself
        out = ops.empty((*x.shape[:2], len(w.linear.weight)), "activation")
        result: torch.Tensor = ops.norm_linear(stream, packed, out, "gelu" if gelu else None)
        return result

    def attention(self, q: torch.Tensor, kv: torch.Tensor, heads: int) -> torch.Tensor:
        ops = self._make_ops(heads, _precision(q))
        result: torch.Tensor = ops.attention(_rows(q), _rows(kv), ops.empty(tuple(q.shape), "activation"))
        return result.contiguous()

    def linear_residual(self, x: torch.Tensor, w: Linear, residual: torch.Tensor) -> torch.Tensor:
        ops = self._make_ops(1, _precision(w.weight))
        packed = pack_once(_plain_packing(ops).linear, w, "linear_residual", ops.precision)
        stream = ops.empty(tuple(residual.shape), "stream")
        stream.x.copy_(residual)
        result: torch.Tensor = ops.linear_residual(_rows(x), packed, stream).x
        return result

    def pool(self, x: torch.Tensor, w: LayerNorm) -> torch.Tensor:
        from astfast.backends.cuda.packing import Stream

        ops = self._make_ops(1, _precision(x))
        out = x.new_empty(x.shape[0], x.shape[2], dtype=torch.float32)
        unread = x  # in the place of sums of squares
        result: torch.Tensor = ops.pool(Stream(_rows(x), unread), pack_once(ops.pack_norm, w, "pool", w.eps), out)
        return result

    def head(self, x: torch.Tensor, w: Head) -> torch.Tensor:
        ops = self._make_ops(1, "float32")
        out = x.new_empty(len(x), len(w.linear.weight))
        result: torch.Tensor = ops.head(x.contiguous(), pack_once(ops.pack_head, w, "head", w.norm.eps), out)
        return result


@functools.cache
def _cpu_ops(heads: int, precision: str) -> Any:
    from astfast.backends.cpu.ops import CpuOps

    return CpuOps(heads, precision)


@functools.cache
def _cuda_ops(device: torch.device, heads: int, precision: str) -> Any:
    from astfast.backends.cuda import backend

    return backend.open(heads, precision, str(device), stream_scale=1.0)


def _plain_packing(ops: Any) -> Any:
    """Packing for a stream that is neither centred nor scaled."""
    from astfast.backends.cuda.packing import Packing

    return Packing(ops.precision, ops.device, scale=1.0, centred=False)


def _precision(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _rows(x: torch.Tensor) -> torch.Tensor:
    """x with contiguous columns; its rows may be strided."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _numpy(x: torch.Tensor) -> Any:
    """A numpy view of x; of bfloat16 as uint16, as the native engine takes it."""
    x = _rows(x.detach())
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
