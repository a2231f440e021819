"""An engine that is loaded on demand: closed, pickled and shared between threads."""

from __future__ import annotations

import threading
from typing import Any

from astfast.engines import locks
from astfast.engines.base import Engine
from astfast.engines.load import LoadArguments, anywhere, load_engine
from astfast.errors import AstfastError


class LazyEngine:
    """The engine of some ``astfast.load`` arguments. A pickled copy loads its own when it is first used."""

    def __init__(self, arguments: LoadArguments) -> None:
        self.arguments = arguments
        self._closed = False
        self.lock = threading.Lock()
        self._engine: Engine | None = None
        locks.watch(self)

    def unlock(self) -> None:
        self.lock = threading.Lock()

    def load(self) -> LazyEngine:
        """Loads the engine now; returns itself."""
        self.get()
        return self

    def get(self) -> Engine:
        """The engine, loaded by the first call. Raises AstfastError once closed, and what loading raises."""
        with locks.turn(self):
            if self._closed:
                raise AstfastError("this tagger is closed: load it again with astfast.load()")
            if self._engine is None:
                self._engine = load_engine(self.arguments)
            return self._engine

    def with_labels(self) -> Engine:
        """The engine, for a call that needs a classifier. Raises AstfastError for a model without one."""
        engine = self.get()
        if not engine.labels:
            raise AstfastError(
                f"{self} has no classifier (a bare encoder): single models can still embed() and make features()"
            )
        return engine

    def close(self) -> None:
        """Drops the engine; ``get`` raises from now on."""
        with locks.turn(self):
            self._engine, self._closed = None, True

    @property
    def about(self) -> str:
        """``Engine.about`` once loaded, else nothing: it loads no model."""
        return "" if self._engine is None else self._engine.about

    def __str__(self) -> str:
        names = ", ".join(str(source or "built-in") for source in self.arguments.sources)
        return f"{names}{' (closed)' if self._closed else ''}"

    def __getstate__(self) -> dict[str, Any]:
        return {"arguments": anywhere(self.arguments), "_closed": self._closed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["arguments"])  # type: ignore[misc]
        self._closed = state["_closed"]
