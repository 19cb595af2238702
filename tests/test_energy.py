"""Energy as Linux counts it: packages are added up, counters begin anew, and what is not known is not made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from unmask.run.energy import Energy


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, and a part of the first, which is in it already."""
    for name, most in (("intel-rapl:0", 999_999_999), ("intel-rapl:1", 999_999_999), ("intel-rapl:0:0", 10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text(f"{most}\n", encoding="ascii")
        (tmp_path / name / "energy_uj").write_text("500000000\n", encoding="ascii")
    return tmp_path


def set_counter(powercap: Path, package: int, microjoules: int) -> None:
    (powercap / f"intel-rapl:{package}" / "energy_uj").write_text(f"{microjoules}\n", encoding="ascii")


def test_packages_are_added_up_over_a_counter_that_begins_anew(powercap: Path) -> None:
    energy = Energy(powercap)
    assert energy.joules == 0
    set_counter(powercap, 0, 502_000_000)
    energy.sample()
    assert energy.joules == pytest.approx(2)
    set_counter(powercap, 1, 100_000_000)  # 500 J to the end of the counter, and 100 J after it
    energy.sample()
    assert energy.joules == pytest.approx(602)


def test_an_earlier_part_is_added_or_the_whole_is_unknown(powercap: Path) -> None:
    energy = Energy(powercap)
    energy.add(40.0)
    assert energy.joules == 40
    energy.add(None)
    energy.sample()
    assert energy.joules is None


def test_where_nothing_can_be_read_nothing_is_said(powercap: Path, tmp_path: Path) -> None:
    assert Energy(tmp_path / "absent").joules is None
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    assert Energy(powercap).joules is None
