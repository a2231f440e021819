"""The README's snippets and commands, as written, where everything that they name is; a hub cache is the hub."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.cases import checkpoints

HUB_ID = "MIT/ast-finetuned-audioset-10-10-0.4593"
TEXT = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if "astfast " in line
]
ELSEWHERE = {  # commands that other tests run, with what they need here
    "-i URL": "ffmpeg: tests/commands/test_tag.py",
    "/data": "a folder of that name: tests/commands/test_tag_volume.py",
    "--ray": "a cluster: tests/integrations/test_ray.py",
    "ced-mini": "the hub: tests/test_published_models.py",
    "doctor": "every backend: tests/commands/test_doctor.py",
    "bench": "a minute: tests/commands/test_bench.py",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples, recordings and a list of them, checkpoints of three epochs, a model in the hub's cache."""
    place = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "samples", place / "samples")
    shutil.copytree(ROOT / "samples", place / "recordings")
    (place / "clips.csv").write_text("path,site\nsamples/dog.ogg,yard\nsamples/rain.ogg,roof\n")
    for epoch in (3, 4, 5):
        model = checkpoints.random_model(
            epoch, num_labels=35, max_length=128, num_mel_bins=128, frequency_stride=10, time_stride=10
        )
        checkpoints.write_authors(model, place / f"epoch{epoch}.pth")
    repository = place / "hub" / ("models--" + HUB_ID.replace("/", "--"))
    checkpoints.write_v4(checkpoints.random_model(num_labels=527), repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_the_snippets_run_as_written_and_give_what_they_say() -> None:
    """One after another, in a process of their own, since huggingface_hub reads its environment once."""
    shown = """
first = astfast.load()
print(first.classify("samples/dog.ogg")[0])
print([segment["tags"][0]["label"] for segment in first.segments(scene, window=5, sampling_rate=16000)][:3])
"""
    program = "\n".join(SNIPPETS) + shown
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '{"score": 0.83, "label": "dog"}' in SNIPPETS[0]
    assert re.search(r"'score': 0\.83\d*, 'label': 'dog'", done.stdout), done.stdout
    assert "['dog', 'rain', 'rooster']" in done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if not any(part in c for part in ELSEWHERE)])
def test_a_command_runs_as_written(command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", command.replace("astfast ", f"{shlex.quote(sys.executable)} -m astfast ", 1)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
