from __future__ import annotations

import pytest
import torch

from unmask.model import precision
from unmask.model.precision import pick_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_was_asked_is_taken(wanted: str, device: torch.device) -> None:
    assert pick_precision(wanted, device) == (wanted, f"computing in {wanted}")


@pytest.mark.parametrize(("half", "taken"), [(0.25, "bf16"), (0.9, "fp32"), (4.0, "fp32")])
def test_on_a_cpu_it_is_measured(monkeypatch: pytest.MonkeyPatch, half: float, taken: str) -> None:
    monkeypatch.setattr(precision, "_ratio", lambda: 1.0 / half)
    found, why = pick_precision("auto", CPU)
    assert found == taken
    assert ("slower here" if half > 1 else f"{1 / half:.1f} times as fast") in why


def test_on_mps_nothing_is_measured() -> None:
    assert pick_precision("auto", torch.device("mps"))[0] == "fp32"


def test_the_measurement_itself_ends_with_one_of_both() -> None:
    found, why = pick_precision("auto", CPU)
    assert found in ("fp32", "bf16")
    assert why.startswith(f"computing in {found}")


@pytest.mark.parametrize(("supported", "taken"), [(True, "bf16"), (False, "fp32")])
def test_on_a_gpu_its_abilities_decide(monkeypatch: pytest.MonkeyPatch, supported: bool, taken: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert pick_precision("auto", CUDA)[0] == taken
