"""Clips per second of published models on this machine, as ``astfast bench`` measured them last."""

from __future__ import annotations

from astfast import cache
from astfast.catalogue import published

FILE = "speeds.json"


def measured() -> dict[str, dict[str, float]]:
    """Name of a published model -> precision -> clips per second."""
    return {
        name: {precision: rate for precision, rate in rates.items() if isinstance(rate, float)}
        for name, rates in cache.read(FILE).items()
        if isinstance(rates, dict)
    }


def remember(model: str, precision: str, clips_per_second: float) -> None:
    """Keeps a measurement of a published model, by its name or hub id; one of another model is left out."""
    known = published(model)
    if known is not None:
        cache.update(FILE, lambda speeds: speeds.setdefault(known.name, {}).update({precision: clips_per_second}))
