"""Names of PaSST's tensors in the authors' .pt files, which are MAEST's too."""

from __future__ import annotations

import re

from astfast.models.timm_layout import TimmLayout

POSITIONS = ("time_new_pos_embed", "freq_new_pos_embed")


def layout(family: str, name: str) -> TimmLayout:
    """The layout, under the name of the family whose file it is."""
    return TimmLayout(
        family=family,
        name=name,
        prefix="",
        parameters={
            "cls_token": "1 1 D",
            "dist_token": "1 1 D",
            "new_pos_embed": "1 2 D",
            POSITIONS[0]: "1 D 1 T",
            POSITIONS[1]: "1 D F 1",
        },
        prefix_tokens=("cls_token", "dist_token"),
        prefix_positions="new_pos_embed",
        positions=POSITIONS,
        head=("head.0", "head.1"),
        ignored=re.compile(r"head_dist\.(weight|bias)|melspectrogram\..*|mel\..*"),
    )
