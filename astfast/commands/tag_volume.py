"""``astfast tag`` of many inputs: folders, lists, manifests and archives, to standard output or into a folder."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import astfast
from astfast.commands import arguments
from astfast.commands.arguments import in_options
from astfast.commands.terminal import (
    ResultPrinter,
    clear_counter,
    print_counter,
    print_cut,
    print_error,
    print_event,
)
from astfast.engines.load import LoadArguments
from astfast.tagging.tagger import opened
from astfast.volume import detections, manifests
from astfast.volume.formats import beside
from astfast.volume.inputs import Input
from astfast.volume.items import Shard
from astfast.volume.options import Options
from astfast.volume.run import TooManyFailures
from astfast.volume.tag_files import Run
from astfast.volume.workers import ThisProcess, Workers

FAILURES_SHOWN = 10  # of a run into a folder, where failures.jsonl has all
PROGRESS_SECONDS = 0.5
EVENT_SECONDS = 5.0
STANDARD_INPUT = "-"


def run(options: argparse.Namespace) -> bool:
    """Tags the inputs; whether all of them could be tagged."""
    _check(options)
    asked = Options(
        top_k=options.top_k,
        threshold=options.threshold,
        activation=options.activation,
        thresholds=None if options.thresholds is None else detections.read_thresholds(options.thresholds),
        labels=None if options.labels is None else detections.read_labels(options.labels),
        window=options.window,
        hop=options.hop,
        **arguments.reading(options),
        merge=None if options.merge is None else detections.Merge(options.merge, options.shortest or 0.0),
        scores=options.scores,
        embeddings=options.embeddings,
        order=options.order or options.out is None,
        shard=options.shard,
        root=options.root,
        urls=options.urls,
        max_failures=0 if options.fail_fast else options.max_failures,
        decoders=options.decoders,
        decoding=options.decoding or "auto",
    )
    with contextlib.ExitStack() as stack:
        try:
            workers, loaded = stack.enter_context(_workers(options, asked.checked()))
            planned = Run(_source(options, asked), workers, loaded, asked)
        except ValueError as error:  # a label that the model doesn't have, a window that is too short
            raise astfast.AstfastError(str(error)) from error
        _run(planned, options)
    progress = planned.progress
    if options.shard is None and not progress.done + progress.skipped + progress.repeated:
        left_out = ", ".join(f"{count} {kind}" for kind, count in planned.sources.passed_over.items())
        raise astfast.AstfastError(f"nothing to tag: the inputs name no audio{left_out and f' ({left_out})'}")
    return not progress.failed and not progress.failed_before


def _run(planned: Run, options: argparse.Namespace) -> None:
    told = _Told(planned, options)
    with _terminated_as_interrupted(), told.progress():
        try:
            if options.out is None:
                _print_rows(planned, options, told)
            else:
                planned.into(options.out, options.format, options.overwrite, options.retry, told.finished)
        except TooManyFailures as error:
            print_error(str(error))
        except astfast.AstfastError:
            told.is_refused = not planned.progress.done
            raise
        finally:
            told.summary()


@contextlib.contextmanager
def _workers(options: argparse.Namespace, asked: Options) -> Iterator[tuple[Workers, LoadArguments]]:
    """What tags the inputs, and the arguments of its model."""
    if options.ray is None:
        engine, loaded = opened(astfast.load(options.model, **arguments.loading(options)))
        yield ThisProcess(engine, asked), loaded
        return
    from astfast.integrations import ray_cluster

    loaded = LoadArguments((options.model,), **arguments.loading(options) | {"device": "auto"})
    share = (options.workers, options.worker_cpus, options.worker_gpus)
    with ray_cluster.workers(options.ray, loaded, asked, *share) as cluster:
        yield cluster, loaded


def _check(options: argparse.Namespace) -> None:
    """Ends with a usage error for options that don't go together."""
    if STANDARD_INPUT in options.files:
        options.usage_error("- is a single audio file: it goes neither into a folder nor with lists")
    if options.ray is not None and options.replicas is not None:
        options.usage_error("--replicas pins cores, which workers of --ray may share: leave it out, or set --workers")
    if options.merge is not None and options.window is None:
        options.usage_error("--merge needs --window")
    if options.shortest is not None and options.merge is None:
        options.usage_error("--shortest needs --merge")
    if options.shard is not None:
        try:
            Shard.parse(options.shard)
        except ValueError:
            options.usage_error(f"--shard {options.shard}: write I/N, with I from 0 to N - 1")
    for name in ("workers", "worker_cpus", "worker_gpus"):
        if getattr(options, name) is not None and options.ray is None:
            options.usage_error(f"--{name.replace('_', '-')} needs --ray")
    if options.ray is not None and options.device != "auto":
        options.usage_error("--device does not go with --ray: workers with --worker-gpus take their GPU")
    for name in ("scores", "embeddings", "retry", "overwrite"):
        if getattr(options, name) and options.out is None:
            options.usage_error(f"--{name} needs --out")
    beside.check_folders(options.format, options.files)


