"""Several masks together, against the chain rule written out in plain transformers, and against trying everything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from unmask.inference.fill import FillMask, FillResult
from unmask.inference.predict import MaskPredictor
from unmask.model.load import load_for_inference

TWO = "Her grandmother [MASK] the [MASK] telescope."
TEXTS = [TWO, "[MASK] [MASK]", "the [MASK][MASK] of South Carolina", "Nobody [MASK] in the village, [MASK]."]


class Plain:
    """A checkpoint in plain transformers, one sequence at a time."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForMaskedLM.from_pretrained(folder).eval()
        self.special = set(self.tokenizer.all_special_ids)
        self.candidates = [id for id in range(len(self.tokenizer)) if id not in self.special]

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text.replace("[MASK]", self.tokenizer.mask_token))["input_ids"])

    def places(self, ids: list[int]) -> list[int]:
        return [place for place, id in enumerate(ids) if id == self.tokenizer.mask_token_id]

    def logs(self, rows: list[list[int]], place: int) -> Any:
        """Return the float64 log-probabilities at a place, [rows, V]."""
        import torch

        with torch.no_grad():
            return self.model(input_ids=torch.tensor(rows)).logits[:, place].double().log_softmax(-1)

    def order(self, ids: list[int]) -> list[int]:
        """The masks by their best token, that of all masked."""
        peaks = {
            place: float(self.logs([ids], place)[0, self.candidates].max()) for place in self.places(ids)
        }
        return sorted(peaks, key=lambda place: -peaks[place])

    def chain(self, ids: list[int], filling: dict[int, int]) -> dict[int, float]:
        """The log-probability of each token of a filling, in the order of confidence."""
        shown, found = list(ids), {}
        for place in self.order(ids):
            found[place] = float(self.logs([shown], place)[0, filling[place]])
            shown[place] = filling[place]
        return found

    def every_pair(self, ids: list[int]) -> list[tuple[float, tuple[int, ...]]]:
        """All fillings of two masks with their joint log-probability, best first."""
        first, second = self.order(ids)
        start = self.logs([ids], first)[0].tolist()
        rows = [
            [number if place == first else id for place, id in enumerate(ids)] for number in self.candidates
        ]
        found = []
        for number, after in zip(self.candidates, self.logs(rows, second).tolist(), strict=True):
            for other in self.candidates:
                pair = (number, other) if first < second else (other, number)
                found.append((start[number] + after[other], pair))
        return sorted(found, reverse=True)


@pytest.fixture(scope="module")
def plain(checkpoint: Callable[[str], Path]) -> Callable[[str], Plain]:
    return cache(lambda family: Plain(checkpoint(family)))


Filler = Callable[[str], FillMask]
Plains = Callable[[str], Plain]


def test_two_masks_are_ranked_as_trying_everything_ranks_them(small: Path) -> None:
    reference, fill = Plain(small), FillMask(load_for_inference(small, device="cpu"))
    orders = set()
    for text in TEXTS:
        ids = reference.ids(text)
        wanted = reference.every_pair(ids)[:8]
        orders.add(reference.order(ids) == reference.places(ids))
        result = fill(text, top_k=8, beam=61)
        assert result.exact
        assert result.ranking == "joint"
        found = [math.log(candidate.probability) for candidate in result.candidates]
        assert found == pytest.approx([value for value, _ in wanted], abs=1e-4)
        assert [tuple(candidate.token_ids) for candidate in result.candidates] == [pair for _, pair in wanted]
    assert orders == {True, False}, "the first mask always came first: the order was not tested"


def test_a_list_that_says_it_is_exact_is_that_of_trying_everything(small: Path) -> None:
    reference, fill = Plain(small), FillMask(load_for_inference(small, device="cpu"))
    exact = wrong = 0
    for text in TEXTS:
        wanted = [pair for _, pair in reference.every_pair(reference.ids(text))[:5]]
        for beam in (1, 2, 4, 8, 16, 32):
            result = fill(text, top_k=5, beam=beam)
            found = [tuple(candidate.token_ids) for candidate in result.candidates]
            exact += result.exact
            wrong += found != wanted
            assert found == wanted or not result.exact
    assert exact, "no list was exact: nothing was tested"
    assert wrong, "no beam was too narrow: nothing was tested"


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_probabilities_are_those_of_the_chain_rule(family: str, filler: Filler, plain: Plains) -> None:
    reference = plain(family)
    for text in ("[MASK] [MASK] sold the [MASK].", TWO):
        ids = reference.ids(text)
        places = reference.places(ids)
        result = filler(family)(text, top_k=3)
        assert len(result.candidates) == 3
        for candidate in result.candidates:
            logs = reference.chain(ids, dict(zip(places, candidate.token_ids, strict=True)))
            wanted = [math.exp(logs[place]) for place in places]
            assert candidate.probabilities == pytest.approx(wanted, abs=1e-5)
            assert candidate.probability == pytest.approx(math.prod(wanted), rel=1e-4)
            assert candidate.score == pytest.approx(math.log(candidate.probability))


