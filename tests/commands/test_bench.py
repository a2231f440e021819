"""``astfast bench``: its table and its options."""

import pytest

from astfast.backends import module_of
from astfast.benchmarking.compare import Row
from astfast.benchmarking.timing import Spread
from astfast.commands import bench
from astfast.commands.main import main


def test_table_shows_every_column() -> None:
    spread = Spread(1.0, 2.0, 3.0)
    head, *rows = bench.table_of([Row("openvino", "int8", "amx", "1", 8, spread, 0.01, spread)]).splitlines()
    assert "speed-up over this engine" in head
    (row,) = rows
    for shown in ("8", "openvino", "int8", "2 (1 to 3)", "500", "2.00x (1.00x to 3.00x)", "1.0e-02", "amx"):
        assert shown.replace("1.00x to 3.00x", "1.00 to 3.00") in row


def test_precisions_are_those_of_the_cpu_backend(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "--precision", "float8"])
    message = capsys.readouterr().err
    for precision in module_of("cpu").precisions():
        assert precision in message
