"""The doctor says what was chosen on GPUs."""

from astfast.backends.cuda import autotune_cache
from astfast.backends.cuda.autotune_cache import KernelResult
from astfast.commands import doctor


def test_who_serves_each_gpu_op_is_printed_for_every_machine() -> None:
    assert "autotuned" not in doctor.report()[0]
    autotune_cache.store("NVIDIA H200, driver 580", "attention bfloat16 32x1214x768", KernelResult(None, 3e-4, 2e-4))
    autotune_cache.store("NVIDIA H200, driver 580", "head float32 32x527", KernelResult("out is off by 1"))
    autotune_cache.store("NVIDIA L4, driver 580", "pool float32 1x768", KernelResult(None, 1e-6, 2e-6))
    text, _ = doctor.report()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    first = lines.index("ops autotuned on NVIDIA H200, driver 580")
    assert lines[first + 1] == "attention bfloat16 32x1214x768 torch kernel 300.0 us torch 200.0 us"
    assert lines[first + 2] == "head float32 32x527 torch (kernel: out is off by 1)"
    second = lines.index("ops autotuned on NVIDIA L4, driver 580")
    assert lines[second + 1] == "pool float32 1x768 kernel kernel 1.0 us torch 2.0 us"
