"""Pseudo-log-likelihood: the scores of plain transformers with one mask at a time, in any batch, for any text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import ConfigError, DivergedError
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM
from unmask.progress import Progress
from unmask.scoring.masked_copies import METHODS, Copies, copies_of, masked_batch, method_named
from unmask.scoring.scorer import Scorer, score

# All architectures of conftest: WordPiece, byte level and Unigram, with packed rows and (the last three) without.
FAMILIES = [
    "bert",
    "distilbert",
    "electra",
    "roberta",
    "albert",
    "modernbert",
    "eurobert",
    "mpnet",
    "deberta-v2",
]
TEXTS = [
    "Her grandmother described the broken telescopes in the morning",
    "Nobody",
    "The railway unquestionably described three small boats",
    "The railway sold three small boats",
    "While it rained unmistakably the village slept",
]
PUNCTUATED = [*TEXTS, 'Why (she asked) was it "here", of all places?!', "Don't: it's 1860."]

Models = Callable[[str], MaskedLM]


@pytest.fixture(scope="session")
def model_of(checkpoint: Callable[[str], Path]) -> Models:
    made: dict[str, MaskedLM] = {}

    def make(architecture: str) -> MaskedLM:
        if architecture not in made:
            made[architecture] = load_for_inference(str(checkpoint(architecture)), device="cpu")
        return made[architecture]

    return make


def test_the_share_done_is_that_of_the_texts_that_are_scored(model_of: Models) -> None:
    done: list[tuple[float | None, object]] = []

    class Shares(Progress):
        def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
            done.append((share, metrics["texts"]))

    # All texts are read at once, and scored in several blocks.
    scores = list(Scorer(model_of("bert"), batch_tokens=32)(TEXTS * 8, progress=Shares()))
    assert len({texts for _, texts in done}) > 2
    shares = [share for share, _ in done if share is not None]
    assert shares == sorted(shares)
    assert next(texts for share, texts in done if share == pytest.approx(1.0)) == len(scores)


@pytest.fixture
def bert(model_of: Models) -> MaskedLM:
    return model_of("bert")


def plain_model(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    return AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def direct_scores(model: Any, tokenizer: Any, text: str, method: str) -> list[float]:
    """The definition, as directly as it can be written down: one masked text, one forward pass, all logits."""
    import torch

    inputs = tokenizer(text, return_tensors="pt")
    words = inputs.word_ids()
    scores = []
    for place, word in enumerate(words):
        if word is None:
            continue
        masked = inputs["input_ids"].clone()
        for other in range(len(words)):
            together = words[other] == word and (
                method == "whole_word" or (method == "within_word_l2r" and other > place)
            )
            if (other == place or together) and method != "estimate":
                masked[0, other] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(input_ids=masked, attention_mask=inputs["attention_mask"]).logits
        scores.append(torch.log_softmax(logits[0, place], -1)[inputs["input_ids"][0, place]].item())
    return scores


def tokens_of(found: Any) -> list[float]:
    return [token.pll for token in found.token_scores]


# --- agreement ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_token_scores_are_those_of_one_mask_at_a_time(
    family: str, method: str, model_of: Models, checkpoint: Callable[[str], Path]
) -> None:
    model, tokenizer = plain_model(checkpoint(family))
    # Outside of "original", words count, and where a tokenizer puts punctuation is a matter of its own.
    texts = PUNCTUATED if method in ("original", "estimate") else TEXTS
    for text, found in zip(texts, score(texts, model_of(family), method=method), strict=True):
        wanted = direct_scores(model, tokenizer, text, method)
        assert tokens_of(found) == pytest.approx(wanted, abs=1e-4)
        assert found.pll == pytest.approx(sum(wanted), abs=1e-3)
        assert (found.text, found.method, found.tokens) == (text, method, len(wanted))


def test_the_methods_differ_where_a_word_has_several_pieces(bert: MaskedLM) -> None:
    text = "The railway unquestionably described three small boats"
    found = {method: next(score([text], bert, method=method)) for method in METHODS}
    pieces = {item.text: item.tokens for item in found["original"].word_scores}
    assert pieces["unquestionably"] > 2
    assert pieces["The"] == 1
    by_word = {method: {word.text: word.pll for word in item.word_scores} for method, item in found.items()}
    assert len({round(words["unquestionably"], 4) for words in by_word.values()}) == 4
    assert len({round(words["The"], 4) for method, words in by_word.items() if method != "estimate"}) == 1


def test_counts_and_means(bert: MaskedLM) -> None:
    text = "Nobody, née unquestionably!"
    (found,) = score([text], bert)
    assert [word.text for word in found.word_scores] == ["Nobody", ",", "née", "unquestionably", "!"]
    assert found.words == 5
    assert found.tokens == len(found.token_scores) == sum(word.tokens for word in found.word_scores) > 5
    assert found.bytes == len(text.encode()) == len(text) + 1
    assert found.pll == pytest.approx(sum(word.pll for word in found.word_scores))
    assert found.pll == pytest.approx(sum(tokens_of(found)))
    assert found.per_token == pytest.approx(found.pll / found.tokens)
    assert found.per_word == pytest.approx(found.pll / 5)
    assert found.bits_per_byte == pytest.approx(-found.pll / found.bytes / math.log(2))
    assert [token.word for token in found.token_scores][:3] == [0, 1, 2]
    row = found.to_dict(details=True)
    assert set(row) >= {"text", "pll", "tokens", "words", "bytes", "method", "token_scores", "word_scores"}
    assert "token_scores" not in found.to_dict()


def test_words_come_from_the_tokenizer_where_the_vocabulary_does_not_mark_them(bert: MaskedLM) -> None:
    unmarked = MaskedLM(bert.model, bert.tokenizer)
    unmarked.vocabulary = replace(bert.vocabulary, words=None)
    for marked, found in zip(score(TEXTS, bert), score(TEXTS, unmarked), strict=True):
        assert [word.text for word in found.word_scores] == [word.text for word in marked.word_scores]


def test_special_tokens_in_a_text_are_text(bert: MaskedLM, model_of: Models) -> None:
    (found,) = score(["[SEP] [MASK]"], bert)
    assert found.error is None
    assert [word.text for word in found.word_scores] == ["[", "SEP", "]", "[", "MASK", "]"]
    special = set(bert.tokenizer.all_special_tokens) - {bert.tokenizer.unk_token}
    assert not special & {token.token for token in found.token_scores}
    for family in ("roberta", "albert"):
        (found,) = score(["</s> <mask>"], model_of(family))
        assert not {"</s>", "<mask>"} & {token.token for token in found.token_scores}
        assert found.tokens > 2


def test_unknown_tokens_are_counted(bert: MaskedLM) -> None:
    known, unknown = score(["Nobody slept", "Nobody ☃ slept"], bert)
    assert (known.unknown, unknown.unknown) == (0, 1)


def test_a_text_of_which_most_tokens_are_unknown_has_no_score(bert: MaskedLM) -> None:
    foreign, known = score(["ሰላም ኢትዮጵያ ውሃ", "Nobody slept"], bert)
    assert math.isnan(foreign.pll)
    assert foreign.to_dict()["bits_per_byte"] is None
    assert foreign.error is not None
    assert foreign.error.startswith("100.0% of the tokens are unknown to the tokenizer")
    assert known.error is None


# --- batches and order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_scores_do_not_depend_on_what_is_scored_beside_them(family: str, model_of: Models) -> None:
    texts = [*PUNCTUATED[-3:], "", *PUNCTUATED[:2], *PUNCTUATED[-3:]]
    together = list(score(texts, model_of(family), batch_tokens=4096))
    alone = list(score(texts, model_of(family), batch_tokens=1))
    assert [found.text for found in together] == texts == [found.text for found in alone]
    for one, other in zip(together, alone, strict=True):
        assert tokens_of(one) == pytest.approx(tokens_of(other), abs=1e-4)


def test_results_come_while_texts_are_read(bert: MaskedLM) -> None:
    taken = itertools.count()
    scores = score((f"Nobody sold {number} boats" for number in taken), bert, batch_tokens=64)
    texts = [found.text for found in itertools.islice(scores, 3)]
    assert texts == [f"Nobody sold {number} boats" for number in range(3)]
    assert next(taken) < 200


class Watched:
    """Counts the tokens that a model is shown."""

    def __init__(self, model: MaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        run = model.target_logits

        def watched(batch: Any) -> Any:
            self.batches.append(batch.tokens)
            return run(batch)

        monkeypatch.setattr(model, "target_logits", watched)


def test_the_same_input_is_computed_once(bert: MaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(bert, monkeypatch)
    one, *_ = score(["The boat slept."], bert)
    size = one.tokens * (one.tokens + 2)
    assert watched.batches == [size]
    # Equal texts share every copy; those that differ in one word share the copy in which it is hidden.
    watched.batches.clear()
    first, same, other = score(["The boat slept.", "the boat slept.", "The boat slept!"], bert)
    assert same.pll == first.pll
    assert other.tokens == one.tokens
    assert sum(watched.batches) == 2 * size - (one.tokens + 2)
    assert tokens_of(other) == pytest.approx(tokens_of(next(score(["The boat slept!"], bert))), abs=1e-5)


def test_copies_that_are_merged_keep_their_targets(bert: MaskedLM) -> None:
    row = np.array([7, 8, 9, 7, 6, 9, 7, 8, 9])
    plans = [copies_of(np.ones(3, dtype=bool), "original", 10, 10).shifted(start) for start in (0, 3, 6)]
    batch, places = masked_batch(row, Copies.joined(plans), bert.vocabulary)
    assert len(batch.cu_seqlens) - 1 == 5  # of 9: the third text repeats the first, the second shares a copy
    assert sorted(places.tolist()) == list(range(9))
    assert batch.target_ids.tolist() == row[places].tolist()
    assert (np.diff(batch.target_index) >= 0).all()
    assert (batch.input_ids[batch.target_index] == bert.vocabulary.mask_id).all()


# --- windows ------------------------------------------------------------------------------------------------------


@given(
    starts=st.lists(st.booleans(), min_size=1, max_size=60),
    method=st.sampled_from(METHODS),
    room=st.integers(1, 40),
    most=st.integers(1, 50),
)
def test_every_token_is_asked_for_once_with_all_the_context_that_fits(
    starts: list[bool], method: Any, room: int, most: int
) -> None:
    n = len(starts)
    marks = np.array([True, *starts[1:]])
    copies = copies_of(marks, method, room, most)
    asked = [
        place for a, b in zip(copies.target_begin, copies.target_end, strict=True) for place in range(a, b)
    ]
    assert sorted(asked) == list(range(n))
    assert (copies.sizes == min(n, room)).all()
    assert (copies.begin >= 0).all()
    assert (copies.end <= n).all()
    inner = np.minimum(copies.target_begin, copies.mask_begin), np.maximum(copies.target_end, copies.mask_end)
    assert (copies.begin <= inner[0]).all()
    assert (inner[1] <= copies.end).all()
    left, right = inner[0] - copies.begin, copies.end - inner[1]
    at_edge = (copies.begin == 0) | (copies.end == n)
    assert (at_edge | (abs(left - right) <= 1)).all()
    if method == "estimate":
        assert (copies.mask_begin == copies.mask_end).all()
        assert (copies.targets <= most).all()
    else:
        assert (copies.mask_begin == copies.target_begin).all()
        assert (copies.mask_end >= copies.target_end).all()


def test_the_rest_of_the_word_is_masked_and_no_more() -> None:
    starts = np.array([True, False, False, True, False, True])
    copies = copies_of(starts, "within_word_l2r", 100, 100)
    assert copies.mask_end.tolist() == [3, 3, 3, 5, 5, 6]
    copies = copies_of(starts, "whole_word", 100, 100)
    assert copies.target_begin.tolist() == copies.mask_begin.tolist() == [0, 3, 5]
    assert copies.target_end.tolist() == copies.mask_end.tolist() == [3, 5, 6]


@pytest.mark.parametrize("method", ["original", "within_word_l2r"])
def test_a_long_text_is_scored_in_windows(
    method: str, model_of: Models, checkpoint: Callable[[str], Path]
) -> None:
    import torch

    model, tokenizer = plain_model(checkpoint("roberta"))
    text = " ".join(TEXTS * 4)
    (found,) = score([text], model_of("roberta"), method=method, max_length=32)
    inputs = tokenizer(text, add_special_tokens=False)
    ids, words = inputs["input_ids"], inputs.word_ids()
    assert found.tokens == len(ids) > 128
    for place in (0, 3, 50, len(ids) - 20, len(ids) - 1):
        word = [other for other in range(place, len(ids)) if words[other] == words[place]]
        hidden = word if method == "within_word_l2r" else [place]
        begin = min(max((hidden[0] + hidden[-1] + 1) // 2 - 15, 0), len(ids) - 30)
        window = [
            tokenizer.mask_token_id if begin + k in hidden else id
            for k, id in enumerate(ids[begin : begin + 30])
        ]
        framed = torch.tensor([[tokenizer.cls_token_id, *window, tokenizer.sep_token_id]])
        with torch.no_grad():
            logits = model(input_ids=framed).logits[0, place - begin + 1]
        assert found.token_scores[place].pll == pytest.approx(
            torch.log_softmax(logits, -1)[ids[place]].item(), abs=1e-4
        )


def test_ten_thousand_words_are_scored_in_bounded_batches(
    bert: MaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(bert, monkeypatch)
    shares: list[float | None] = []

    class Listener(Progress):
        def advance(self, share: float | None, figures: Any) -> None:
            assert share != 1.0 or figures["texts"] == 1
            shares.append(share)

    text = " ".join(["Nobody sold the boats in the"] * 1700)
    (found,) = score([text], bert, max_length=12, batch_tokens=2048, progress=Listener())
    assert found.words == 10_200
    assert found.error is None
    assert max(watched.batches) <= 2048
    assert len(shares) >= len(watched.batches) > 20
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


# --- what cannot be scored ----------------------------------------------------------------------------------------


def test_a_text_that_cannot_be_scored_says_why_and_the_others_are_scored(bert: MaskedLM) -> None:
    texts = ["", " \t\n", "a\0b", "\ud800", "\u200b", "Nobody"]
    found = list(score(texts, bert))
    assert [item.text for item in found] == texts
    wanted = ["empty", "empty", "NUL", "surrogate", "no token", ""]
    for item, why in zip(found, wanted, strict=True):
        assert why in (item.error or ""), item
    assert all(math.isnan(item.pll) and item.to_dict()["pll"] is None for item in found[:-1])
    assert found[-1].error is None
    assert found[-1].pll < 0


def test_only_bad_texts_and_no_texts(bert: MaskedLM) -> None:
    assert [found.tokens for found in score(["", ""], bert)] == [0, 0]
    assert list(score([], bert)) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "orginal"}, "did you mean 'original'"),
        ({"max_length": 2}, "max_length must be 3 to 128"),
        ({"max_length": 129}, "got 129"),
        ({"batch_tokens": 0}, "batch_tokens"),
    ],
)
def test_wrong_arguments_are_refused_at_once(bert: MaskedLM, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        score(TEXTS, bert, **arguments)


def test_a_single_string_is_refused(bert: MaskedLM) -> None:
    with pytest.raises(ConfigError, match="list of texts"):
        score("Nobody", bert)


def test_method_names_take_hyphens() -> None:
    assert method_named("Within-Word-L2R") == "within_word_l2r"


def test_broken_weights_are_an_error(tiny_model: Any, wordpiece_tokenizer: Any) -> None:
    import torch

    broken = tiny_model("bert", len(wordpiece_tokenizer))
    model = MaskedLM(broken, wordpiece_tokenizer)
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(DivergedError):
        list(Scorer(model)(TEXTS))


def test_a_model_in_training_is_left_in_training(tiny_model: Any, wordpiece_tokenizer: Any) -> None:
    model = MaskedLM(
        tiny_model("bert", len(wordpiece_tokenizer), hidden_dropout_prob=0.5).train(), wordpiece_tokenizer
    )
    first, again = (list(Scorer(model)(TEXTS)) for _ in range(2))
    assert [found.pll for found in first] == [found.pll for found in again]
    assert model.model.training


def test_a_model_is_loaded_by_name_in_the_precision_that_pays(checkpoint: Callable[[str], Path]) -> None:
    messages: list[str] = []

    class Listener(Progress):
        def log(self, text: str) -> None:
            messages.append(text)

    folder = checkpoint("bert")
    (exact,) = score(TEXTS[:1], folder, device="cpu", precision="fp32", progress=Listener())
    assert messages == []
    (chosen,) = score(TEXTS[:1], folder, device="cpu", precision="auto", progress=Listener())
    assert any("computing in" in text for text in messages)
    assert chosen.pll == pytest.approx(exact.pll, rel=0.02)


def test_the_error_of_bf16_is_measured_and_said(checkpoint: Callable[[str], Path]) -> None:
    messages: list[str] = []

    class Listener(Progress):
        def log(self, text: str) -> None:
            messages.append(text)

    folder = checkpoint("bert")
    (exact,) = score(TEXTS[:1], folder, device="cpu", precision="fp32")
    (rough,) = score(TEXTS[:1], folder, device="cpu", precision="bf16", progress=Listener())
    gaps = [abs(a.pll - b.pll) for a, b in zip(exact.token_scores, rough.token_scores, strict=True)]
    assert max(gaps) > 0
    mean, most = f"{sum(gaps) / len(gaps):.3f}", f"{max(gaps):.3f}"
    said = f"the first {len(gaps)} masked tokens are {mean} nats off those in fp32 on average, {most} at most"
    assert [text for text in messages if said in text]


def _never() -> Iterator[str]:
    raise AssertionError("read before the first result was asked for")
    yield


def test_nothing_is_read_before_the_first_result_is_asked_for(bert: MaskedLM) -> None:
    scores = score(_never(), bert)
    with pytest.raises(AssertionError):
        next(scores)
