"""Published models: their names for ``astfast.load``, hub ids, sizes, accuracy and licence, each as its authors state.

Accuracy is mean average precision on AudioSet's evaluation set. The multiply-adds are those of 10 s of audio (1 s for
Speech Commands), computed from the model's sizes.
"""

from __future__ import annotations

from typing import NamedTuple

AST_PAPER = "Gong et al. 2021, arXiv:2104.01778"
DASS_CARD = "name of the hub model"
CED_PAPER = "Dinkel et al. 2023, arXiv:2308.11957"
UNSTATED = "not stated"


class PublishedModel(NamedTuple):
    """One published model; None for what isn't known or has no meaning."""

    name: str  # for astfast.load
    family: str
    hub_id: str
    tokens: int | None  # of 10 s
    hidden: int | None
    layers: int | None
    labels: int
    mean_average_precision: float | None  # 0 to 1
    source: str | None  # of the accuracy
    weights_licence: str

    @property
    def macs(self) -> float | None:
        """Multiply-adds of a clip: the products of all layers, attention included."""
        if self.tokens is None or self.hidden is None or self.layers is None:
            return None
        return self.layers * (12 * self.hidden**2 * self.tokens + 2 * self.tokens**2 * self.hidden)


def _ast(
    name: str, hub_id: str, tokens: int, precision: float | None, layers: int = 12, labels: int = 527
) -> PublishedModel:
    source = None if precision is None else AST_PAPER
    return PublishedModel(name, "AST", hub_id, tokens, 768, layers, labels, precision, source, "BSD-3-Clause")


def _dass(size: str, precision: float) -> PublishedModel:
    percent = f"{100 * precision:.1f}"
    hub_id = f"saurabhati/DASS_{size}_AudioSet_{percent}"
    name = f"dass-{size}-{percent}"
    return PublishedModel(name, "DASS", hub_id, None, None, None, 527, precision, DASS_CARD, UNSTATED)


def _ced(size: str, hidden: int, precision: float) -> PublishedModel:
    name = f"ced-{size}"
    return PublishedModel(name, "CED", f"mispeech/{name}", 248, hidden, 12, 527, precision, CED_PAPER, "Apache-2.0")


def _maest(name: str, tokens: int, labels: int = 400) -> PublishedModel:
    hub_id = f"mtg-upf/discogs-{name}"
    return PublishedModel(name, "MAEST", hub_id, tokens, 768, 12, labels, None, None, "CC-BY-NC-SA-4.0")


_MIT = "MIT/ast-finetuned-audioset-"
MODELS = (
    _ast("ast-10-10", f"{_MIT}10-10-0.4593", 1214, 0.4593),
    _ast("ast-10-10-0.450", f"{_MIT}10-10-0.450", 1214, 0.450),
    _ast("ast-10-10-0.448", f"{_MIT}10-10-0.448", 1214, 0.448),
    _ast("ast-10-10-0.448-v2", f"{_MIT}10-10-0.448-v2", 1214, 0.448),
    _ast("ast-12-12", f"{_MIT}12-12-0.447", 852, 0.447),
    _ast("ast-14-14", f"{_MIT}14-14-0.443", 659, 0.443),
    _ast("ast-16-16", f"{_MIT}16-16-0.442", 514, 0.442),
    _ast("ast-speech-commands", "MIT/ast-finetuned-speech-commands-v2", 146, None, labels=35),
    _ast("distil-ast", "bookbot/distil-ast-audioset", 1214, None, layers=6)._replace(weights_licence=UNSTATED),
    *(_dass("small", precision) for precision in (0.472, 0.486, 0.501)),
    *(_dass("medium", precision) for precision in (0.476, 0.489, 0.502)),
    _ced("tiny", 192, 0.481),
    _ced("mini", 256, 0.490),
    _ced("small", 384, 0.496),
    _ced("base", 768, 0.500),
    _maest("maest-5s-pw-129e", 281),
    *(_maest(f"maest-10s-{start}", 560) for start in ("fs-129e", "pw-129e", "dw-75e")),
    _maest("maest-20s-pw-129e", 1127),
    *(_maest(f"maest-30s-{start}", 1685) for start in ("pw-129e", "pw-73e-ts")),
    _maest("maest-30s-pw-129e-519l", 1685, 519),
)
HUB_IDS = {model.name: model.hub_id for model in MODELS}
