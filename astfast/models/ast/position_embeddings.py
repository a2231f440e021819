"""Position embeddings at another input length, adapted in time as the AST authors do.

Source: ``ASTModel`` of the authors' code (https://github.com/YuanGongND/ast, src/models/ast_models.py): a shorter grid
is cut from the middle, a longer one interpolated. The model wasn't trained on the result: it is an approximation.
"""

from __future__ import annotations

import numpy as np

from astfast.checkpoints.lazy_tensor import Float32, LazyTensor
from astfast.models.ast.config import PREFIX


def adapted(position: LazyTensor, grid: tuple[int, int], time: int) -> LazyTensor:
    """[1, P + F * T, D] of a grid (F, T) -> [P + F * time, D]; the rows of the P prefix tokens stay as they are.

    Shorter: the columns from T // 2 - time // 2. Longer: linear in time, as
    ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` does along the axis that grows.
    """
    frequency, native = grid
    prefix = len(PREFIX)
    width = position.shape[-1]
    flat = position.reshape(prefix + frequency * native, width)
    if time == native:
        return flat

    def read() -> Float32:
        rows = np.asarray(flat)
        patches = rows[prefix:].reshape(frequency, native, width)
        if time < native:
            start = native // 2 - time // 2
            patches = patches[:, start : start + time]
        else:
            patches = _stretched(patches, time)
        return np.concatenate([rows[:prefix], patches.reshape(frequency * time, width)])

    return LazyTensor((prefix + frequency * time, width), read)


def _stretched(patches: Float32, time: int) -> Float32:
    """[F, T, D] -> [F, time, D]; sample t lies at (t + 1/2) T / time - 1/2, clamped to the grid."""
    native = patches.shape[1]
    at = np.clip((np.arange(time) + 0.5) * (native / time) - 0.5, 0, native - 1)
    left = np.floor(at).astype(np.intp)
    right = np.minimum(left + 1, native - 1)
    share = (at - left).astype(np.float32)[:, None]  # of the right neighbour
    stretched: Float32 = patches[:, left] * (1 - share) + patches[:, right] * share
    return stretched
