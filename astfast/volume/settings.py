"""What changes the results of a run: two runs with the same settings give the same tags of the same input."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astfast import cache
from astfast.file_identity import identity
from astfast.models import recognise

RESULTS_VERSION = 2  # raised by a change that gives other results of the same input, model and options
HASHES = "model_hashes.json"  # in the cache
BLOCK = 1 << 20


def model_hash(sources: Sequence[str | Path | None], options: Mapping[str, Any]) -> str:
    """SHA-256 of the models that ``astfast.load`` would load: their configs and the contents of their files."""
    digest = hashlib.sha256()
    for source in sources:
        checkpoint = recognise.load(source, **options)
        digest.update(repr((checkpoint.family.name, checkpoint.layout, checkpoint.config)).encode())
        for path in checkpoint.paths:
            digest.update(bytes.fromhex(_file_hash(path)))
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    """SHA-256 of a file, remembered by its identity."""
    key = identity(path)
    known = cache.read(HASHES).get(key)
    if isinstance(known, str) and len(known) == 64:
        return known
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    found = digest.hexdigest()
    cache.update(HASHES, lambda hashes: hashes.update({key: found}))
    return found
