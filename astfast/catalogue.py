"""Published models: their names for ``astfast.load``, hub ids, sizes, accuracy and licence, each as its authors state.

Accuracy is mean average precision on AudioSet's evaluation set. The multiply-adds are those of 10 s of audio (1 s for
Speech Commands), computed from the model's sizes. A revision is pinned where the commit is known; other models are
fetched at their newest. First logits are those of transformers' conversion script, of the first three labels on
``ANCHOR_CLIP``.
"""

from __future__ import annotations

from typing import NamedTuple

AST_PAPER = "Gong et al. 2021, arXiv:2104.01778"
DASS_CARD = "name of the hub model"
CED_PAPER = "Dinkel et al. 2023, arXiv:2308.11957"
PASST_FILE = "name of the released file"
PASST_RELEASES = "https://github.com/kkoutini/PaSST/releases/download/"
UNSTATED = "not stated"
ANCHOR_CLIP = ("nielsr/audio-spectogram-transformer-checkpoint", "sample_audio.flac")  # data set of the hub, file


class PublishedModel(NamedTuple):
    """One published model; None for what isn't known or has no meaning."""

    name: str  # for astfast.load
    family: str
    hub_id: str | None  # None: not on the hub, see ``url``
    tokens: int | None  # of a clip of 10 s, cut or padded where the model has one length
    hidden: int | None
    layers: int | None
    labels: int
    mean_average_precision: float | None  # 0 to 1
    source: str | None  # of the accuracy
    weights_licence: str
    revision: str | None = None  # commit of the hub that the name stands for; None: its newest
    first_logits: tuple[float, ...] = ()  # on the anchor clip
    url: str | None = None  # of the file, for a model that isn't on the hub
    depths: tuple[int, ...] = ()  # blocks of each stage, of a model of images that has no layers of tokens

    @property
    def macs(self) -> float | None:
        """Multiply-adds of a clip: the products of all layers, attention or scans included."""
        if self.depths:
            return _macs_of_stages(self.depths)
        if self.tokens is None or self.hidden is None or self.layers is None:
            return None
        return self.layers * (12 * self.hidden**2 * self.tokens + 2 * self.tokens**2 * self.hidden)


