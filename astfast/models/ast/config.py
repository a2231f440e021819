"""Config of an Audio Spectrogram Transformer."""

from __future__ import annotations

from astfast.front_end import KaldiFbank
from astfast.models.vit_config import VitConfig

PREFIX = ("cls", "dist")  # the learned tokens before the patches; the logits are read off them


class AstConfig(VitConfig):
    """Geometry, labels and front end of an AST checkpoint, under the names of its Hugging Face config."""

    front_end: KaldiFbank
