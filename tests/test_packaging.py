"""What a newcomer installs: a light import, one top-level package, a wheel that runs anywhere."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import ROOT

HEAVY = ("torch", "transformers", "scipy", "matplotlib", "triton", "numpy")


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )


def test_import_is_light_and_quick() -> None:
    """No heavy package, and no more CPU time than Python itself takes to start, some 20 ms: both are measured here, and
    waiting for a core counts for neither. It is a quarter of that."""
    code = "import sys; {} print(time.process_time()); print(*sys.modules)"
    times = {}
    for statement in ("import time;", "import time, astfast;"):
        runs = [python("-c", code.format(statement)).stdout.splitlines() for _ in range(5)]
        times[statement] = min(float(run[0]) for run in runs)
    assert not {name.split(".")[0] for name in runs[0][1].split()} & set(HEAVY)
    started, imported = times.values()
    assert imported <= 2 * started, f"import astfast takes {imported - started:.3f} s, a start {started:.3f} s"


def test_tagging_on_the_cpu_imports_no_torch(tmp_path: Path) -> None:
    sample = next((ROOT / "samples").glob("*.ogg"))
    code = (
        "import sys, astfast; "
        f"astfast.load(device='cpu', precision='float32').classify({str(sample)!r}); "
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'scipy', 'matplotlib'}))"
    )
    assert python("-c", code).stdout.strip() == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of what git tracks, so that nothing of this checkout's builds gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-q", "-w", folder, source],
        check=True,
        env={**os.environ, "ASTFAST_REQUIRE_NATIVE": "1"},
    )
    return next(folder.glob("*.whl"))


def test_wheel_has_one_top_level_package_and_all_that_it_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"astfast"}
    for needed in (
        "astfast/kernels/__init__.py",
        "astfast/py.typed",
        "astfast/_native.pyi",
        "astfast/data/audioset.csv",
        "astfast/data/builtin/model.safetensors",
        "astfast/data/builtin/ATTRIBUTION.md",
    ):
        assert needed in names
    assert any(re.match(r"astfast/_native.*\.so$", name) for name in names)


def test_wheel_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    python("-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel))
    code = (
        "import astfast, astfast.kernels, numpy, pathlib; "
        f"assert pathlib.Path(astfast.__file__).is_relative_to({str(target)!r}); "
        "print(astfast.load(precision='float32').classify(numpy.zeros(16000), sampling_rate=16000)[0]['label'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_build_sets_no_machine_or_maths_flags() -> None:
    text = (ROOT / "setup.py").read_text().split('"""', 2)[2]
    assert not re.search(r"-march|-mtune|-ffast-math|-Ofast|-flto", text)


@pytest.mark.parametrize(("variables", "succeeds"), [({}, False), ({"ASTFAST_REQUIRE_NATIVE": "0"}, True)])
def test_an_install_without_a_compiler_fails_unless_asked_otherwise(
    variables: dict[str, str], succeeds: bool, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ASTFAST_REQUIRE_NATIVE"}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path],
        cwd=ROOT,
        env={**environment, "CC": "no-such-compiler", "CXX": "no-such-compiler", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == succeeds
    said = "install a C++17 compiler" in done.stderr and "ASTFAST_REQUIRE_NATIVE=0" in done.stderr
    assert said != succeeds
    assert not list(tmp_path.rglob("*.so"))


def test_a_source_folder_without_the_engine_says_where_to_go(tmp_path: Path) -> None:
    """What ``pip install .`` and then Python in the checkout comes to: this package hides the installed one."""
    shutil.copytree(
        ROOT / "astfast", tmp_path / "astfast", copy_function=os.symlink, ignore=shutil.ignore_patterns("_native*.so")
    )
    (tmp_path / "csrc").mkdir()
    code = (  # an editable installation, as this one may be, would find the engine of another folder
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)];"
        "import astfast; astfast.load(backend='cpu')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    message = done.stderr.splitlines()[-1]
    assert f"this is astfast's source folder, {tmp_path}, where Python finds it before one" in message
    assert "start Python in another folder, or build it in this one with pip install -e ." in message


def test_extras_that_messages_and_documents_name_are_there() -> None:
    """And none is installed by a name that may be somebody else's: only from a checkout, or as astfast[extra]."""
    there = set(
        re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text().split("optional-dependencies]")[1], re.M)
    )
    sources = [*(ROOT / "astfast").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    named = {name for path in sources for name in re.findall(r"(?:astfast|\.)\[([a-z0-9]+)\]", path.read_text())}
    assert "ffmpeg" in named
    assert named <= there, named - there
