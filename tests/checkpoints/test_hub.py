"""The model hub: what it answers, or doesn't, is a model or an error within its time limit.

The published checkpoint of Speech Commands on its anchor clip needs the real one (pytest -m network); all others are
in test_published_models.py.
"""

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astfast.backends.reference import ReferenceOps
from astfast.checkpoints import hub
from astfast.errors import CheckpointError
from astfast.models import vit
from astfast.models.recognise import load

COMMIT = "c" * 40
NOBODY = "http://127.0.0.1:9"  # an address at which nothing listens
TOLERANCE = 1e-4
SPEECH_COMMANDS_ANCHOR = (6.1589, -8.0566, -8.7984)


class Hub(http.server.BaseHTTPRequestHandler):
    """A model hub with one model, owner/tiny, whose files are those of ``folder``."""

    folder: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        name = self.path.split("?")[0].rsplit("/", 1)[-1]
        if self.path.startswith("/api/models/owner/tiny"):
            files = [{"rfilename": path.name} for path in sorted(self.folder.iterdir())]
            self.reply(json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": files}).encode(), body)
        elif self.path.startswith("/owner/tiny/resolve/") and (self.folder / name).is_file():
            self.reply((self.folder / name).read_bytes(), body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def reply(self, content: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hash(content) & 0xFFFFFFFF:x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(tiny_model: Path, tmp_path: Path) -> Iterator[str]:
    """Address of a hub on this machine that also has files that nobody asked for."""
    folder = tmp_path / "hub"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"not needed beside model.safetensors")
    (folder / "training.log").write_bytes(b"not needed at all")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Hub,), {"folder": folder}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a hub that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """A function that loads a model with this address as the hub's; notes on it are warnings."""
    from huggingface_hub import constants

    def loaded(model: str, address: str, offline: bool = False, **options: Any) -> Any:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.3)
        return load(model, cache_dir=tmp_path / "cache", **options)

    return loaded


def test_a_model_is_downloaded_once_and_then_at_hand(
    endpoint: str, silent: str, tmp_path: Path, use: Callable[..., Any], recwarn: pytest.WarningsRecorder
) -> None:
    config = use("owner/tiny", endpoint).config
    (asked,) = recwarn
    assert str(asked.message).startswith("owner/tiny is no local file or folder and not in the cache: asking the model")
    fetched = {path.name for path in tmp_path.rglob(f"snapshots/{COMMIT}/*")}
    assert fetched == {"config.json", "preprocessor_config.json", "model.safetensors"}
    for address, options, warned in (
        (endpoint, {}, False),
        (NOBODY, {"offline": True}, False),
        (NOBODY, {"local_files_only": True}, False),
        (NOBODY, {}, True),
        (silent, {}, True),
    ):
        recwarn.clear()
        assert use("owner/tiny", address, **options).config == config
        taken = [
            str(w.message) for w in recwarn if "taken from the cache, since the model hub can't be" in str(w.message)
        ]
        assert len(taken) == len(recwarn) == warned


@pytest.mark.parametrize(
    ("model", "kind", "options", "message"),
    [
        ("owner/other", "there", {}, "owner/other can't be had from the model hub (404"),
        ("models/mistyped", "silent", {}, "is not in the local cache and can't be downloaded (timed out)"),
        ("owner/tiny", "nobody", {}, "can't be downloaded ([Errno 111] Connection refused)"),
        ("owner/tiny", "nobody", {"offline": True}, "can't be downloaded (HF_HUB_OFFLINE is on)"),
        ("owner/tiny", "nobody", {"local_files_only": True}, "can't be downloaded (local_files_only is on)"),
        ("owner/" + "x" * 100, "nobody", {}, "can't be the name of a model"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*asking the model hub")
def test_what_the_hub_does_not_give_is_an_error_at_once(
    model: str,
    kind: str,
    options: dict[str, Any],
    message: str,
    endpoint: str,
    silent: str,
    use: Callable[..., Any],
) -> None:
    address = {"there": endpoint, "silent": silent, "nobody": NOBODY}[kind]
    with pytest.raises(CheckpointError) as raised:
        use(model, address, **options)
    text = str(raised.value)
    assert text.startswith(f"{model} ")
    assert message in text
    assert f"There is no local file or folder '{model}' either" in text
    assert "Download it once while online, or pass a local folder." in text


@pytest.mark.parametrize("path", ["~nosuchuser/model", "x" * 300, "a\0b"])
def test_paths_that_can_not_be(path: str) -> None:
    with pytest.raises(CheckpointError, match=r"can't be a file or folder|is no file or folder here"):
        load(path)


def first_logits(model: str, wave: np.ndarray) -> np.ndarray:
    try:
        checkpoint = load(model)
    except CheckpointError as error:
        if "can't be downloaded" not in str(error):
            raise
        pytest.skip(f"the model hub can't be reached: {error}")
    ops = ReferenceOps(checkpoint.config.num_attention_heads)
    features = ops.log_mel([wave], checkpoint.config.front_end)
    with torch.no_grad():
        ws = dict.fromkeys(vit.workspace(checkpoint.config))
        return vit.forward(ops, vit.pack(ops, checkpoint.weights), features, ws)[0, :3].numpy()


@pytest.mark.network
def test_speech_commands_anchor():
    datasets = pytest.importorskip("datasets", reason="the anchor clip is read with the datasets package")
    try:
        clips = datasets.load_dataset("google/speech_commands", "v0.02", split="validation", streaming=True)
        wave = np.asarray(next(iter(clips))["audio"]["array"], np.float32)
    except (OSError, ValueError, RuntimeError) as error:
        pytest.skip(f"the anchor clip can't be downloaded: {error}")
    logits = first_logits("MIT/ast-finetuned-speech-commands-v2", wave)
    assert np.abs(logits - SPEECH_COMMANDS_ANCHOR).max() <= TOLERANCE


def test_a_file_of_a_data_set_that_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"clip\.flac of the data set owner/set can't be had from the model hub"):
        hub.dataset_file("owner/set", "clip.flac")
