"""The ops on images for backends that have none yet: an error that says where DASS runs."""

from __future__ import annotations

from typing import Any, NoReturn

from astfast.errors import UnsupportedModel


class NoImages:
    """Refuses a model at its first weight."""

    name: str

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedModel(f"the {self.name} backend doesn't run DASS models: pass device='cpu'")

    pack_norm_linear_residual = pack_conv_norm = pack_depthwise = pack_scan = _refuse
    norm_linear_residual = linear = conv_norm = depthwise_silu = selective_scan = _refuse
