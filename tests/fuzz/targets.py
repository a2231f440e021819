"""What is fuzzed: for each target its good inputs, what is done with an input, and which errors that may raise."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astfast import labels
from astfast.audio.inputs import load_audio
from astfast.backends import Choice, choose
from astfast.engines.load import engine_for
from astfast.errors import AstfastError, AudioError, CheckpointError
from astfast.models import recognise
from astfast.models.ast.hugging_face import MODEL_FIELDS
from tests import ROOT
from tests.fuzz import native_calls

SAMPLES = ROOT / "samples"
HEARD = 5 * 16_000  # samples that a model reads of a clip


class Target(NamedTuple):
    """One reader of bytes. ``run`` gets an input and a folder of its own; it may raise ``allowed`` and nothing else."""

    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes, Path], None]
    allowed: tuple[type[Exception], ...]
    tokens: tuple[bytes, ...]  # words of the format


# Checkpoints ----------------------------------------------------------------------------------------------------------


@cache
def folders() -> dict[str, Path]:
    """Small good checkpoints in every layout, written once a process."""
    from tests.cases import checkpoints

    root = Path(tempfile.mkdtemp(prefix="astfast-fuzz-"))
    config = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 24, "num_attention_heads": 2}
    model = checkpoints.random_model(**config)
    checkpoints.write_authors(model, root / "ast.pth")
    return {
        "v4": checkpoints.write_v4(model, root / "v4"),
        "v5": checkpoints.write_v5(model, root / "v5"),
        "bin": checkpoints.write_bin(model, root / "bin"),
        "root": root,
    }


def read_all(path: Path) -> None:
    """Opens a checkpoint and reads every weight, as a backend does that packs it."""
    from tests.cases.checkpoints import GEOMETRY

    loaded = recognise.load(path, **{**GEOMETRY, "num_attention_heads": 2})
    loaded.family.pack(reference(), loaded.weights)


@cache
def reference():
    from astfast.backends.reference import ReferenceOps

    return ReferenceOps(2)


def run_safetensors(data: bytes, folder: Path) -> None:
    (folder / "x.safetensors").write_bytes(data)
    read_all(folder / "x.safetensors")


def run_torch(data: bytes, folder: Path) -> None:
    (folder / "x.pth").write_bytes(data)
    read_all(folder / "x.pth")


def run_pickle(data: bytes, folder: Path) -> None:
    """A zip whose data.pkl is the input: a mutated archive rarely gets past its checksums."""
    with zipfile.ZipFile(folder / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", data)
        for key in range(40):
            archive.writestr(f"x/data/{key}", bytes(33_000))
    read_all(folder / "x.pth")


def pickles() -> list[bytes]:
    with zipfile.ZipFile(folders()["bin"] / "pytorch_model.bin") as archive:
        return [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]


def torch_files() -> list[bytes]:
    """As torch writes them today, and as it did before 1.6."""
    import torch

    archives = [folders()["root"] / "ast.pth", folders()["bin"] / "pytorch_model.bin"]
    old = io.BytesIO()
    torch.save(torch.load(archives[0]), old, _use_new_zipfile_serialization=False)
    return [*(path.read_bytes() for path in archives), old.getvalue()]


@cache
def cpu() -> Choice:
    return choose("cpu", "cpu", 1)


SEPARATOR = b"\n\0\n"


def run_config(data: bytes, folder: Path) -> None:
    """config.json and preprocessor_config.json beside good weights: loaded, and a second of noise tagged."""
    config, _, preprocessor = data.partition(SEPARATOR)
    weights = folder / "model.safetensors"
    if not weights.exists():
        shutil.copy(folders()["v4"] / "model.safetensors", weights)
    (folder / "config.json").write_bytes(config)
    (folder / "preprocessor_config.json").write_bytes(preprocessor)
    checkpoint = recognise.load(folder)
    engine = engine_for(cpu().open(checkpoint.config.num_attention_heads, "float32"), checkpoint, 1)
    noise = np.random.default_rng(0).standard_normal(checkpoint.config.front_end.sampling_rate)
    if checkpoint.config.front_end.input_samples < 2_000_000:
        engine.logits([noise.astype(np.float32)])


def configs() -> list[bytes]:
    folder = folders()["v4"]
    files = [(folder / name).read_bytes() for name in ("config.json", "preprocessor_config.json")]
    named = json.loads(files[0])
    bare = {name: value for name, value in named.items() if name in MODEL_FIELDS or name == "model_type"}
    return [SEPARATOR.join(files), SEPARATOR.join([json.dumps(bare).encode(), files[1]])]


def run_labels(data: bytes, folder: Path) -> None:
    path = folder / ("labels.csv" if data[:1] < b"\x80" else "labels.txt")
    path.write_bytes(data[1:])
    labels.read(path)


def label_files() -> list[bytes]:
    table = 'index,mid,display_name\n0,/m/1,Speech\n1,/m/2,"Child, speech"\n'
    return [b"a" + table.encode(), b"a\xef\xbb\xbf" + table.encode(), b"\xffdog\nrain\n"]


# Audio ----------------------------------------------------------------------------------------------------------------


def run_decode(data: bytes, folder: Path) -> None:
    """As bytes, as a file object, or as a file by one of several names, which the first byte chooses."""
    route, content = (data[0] if data else 0), data[1:]
    if route % 4 == 0:
        load_audio(content, max_samples=HEARD)
    elif route % 4 == 1:
        load_audio(io.BytesIO(content), max_samples=HEARD)
    else:
        path = folder / f"x.{('wav', 'mp3', 'ogg', 'flac', 'm4a', 'snd', 'bin', 'aiff')[route // 4 % 8]}"
        path.write_bytes(content)
        load_audio(path, max_samples=HEARD if route % 4 == 2 else None, max_duration=3600.0)


def recordings() -> list[bytes]:
    """Half a second of noise and a chirp in every format that libsndfile writes here."""
    import soundfile

    rng = np.random.default_rng(0)
    t = np.arange(8000) / 16_000
    wave = np.stack([0.3 * np.sin(2000 * t * t * 6.28), 0.1 * rng.standard_normal(8000)], axis=1)
    kinds = {
        "WAV": ("PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM", "MS_ADPCM"),
        "RF64": ("PCM_16",),
        "AIFF": ("PCM_16",),
        "AU": ("PCM_16",),
        "CAF": ("PCM_16", "ALAC_16"),
        "FLAC": ("PCM_16", "PCM_24"),
        "OGG": ("VORBIS", "OPUS"),
        "MP3": ("MPEG_LAYER_III",),
    }
    found = []
    for form, subtypes in kinds.items():
        for subtype in subtypes:
            file = io.BytesIO()
            soundfile.write(file, wave, 16_000, format=form, subtype=subtype)
            found += [bytes([route]) + file.getvalue() for route in (0, 1, 2)]
    return found


# Words of the formats, to be written into inputs.
AUDIO = b"RIFF RF64 BW64 WAVE data LIST ds64 fLaC OggS ID3 Xing Info VBRI FORM AIFF COMM SSND caff desc .snd OpusHead"
MORE_AUDIO = (b"fmt ", b"\x01vorbis", b"ftypM4A ", b"\xff\xfb\x90\x64", b"#!AMR\n", b"\x1aE\xdf\xa3", b"\xff" * 4)
HEADER = b'"dtype":"F32" "BF16" "I64" "shape":[1] "data_offsets":[0,4] { } [ "__metadata__":{} 1e400 \\ud800 null'
ARCHIVE = b"PK\x03\x04 PK\x01\x02 PK\x05\x06 PK\x06\x07 PK\x06\x06 data.pkl byteorder big"
OPCODES = b"} ] ( ) t u s Q R b e . a h\x00 q\x00"
NUMBERED = b"r\xff\xff\xff\x7f \x86 \x8a\xff \x94 \x93 \x81 K\x00 J\xff\xff\xff\xff \x8f\x90"
GLOBALS = (
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n)R"),
    b"cos\nsystem\n",
)
CONFIG = (
    b'"hidden_size": "max_length": "time_stride": "sampling_rate": "head_dim": "mean": "std": "num_mel_bins": '
    b'"id2label":{"0":"a"}, "do_normalize":false, "layer_norm_eps": "patch_size": "qkv_bias": "problem_type": '
    b'true null {} [16,16] "gelu" 1e308 -1'
)

TARGETS = {
    "decode": Target(recordings, run_decode, (AudioError,), (*AUDIO.split(), *MORE_AUDIO, b"<html>")),
    "safetensors": Target(
        lambda: [(folders()[name] / "model.safetensors").read_bytes() for name in ("v4", "v5")],
        run_safetensors,
        (CheckpointError,),
        (*HEADER.split(), b"9" * 5000, b"[" * 300),
    ),
    "torch": Target(torch_files, run_torch, (CheckpointError,), tuple(ARCHIVE.split(b" "))),
    "pickle": Target(pickles, run_pickle, (CheckpointError,), (*OPCODES.split(b" "), *NUMBERED.split(b" "), *GLOBALS)),
    "config": Target(configs, run_config, (CheckpointError,), (*CONFIG.split(), b"[" * 300)),
    "labels": Target(
        label_files,
        run_labels,
        (CheckpointError,),
        (*b'index display_name " , "" -1 \xff'.split(), b"\n", b"\r", b"\0", b"\xef\xbb\xbf", b"9" * 5000),
    ),
    "native": Target(
        native_calls.seeds, native_calls.run, (ValueError, TypeError, AstfastError), (b"\0" * 8, b"\xff" * 8)
    ),
}