def test_joint_and_independent_differ_and_agree_where_they_must(filler: Filler) -> None:
    joint, alone = (filler("bert")(TWO, top_k=5, ranking=ranking) for ranking in ("joint", "independent"))
    assert [c.probability for c in joint.candidates] != pytest.approx(
        [c.probability for c in alone.candidates], rel=0.01
    )
    assert joint.per_mask == alone.per_mask
    single = [
        filler("bert")("the [MASK].", ranking=ranking).candidates for ranking in ("joint", "independent")
    ]
    assert [c.token_ids for c in single[0]] == [c.token_ids for c in single[1]]
    assert [c.probability for c in single[0]] == [c.probability for c in single[1]]


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_what_is_asked_together_changes_nothing(family: str, filler: Filler) -> None:
    texts = [*TEXTS, "a ___ b", "only [MASK]", "{2} and [MASK]{1-2}"]
    alone = [filler(family)(text, top_k=3) for text in texts]
    for order, batch_size in itertools.product((1, -1), (None, 3)):
        together = filler(family).fill(texts[::order], 3, batch_size)[::order]
        for one, other in zip(alone, together, strict=True):
            assert (one.text, one.exact, one.masks) == (other.text, other.exact, other.masks)
            assert _figures(other) == pytest.approx(_figures(one), abs=1e-5)
            assert [c.tokens for c in one.candidates] == [c.tokens for c in other.candidates]


def _figures(result: FillResult) -> list[float]:
    return [
        figure
        for candidate in result.candidates
        for figure in (candidate.probability, *candidate.probabilities)
    ]


def test_many_texts_are_filled_in_parts_and_told_of(filler: Filler, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.inference import fill
    from unmask.progress import Progress

    class Heard(Progress):
        def __init__(self) -> None:
            self.told: list[object] = []

        def begin(self, phase: str) -> None:
            self.told.append(phase)

        def advance(self, share: float | None, figures: object) -> None:
            self.told.append(share)

        def end(self) -> None:
            self.told.append("end")

    texts = ["a [MASK]", "nothing", "[MASK] b", "[MASK] [MASK]", "c [MASK]"]
    whole, heard = filler("bert").fill(texts), Heard()
    monkeypatch.setattr(fill, "_TEXTS_AT_ONCE", 2)
    parts = filler("bert").fill(texts, progress=heard)
    assert [result.text for result in parts] == texts
    assert [c.tokens for r in parts for c in r.candidates] == [c.tokens for r in whole for c in r.candidates]
    assert heard.told == ["fill", 0.4, 0.8, 1.0, "end"]


# --- a list is called exact only if nothing better can be missing -------------------------------------------------

Shares = dict[str, float]


@pytest.fixture
def scripted(small: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Shares, dict[str, Shares]], FillMask]:
    """Return `make(first, second)`: fills "[MASK] [MASK]" with given probabilities, the second after each first."""
    import torch

    from unmask.data.batches import Batch
    from unmask.model.load import load_for_inference

    model = load_for_inference(small, device="cpu")

    def logs(shares: Shares) -> Any:
        rest = (1 - sum(shares.values())) / (model.vocabulary.size - len(shares))
        row = torch.full((model.vocabulary.size,), max(rest, 1e-9))
        row[model.tokenizer.convert_tokens_to_ids(list(shares))] = torch.tensor(list(shares.values()))
        return row.log()

    def make(first: Shares, second: dict[str, Shares]) -> FillMask:
        def target_logits(batch: Batch, **_: object) -> Any:
            rows = []
            for index in batch.target_index:
                before = model.tokenizer.convert_ids_to_tokens(int(batch.input_ids[index - 1]))
                rows.append(logs(first if before == "[CLS]" else second.get(before, {})))
            return torch.stack(rows)

        monkeypatch.setattr(model, "target_logits", target_logits)
        return FillMask(model)

    return make


def test_a_search_that_kept_too_few_fillings_is_not_exact(scripted: Any) -> None:
    """b was looked at and not kept, and its filling would have been the best."""
    fill = scripted(
        {"a": 0.6, "b": 0.399, "c": 0.001},
        {"a": {"x": 0.35, "y": 0.33, "z": 0.32}, "b": {"x": 0.99}, "[MASK]": {"x": 0.2, "y": 0.2}},
    )
    narrow = fill("[MASK] [MASK]", top_k=3, beam=1)
    assert [item.tokens for item in narrow.candidates] == [["a", "x"], ["a", "y"], ["a", "z"]]
    assert not narrow.exact
    wide = fill("[MASK] [MASK]", top_k=3, beam=8)
    assert [item.tokens for item in wide.candidates] == [["b", "x"], ["a", "x"], ["a", "y"]]
    assert wide.exact


def test_a_search_that_looked_at_too_few_tokens_is_not_exact(scripted: Any) -> None:
    """c was never looked at, and its filling would have been the best."""
    fill = scripted(
        {"a": 0.4, "b": 0.35, "c": 0.25},
        {"a": {"x": 0.3, "y": 0.01}, "b": {"x": 0.3}, "c": {"x": 0.99}, "[MASK]": {"x": 0.2, "y": 0.2}},
    )
    narrow = fill("[MASK] [MASK]", top_k=1, beam=2)
    assert [item.tokens for item in narrow.candidates] == [["a", "x"]]
    assert not narrow.exact
    wide = fill("[MASK] [MASK]", top_k=1, beam=8)
    assert [item.tokens for item in wide.candidates] == [["c", "x"]]
    assert wide.exact


def test_the_work_of_a_text_is_known_beforehand(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = FillMask(load_for_inference(small, device="cpu"))
    run = MaskPredictor.best
    rows: list[int] = []

    def counted(self: MaskPredictor, given: Any, *args: Any, **options: Any) -> Any:
        rows.append(len(given))
        return run(self, given, *args, **options)

    monkeypatch.setattr(MaskPredictor, "best", counted)
    for text in ("a [MASK]", "a [MASK] and [MASK]", "a ___ b", "[MASK] a {1-3} b {2}", "no mask"):
        for ranking in ("joint", "independent"):
            rows.clear()
            fill.fill([text], 3, ranking=ranking)
            assert sum(rows) <= fill.sequences(text, 3, ranking=ranking) <= max(1, 4 * sum(rows)), (
                text,
                ranking,
            )
