"""The kernels of the tiers above AVX2 on any machine: the native tests again, on a build that emulates them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.emulation import native_build

pytestmark = native_build.emulates
# The precisions for which a tier has kernels of its own.
OWN = {
    "avx_vnni": ("int8",),
    "avx512": ("float32", "bfloat16", "int8"),
    "avx512_vnni": ("int8",),
    "avx512_bf16": ("bfloat16", "int8"),
    "amx": ("bfloat16", "int8"),
}
REPEATED = "(float32 and (vnni or bf16 or amx)) or (bfloat16 and vnni)"  # by kernels of a tier below
CPU = [
    f"backends/cpu/test_{name}.py"
    for name in ("ops", "token_merging", "extreme_numbers", "quantisation", "math", "invariance", "model")
]
FILES = [*CPU, "backends/test_log_mel.py"]
LONG = "10-10 or 12-12 or 14-14 or speech"
ANY = "avx_vnni or avx512 or amx"
QUICK = f"({ANY} or every_tier or transformers) and not ({LONG})"  # the last two run all tiers at once
SLOW = f"(({ANY} or transformers) and ({LONG})) or (({ANY}) and (at_base or published))"


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = native_build.emulated_source(tmp_path_factory.mktemp("source"))
    return native_build.build(source, tmp_path_factory.mktemp("emulated"), native_build.EMULATION_FLAGS)


def outcomes(package: Path, files: list[str], selected: str, *options: str) -> dict[str, Counter[str]]:
    """How many tests of each tier passed and failed, "" for those of all tiers at once; "log" has the end of it all."""
    report = package / "report.xml"
    done = native_build.run_tests(
        package, files, ["-k", f"({selected}) and not ({REPEATED})", f"--junitxml={report}", *options]
    )
    assert done.returncode in (0, 1), (done.stdout + done.stderr)[-4000:]
    counts: dict[str, Counter[str]] = {tier: Counter() for tier in ("", *OWN)}
    for case in ElementTree.parse(report).iter("testcase"):
        tier = case.attrib["name"].rstrip("]").split("-")[-1]
        failed = case.find("failure") is not None or case.find("error") is not None
        counts[tier if tier in OWN else ""]["failed" if failed else "passed"] += 1
        assert case.find("skipped") is None, case.attrib["name"]
    if done.returncode:
        print(done.stdout[-4000:])
    return counts


def test_each_tier_runs_its_own_kernels(emulated: Path) -> None:
    script = (
        "import json, astfast._native as native;"
        f"own = json.loads({json.dumps(OWN)!r});"
        "print(json.dumps({t: [p for p in own[t] if native.ComputeContext(t, p, 1).tier == t] for t in own}))"
    )
    done = native_build.run_python(emulated, script)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {tier: list(own) for tier, own in OWN.items()}


def test_every_tier_passes_the_native_tests(emulated: Path) -> None:
    counts = outcomes(emulated, FILES, QUICK)
    assert not any(count["failed"] for count in counts.values()), counts
    assert all(count["passed"] for count in counts.values()), counts


@pytest.mark.slow
def test_every_tier_passes_the_slow_native_tests(emulated: Path) -> None:
    """Real sizes: more row blocks, panels and keys than the small ones have."""
    counts = outcomes(emulated, FILES, SLOW, "-m", "slow or not slow")
    assert not any(count["failed"] for count in counts.values()), counts
    assert all(count["passed"] for count in counts.values()), counts


@pytest.mark.slow
def test_planted_bugs_are_caught_where_they_are(tmp_path: Path) -> None:
    """A tile of B that is its neighbour, and what sums start from taken from the wrong columns."""
    bugs = {
        "amx_tiles-inl.h": ("b + b_second", "b"),
        "vnni_gemm-inl.h": ("::kPanel * 4 + vector * kBytes", "::kPanel * 4"),
    }
    source = native_build.emulated_source(tmp_path / "source")
    for name, (right, wrong) in bugs.items():
        code = (source / "csrc" / name).read_text()
        assert code.count(right) == 1
        (source / "csrc" / name).write_text(code.replace(right, wrong))
    package = native_build.build(source, tmp_path / "package", native_build.EMULATION_FLAGS)
    counts = outcomes(package, ["backends/cpu/test_ops.py"], f"at_most_twice and (odd or tiny) and ({ANY})")
    assert counts["amx"]["failed"]
    assert counts["avx_vnni"]["failed"]
    assert counts["avx512_vnni"]["failed"]
    assert counts["avx512"]["passed"]
    assert not counts["avx512"]["failed"]
