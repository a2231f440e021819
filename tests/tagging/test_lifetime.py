"""Processes that end, or fork, while a tagger is loading or in a call."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import astfast
from tests.cases.recordings import RATE, clips

BEGIN = """
import atexit, sys, threading, time
import numpy as np
def last():  # registered before astfast's own, so it runs after them
    if mode == "hook": use()
atexit.register(last)
import astfast
model, path, mode = sys.argv[1:]
tagger = astfast.load(model, device="cpu", precision="float32", threads=2)
clip = np.zeros(8000, np.float32)
def use():
    assert len(tagger.classify(path)) == 5
    assert len(tagger.classify([path] * 5)) == 5
    print("used", flush=True)
"""
DAEMONS = """
started = threading.Barrier(3)
def work():
    tagger.classify(clip, sampling_rate=16000)
    started.wait()
    while True:
        tagger.classify([clip] * 8, sampling_rate=16000)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
started.wait()
time.sleep(0.02)
"""
AFTER_MAIN = """
def outlive():
    threading.main_thread().join()
    use()
threading.Thread(target=outlive).start()
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "clip.wav"
    soundfile.write(path, clips(1)[0], RATE)
    return path


def ends_well(script: str, model: Path, recording: Path, mode: str = "") -> str:
    """What a process prints that must end by itself, with status 0."""
    run = subprocess.run(
        [sys.executable, "-c", BEGIN + script, model, recording, mode],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


@pytest.mark.parametrize("repeats", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_a_process_ends_while_daemon_threads_are_in_calls(tiny_model: Path, recording: Path, repeats: int) -> None:
    for _ in range(repeats):
        ends_well(DAEMONS, tiny_model, recording)


def test_an_exit_handler_can_tag(tiny_model: Path, recording: Path) -> None:
    """Whether daemon threads hold the engine or not."""
    assert ends_well("", tiny_model, recording, "hook") == "used\n"
    assert ends_well(DAEMONS, tiny_model, recording, "hook") == "used\n"


def test_a_thread_can_tag_when_main_has_ended(tiny_model: Path, recording: Path) -> None:
    assert ends_well(AFTER_MAIN, tiny_model, recording) == "used\n"


@pytest.mark.parametrize("forks", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_a_child_that_is_forked_while_a_tagger_loads_can_tag(
    tagger: astfast.Tagger, recording: Path, forks: int
) -> None:
    for fork in range(forks):
        copy = pickle.loads(pickle.dumps(tagger))
        loader = threading.Thread(target=copy.classify, args=(recording,))
        loader.start()
        time.sleep(0.0005 * (fork % 20))  # into the loading, or the call
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # a child that hangs dies of it
            status = 1
            try:
                status = 0 if len(copy.scores(np.zeros(1000, np.float32), sampling_rate=RATE)) == 1 else 1
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        loader.join()
