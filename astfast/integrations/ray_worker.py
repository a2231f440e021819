"""What runs on a worker of Ray: a model, and inputs that are decoded and tagged there."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from astfast.engines.base import Batch
from astfast.engines.load import load_engine
from astfast.errors import BackendError
from astfast.integrations.ray_models import Sent
from astfast.volume import run
from astfast.volume.inputs import Input
from astfast.volume.items import Item
from astfast.volume.options import Options
from astfast.volume.progress import Progress
from astfast.volume.scoring import Values
from astfast.volume.workers import ThisProcess

MEMORY = 1e9  # bytes that a worker asks for beside twice its model's


class Share(NamedTuple):
    """What a worker gets of its node: Ray's resources of that name."""

    num_cpus: float
    num_gpus: float
    memory: float  # bytes


def shares(count: int | None, cpus: int | None, gpus: float | None, spare: int = 0) -> tuple[int, Share]:
    """How many workers, and what each gets, of the cluster that is connected.

    ``count``: None: one for each GPU, or without any one for each node. ``cpus``, ``gpus``: of each; None: its part of
    the node's processors, of which ``spare`` are left to others, and a GPU if there are any.

    Raises BackendError for a cluster without a processor, or with fewer GPUs than a worker is to have.
    """
    import ray

    if not ray.is_initialized():
        ray.init()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not nodes:
        raise BackendError("ray: no node of the cluster has a processor to spare: add one")
    all_gpus = sum(node.get("GPU", 0.0) for node in nodes)
    of_gpu = (1.0 if all_gpus else 0.0) if gpus is None else gpus
    if of_gpu > all_gpus:
        raise BackendError(f"ray: {of_gpu:g} GPUs for each worker, and the cluster has {all_gpus:g}: ask for less")
    if count is None:
        count = max(1, int(all_gpus / of_gpu)) if of_gpu else len(nodes)
    on_a_node = math.ceil(count / len(nodes))
    return count, Share(cpus or max(1, int((min(node["CPU"] for node in nodes) - spare) // on_a_node)), of_gpu, MEMORY)


class About(NamedTuple):
    """What a worker is."""

    labels: tuple[str, ...]
    sampling_rate: int  # Hz
    backend: str
    hardware: str
    decoders: int
    fetched: bool  # whether it had to fetch the model


class Tagged(NamedTuple):
    """Inputs that a worker is done with, and how long its parts were at it."""

    inputs: list[Input]
    decoding: float  # seconds of all decoders together
    computing: float  # seconds of the model, since this was last told


class Worker:
    """A model on a share of a node. Calls from several threads overlap: one decodes while the model is the other's.

    Raises BackendError where the share can't run it, CheckpointError, and ValueError for impossible options.
    """

    def __init__(self, sent: Sent, options: Options, share: Share) -> None:
        arguments, fetched = sent.received()
        cpus = max(1, int(share.num_cpus))
        if share.num_gpus:
            options = options._replace(decoders=options.decoders or cpus)
            arguments = replace(arguments, device="cuda")
        else:
            arguments = replace(arguments, device="cpu", threads=arguments.threads or cpus)
        engine = load_engine(arguments)
        plan = ThisProcess(engine, options).plan
        self._score, self._plan = plan.scoring, plan._replace(scoring=self._timed)
        self._lock = threading.Lock()
        self._calls, self._begun, self._computing = 0, 0.0, 0.0
        self.about = About(engine.labels, engine.sampling_rate, engine.backend, engine.hardware, plan.decoders, fetched)

    def tag(self, items: Iterable[Item]) -> Tagged:
        """All of these inputs, done or failed, without their audio."""
        progress = Progress()
        inputs = [input_ for input_, row in run.events(items, self._plan, progress) if row is None]
        for input_ in inputs:
            input_.item = input_.item._replace(audio=None)
        with self._lock:
            computing, self._computing = self._computing, 0.0
        return Tagged(inputs, 0.0 if progress.reader is None else progress.reader.decoding, computing)

    def _timed(self, batch: Batch) -> Iterable[Values]:
        """The scores of a batch; calls that overlap count once."""
        with self._lock:
            self._calls += 1
            if self._calls == 1:
                self._begun = time.perf_counter()
        try:
            return self._score(batch)
        finally:
            with self._lock:
                self._calls -= 1
                if not self._calls:
                    self._computing += time.perf_counter() - self._begun
