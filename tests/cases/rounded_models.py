"""What a whole model in bfloat16 or int8 may be off: twice the error of those roundings alone, computed in float64."""

from __future__ import annotations

import numpy as np
import torch

from astfast.backends.cpu.ops import CpuOps
from astfast.engines.eager import EagerEngine
from astfast.models.base import Checkpoint
from tests.cases.op_cases import QuantisedOps, serving_tier
from tests.cases.rounded_ops import RoundedOps

Costs = dict[tuple[bool, bool], np.ndarray]  # of the roundings alone, by what tells their kinds apart


def assert_within_roundings(
    loaded: Checkpoint, ops: CpuOps, spectrograms: np.ndarray, exact: np.ndarray, costs: Costs
) -> float:
    """Logits of spectrograms on ``ops`` are off by at most twice the error of the roundings of their precision alone
    (``RoundedOps``, ``QuantisedOps``): as the largest error, and as that of all logits together (RMS).

    Which values round up and which down differs between the two, so that errors of one clip vary by a factor of 4 with
    equal mean: enough clips are compared for this not to matter. Over 8 clips the ratio of the RMS errors was 0.5 to
    1.4, of the largest 0.4 to 1.6. ``costs``: kept by the caller for all ops on the same spectrograms.
    """
    heads = loaded.config.num_attention_heads
    error = np.abs(EagerEngine(ops, loaded).logits(spectrograms) - exact)
    by_type = ops.precision == "bfloat16"
    rounded = RoundedOps(heads, torch.bfloat16) if by_type else QuantisedOps(heads, serving_tier(ops))
    if rounded.kind not in costs:
        costs[rounded.kind] = np.abs(EagerEngine(rounded, loaded).logits(spectrograms) - exact)
    bound = 2.0 * float(costs[rounded.kind].max())
    rms, allowed = (float(np.sqrt(np.square(e).mean())) for e in (error, 2.0 * costs[rounded.kind]))
    assert rms <= allowed, f"{ops.hardware}: {rms:.2e} off (RMS), {allowed:.2e} allowed"
    assert error.max() <= bound, f"{ops.hardware}: {error.max():.2e} off, {bound:.2e} allowed"
    return float(error.max())