def _source(options: argparse.Namespace, asked: Options) -> Iterable[Any]:
    """What is named on the command line, then what the list names."""
    yield from options.files
    if options.list == STANDARD_INPUT and sys.stdin is None:
        options.usage_error("--from -: standard input is closed")
    if options.list == STANDARD_INPUT:
        yield from manifests.lines(sys.stdin.buffer, asked.roots, options.null)
    elif options.list is not None:
        yield from manifests.from_file(options.list, asked.roots, options.null)


def _print_rows(planned: Run, options: argparse.Namespace, told: _Told) -> None:
    printer = ResultPrinter(
        options.format[0],
        options.window is not None,
        options.channel == "each",
        partial(in_options, options=options),
    )
    number, last = -1, None
    for row in planned.rows(told.finished):
        number, last = number + (row["id"] != last), row["id"]
        if options.window is None and options.format[0] != "jsonl":
            row.pop("start", None)
            row.pop("end", None)
        printer.print_result(number, row["file"], row)
    printer.finish()


class _Told:
    """What a run tells on standard error: failures, progress, events and the last line."""

    def __init__(self, planned: Run, options: argparse.Namespace) -> None:
        self._run, self._out, self._json = planned, options.out, options.progress == "json"
        self._line = (
            options.progress == "auto" and sys.stderr.isatty() and not (options.out is None and sys.stdout.isatty())
        )
        self._options = options
        self._failures = 0
        self.is_refused = False  # before anything was tagged

    def finished(self, done: Input) -> None:
        """An input that is done, or has failed."""
        if self._json:
            event: dict[str, Any] = {"id": done.item.id, "seconds": round(done.seconds, 3)}
            if done.error is not None:
                event = {"id": done.item.id, "error": str(done.error)}
            print_event("file_finished" if done.error is None else "file_failed", event)
        elif done.error is not None and self._out is not None:
            self._failures += 1
            if self._failures <= FAILURES_SHOWN:
                print_error(in_options(done.error, self._options))
            if self._failures == FAILURES_SHOWN:
                print_error(f"further failures are listed in {self._out}/failures.jsonl only")

    @contextlib.contextmanager
    def progress(self) -> Iterator[None]:
        """Keeps the progress line up to date, or writes events of it, while a run is on."""
        ended = threading.Event()

        def show() -> None:
            while not ended.wait(EVENT_SECONDS if self._json else PROGRESS_SECONDS):
                if self._json:
                    print_event("progress", self._run.progress.report())
                else:
                    print_counter(self._run.progress.line())

        if self._json:
            print_event("run_started", {"out": self._out})
        thread = threading.Thread(target=show, name="astfast-progress", daemon=True)
        if self._json or self._line:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if self._line:
                clear_counter()

    def summary(self) -> None:
        """The last line."""
        progress = self._run.progress
        print_cut(progress.cut)
        if self._json:
            print_event("run_finished", progress.report())
        elif (self._out is not None or self._line) and not self.is_refused:
            print_counter(f"astfast: {progress.summary()}", end="\n")


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: what is done is on the disk."""

    def interrupt(number: int, frame: object) -> None:  # noqa: ARG001
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
