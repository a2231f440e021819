"""Names of CED's tensors: those of the authors' .pt files, and those of the hub's folders under ``encoder.``."""

from __future__ import annotations

import re

from astfast.models.timm_layout import TimmLayout

_PARAMETERS = {"time_pos_embed": "1 D 1 T", "freq_pos_embed": "1 D F 1"}
_HEAD = ("outputlayer.0", "outputlayer.1")
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def _layout(name: str, prefix: str, batch_norm: str) -> TimmLayout:
    return TimmLayout(
        family="CED",
        name=name,
        prefix=prefix,
        parameters=_PARAMETERS | {f"{batch_norm}.{part}": "C" for part in _STATISTICS},
        prefix_tokens=(),
        prefix_positions=None,
        positions=("time_pos_embed", "freq_pos_embed"),
        head=_HEAD,
        ignored=re.compile(r"(encoder\.)?(front_end\..*|init_bn\.(1\.)?num_batches_tracked)"),
    )


HUB = _layout("CED, hub", "encoder.", "init_bn")
AUTHORS = _layout("CED, the authors' .pt", "", "init_bn.1")
LAYOUTS = (HUB, AUTHORS)
BATCH_NORM = {HUB.name: "init_bn", AUTHORS.name: "init_bn.1"}