def _macs_of_stages(depths: tuple[int, ...]) -> float:
    """Of a DASS of 96 channels on 1,024 frames x 128 mel bins: blocks, the convolutions between stages and the stem."""
    positions, channels = 256 * 32, 96
    total = 9 * 48 * 4 * positions + 9 * 48 * channels * positions
    for stage, depth in enumerate(depths):
        if stage:
            positions, channels = positions // 4, 2 * channels
            total += 9 * channels // 2 * channels * positions
        rank = -(-channels // 16)
        scans = 4 * (2 * rank + 2 + 4)  # steps, B and C; state and output
        total += depth * positions * channels * (10 * channels + 9 + scans)
    return float(total)


def _ast(
    name: str,
    hub_id: str,
    tokens: int,
    precision: float | None,
    first_logits: tuple[float, ...] = (),
    layers: int = 12,
    labels: int = 527,
) -> PublishedModel:
    source = None if precision is None else AST_PAPER
    licence = "BSD-3-Clause"
    return PublishedModel(
        name, "AST", hub_id, tokens, 768, layers, labels, precision, source, licence, first_logits=first_logits
    )


def _dass(size: str, precision: float) -> PublishedModel:
    percent = f"{100 * precision:.1f}"
    hub_id = f"saurabhati/DASS_{size}_AudioSet_{percent}"
    name = f"dass-{size}-{percent}"
    depths = (2, 2, 8 if size == "small" else 20, 2)
    return PublishedModel(name, "DASS", hub_id, None, None, None, 527, precision, DASS_CARD, UNSTATED, depths=depths)


def _ced(size: str, hidden: int, precision: float, revision: str | None = None) -> PublishedModel:
    name = f"ced-{size}"
    hub_id, licence = f"mispeech/{name}", "Apache-2.0"
    return PublishedModel(name, "CED", hub_id, 248, hidden, 12, 527, precision, CED_PAPER, licence, revision)


def _maest(name: str, tokens: int, labels: int = 400) -> PublishedModel:
    hub_id = f"mtg-upf/discogs-{name}"
    return PublishedModel(name, "MAEST", hub_id, tokens, 768, 12, labels, None, None, "CC-BY-NC-SA-4.0")


def _passt(name: str, file: str, tokens: int, precision: float, layers: int = 12) -> PublishedModel:
    url = PASST_RELEASES + file
    return PublishedModel(name, "PaSST", None, tokens, 768, layers, 527, precision, PASST_FILE, UNSTATED, url=url)


_MIT = "MIT/ast-finetuned-audioset-"
MODELS = (
    _ast("ast-10-10", f"{_MIT}10-10-0.4593", 1214, 0.4593, (-0.8760, -7.0042, -8.6602))._replace(
        revision="f826b80d28226b62986cc218e5cec390b1096902"
    ),
    _ast("ast-10-10-0.450", f"{_MIT}10-10-0.450", 1214, 0.450, (-1.1986, -7.0903, -8.2718)),
    _ast("ast-10-10-0.448", f"{_MIT}10-10-0.448", 1214, 0.448, (-2.6128, -8.0080, -9.4344)),
    _ast("ast-10-10-0.448-v2", f"{_MIT}10-10-0.448-v2", 1214, 0.448, (-1.5080, -7.4534, -8.8917)),
    _ast("ast-12-12", f"{_MIT}12-12-0.447", 852, 0.447, (-0.5050, -6.5833, -8.0843)),
    _ast("ast-14-14", f"{_MIT}14-14-0.443", 659, 0.443, (-0.3826, -7.0336, -8.2413)),
    _ast("ast-16-16", f"{_MIT}16-16-0.442", 514, 0.442, (-1.2113, -6.9101, -8.3470)),
    _ast("ast-speech-commands", "MIT/ast-finetuned-speech-commands-v2", 146, None, labels=35),
    _ast("distil-ast", "bookbot/distil-ast-audioset", 1214, None, layers=6)._replace(weights_licence=UNSTATED),
    *(_dass("small", precision) for precision in (0.472, 0.486, 0.501)),
    *(_dass("medium", precision) for precision in (0.476, 0.489, 0.502)),
    _ced("tiny", 192, 0.481, "ace276d29dd0bb3f3517b0fa8cf300738c409019"),
    _ced("mini", 256, 0.490, "26c3ebcae85d4330f4fc26763f029539a3afcda0"),
    _ced("small", 384, 0.496),
    _ced("base", 768, 0.500),
    _maest("maest-5s-pw-129e", 281),
    *(_maest(f"maest-10s-{start}", 560) for start in ("fs-129e", "pw-129e", "dw-75e")),
    _maest("maest-20s-pw-129e", 1127),
    *(_maest(f"maest-30s-{start}", 1685) for start in ("pw-129e", "pw-73e-ts")),
    _maest("maest-30s-pw-129e-519l", 1685, 519),
    _passt("passt-s-kd", "v.0.0.9/passt-s-kd-ap.486.pt", 1190, 0.486),
    _passt("passt-l-kd", "v.0.0.10/passt-l-kd-ap.47.pt", 1190, 0.47, layers=7),
    _passt("passt-s-10", "v0.0.1-audioset/passt-s-f128-p16-s10-ap.476-swa.pt", 1190, 0.476),
    _passt("passt-s-12", "v0.0.2-audioset/passt-s-f128-p16-s12-ap.473-swa.pt", 832, 0.473),
    _passt("passt-s-14", "v0.0.2-audioset/passt-s-f128-p16-s14-ap.471-swa.pt", 641, 0.471),
    _passt("passt-s-16", "v0.0.2-audioset/passt-s-f128-p16-s16-ap.473-swa.pt", 498, 0.473),
    _passt("passt-b-16", "v.0.0.7-audioset/passt-b-f128-p16-s16-ap.459.pt", 498, 0.459),
    _passt("passt-s-hop100", "v0.0.3-audioset/passt-s-f128-stfthop100-p16-s10-ap.473-swa.pt", 3830, 0.473),
    _passt("passt-s-hop160", "v0.0.3-audioset/passt-s-f128-stfthop160-p16-s10-ap.473-swa.pt", 2390, 0.473),
    _passt("passt-s-20s", "v0.0.5/passt-s-f128-20sec-p16-s10-ap.474-swa.pt", 1190, 0.474),
    _passt("passt-s-30s", "v0.0.5/passt-s-f128-30sec-p16-s10-ap.473-swa.pt", 1190, 0.473),
)


def similar(name: str) -> tuple[str, ...]:
    """Names of published models that a mistyped one may stand for."""
    from difflib import get_close_matches  # for an error

    return tuple(get_close_matches(name.lower(), [model.name for model in MODELS]))


def published(name: str) -> PublishedModel | None:
    """The published model of this name, in letters of any case, or hub id; None where it is that of none."""
    return next((model for model in MODELS if name.lower() == model.name or name == model.hub_id), None)
