"""The native module is the one that these sources describe."""

import re
import sys
from types import ModuleType

import pytest

import astfast
from astfast.backends.cpu import tiers
from astfast.commands.main import main
from astfast.errors import BackendError


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that was built before the last change of its stub, in the place of the real one."""
    module = ModuleType("astfast._native")
    module.__file__ = "/somewhere/_native.so"
    monkeypatch.setitem(sys.modules, "astfast._native", module)
    monkeypatch.setattr(astfast, "_native", module, raising=False)
    monkeypatch.setattr(tiers, "native", tiers.native.__wrapped__)  # which remembers nothing
    return module


@pytest.mark.parametrize("checksum", [None, 0])
def test_a_module_of_other_sources_is_named_with_the_cure(stale: ModuleType, checksum: int | None) -> None:
    if checksum is not None:
        stale.stub_crc32 = checksum  # type: ignore[attr-defined]
    cure = r"/somewhere/_native.so was built from other sources.*python setup.py build_ext --inplace in .*install"
    with pytest.raises(BackendError, match=cure):
        tiers.native()


@pytest.mark.usefixtures("stale")
def test_loading_and_doctor_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BackendError, match=r"the cpu backend can't run.*was built from other sources than these"):
        astfast.load(backend="cpu").warmup()
    main(["doctor"])
    assert re.search(r"cpu +no: the native module .* was built from other sources", capsys.readouterr().out)


def test_the_module_in_use_is_of_these_sources() -> None:
    assert tiers.native.__wrapped__() is tiers.native()
