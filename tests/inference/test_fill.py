"""Filling masks: the probabilities of plain transformers, in any batch, with the text around them left alone."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask.data.tokenizer import vocabulary_of
from unmask.errors import ConfigError, DataError, DivergedError
from unmask.inference.beam import combinations
from unmask.inference.fill import FillMask, FillResult
from unmask.inference.markers import MARKERS, MarkerEncoder
from unmask.model.load import load_for_inference

FAMILIES = ["bert", "roberta", "modernbert", "deberta-v2"]
TOKENIZERS = ["wordpiece", "byte_level", "modernbert", "unigram", "chinese"]
TEXTS = [
    "Her grandmother [MASK] the broken telescope in the morning.",
    "[MASK]",
    "The [MASK] described three small boats, and then went [MASK].",
    "Nobody in the village sold the railway <mask> while it rained; the [MASK] was asked: \"why [MASK]?\"",
    "(<mask>)[MASK] [MASK]",
    "In South Carolina [MASK]",
]  # fmt: skip


@pytest.fixture
def tokenizer_of(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    return lambda family: request.getfixturevalue(f"{family}_tokenizer")


def reference(folder: Path, text: str) -> tuple[list[int], Any]:
    """What plain transformers says: positions of the masks and ``[m, V]`` probabilities at them."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    for marker in MARKERS:
        text = text.replace(marker, tokenizer.mask_token)
    inputs = tokenizer(text, return_tensors="pt")
    places = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
    with torch.no_grad():
        logits = model(**inputs).logits[0, places]
    return places.tolist(), torch.softmax(logits, dim=-1)


# --- the figures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_those_of_plain_transformers_one_at_a_time(
    family: str, checkpoint: Callable[[str], Path], filler: Callable[[str], FillMask]
) -> None:
    special = set(filler(family).model.tokenizer.all_special_ids)
    for text, result in zip(TEXTS, filler(family).fill(TEXTS, top_k=7), strict=True):
        places, wanted = reference(checkpoint(family), text)
        assert result.masks == places
        assert len(result.per_mask) == len(places)
        for row, tokens in zip(wanted.tolist(), result.per_mask, strict=True):
            assert [token.probability for token in tokens] == pytest.approx(
                [row[token.token_id] for token in tokens], abs=1e-5
            )
            best = sorted((value for id, value in enumerate(row) if id not in special), reverse=True)[:7]
            assert [token.probability for token in tokens] == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_results_do_not_depend_on_the_batch(family: str, filler: Callable[[str], FillMask]) -> None:
    alone = [filler(family)(text, top_k=4) for text in TEXTS]
    for batch_size in (None, 2, 5):
        together = filler(family).fill(TEXTS[::-1], top_k=4, batch_size=batch_size)[::-1]
        assert [result.text for result in together] == TEXTS
        for one, other in zip(alone, together, strict=True):
            assert one.masks == other.masks
            assert _figures(other) == pytest.approx(_figures(one), abs=1e-5)


def _figures(result: FillResult) -> list[float]:
    return [candidate.probability for candidate in result.candidates] + [
        token.probability for mask in result.per_mask for token in mask
    ]


def test_combinations_are_ranked_by_the_product_and_carry_its_factors(
    filler: Callable[[str], FillMask],
) -> None:
    result = filler("bert")("the [MASK] of [MASK] and [MASK]", top_k=6, ranking="independent")
    assert result.ranking == "independent"
    assert {candidate.ranking for candidate in result.candidates} == {"independent"}
    every = itertools.product(*result.per_mask)
    wanted = sorted((math.prod(token.probability for token in chosen) for chosen in every), reverse=True)[:6]
    assert [candidate.probability for candidate in result.candidates] == pytest.approx(wanted, rel=1e-6)
    for candidate in result.candidates:
        assert math.prod(candidate.probabilities) == pytest.approx(candidate.probability, rel=1e-6)
        assert len(candidate.tokens) == len(candidate.token_ids) == 3


@pytest.mark.parametrize("sizes", [(4,), (3, 3), (5, 1, 4), (3, 3, 3, 3)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_best_combinations_are_those_of_brute_force(sizes: tuple[int, ...], ties: bool) -> None:
    step = 1.0 if ties else 0.618
    scores = [
        sorted((-((rank * step * (mask + 2)) % 3.7) for rank in range(size)), reverse=True)
        for mask, size in enumerate(sizes)
    ]
    total = math.prod(sizes)
    found = list(combinations(scores))
    assert len(found) == total
    sums = [math.fsum(mask[rank] for mask, rank in zip(scores, ranks, strict=True)) for ranks in found]
    assert sorted(found) == sorted(itertools.product(*map(range, sizes)))
    assert sums == sorted(sums, reverse=True)
    assert list(itertools.islice(combinations(scores), 3)) == found[:3]


def test_many_masks_are_ranked_without_trying_all(filler: Callable[[str], FillMask]) -> None:
    result = filler("bert")("[MASK] " * 100, top_k=40, ranking="independent")
    assert len({tuple(candidate.token_ids) for candidate in result.candidates}) == 40


def test_special_tokens_are_never_candidates_and_all_others_are(filler: Callable[[str], FillMask]) -> None:
    fill = filler("bert")
    special = set(fill.model.tokenizer.all_special_ids)
    everything = len(fill.model.tokenizer) - len(special)
    ids = {token.token_id for token in fill("the [MASK].", top_k=everything).per_mask[0]}
    assert not ids & special
    assert len(ids) == everything


def test_rows_of_the_model_without_a_token_are_never_candidates(
    checkpoint: Callable[[str], Path], tiny_model: Callable[..., Any]
) -> None:
    from transformers import AutoTokenizer

    from unmask.model.masked_lm import MaskedLM

    tokenizer = AutoTokenizer.from_pretrained(checkpoint("bert"))
    fill = FillMask(MaskedLM(tiny_model("bert", len(tokenizer) + 13), tokenizer))
    most = len(tokenizer) - len(tokenizer.all_special_ids)
    assert max(token.token_id for token in fill("a [MASK]", top_k=most).per_mask[0]) < len(tokenizer)
    with pytest.raises(ConfigError):
        fill("a [MASK]", top_k=most + 1)


def test_weights_that_are_not_finite_are_said_to_be_broken(
    checkpoint: Callable[[str], Path], tiny_model: Callable[..., Any]
) -> None:
    import torch
    from transformers import AutoTokenizer

    from unmask.model.masked_lm import MaskedLM

    tokenizer = AutoTokenizer.from_pretrained(checkpoint("bert"))
    model = tiny_model("bert", len(tokenizer))
    fill = FillMask(MaskedLM(model, tokenizer))
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="NaN or infinite"):
        fill("a [MASK]")


# --- reading the text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TOKENIZERS)
@pytest.mark.parametrize("marker", ["[MASK]", "<mask>", "own"])
def test_every_marker_gives_the_ids_of_the_tokenizers_own_mask(
    family: str, marker: str, tokenizer_of: Callable[[str], Any]
) -> None:
    tokenizer = tokenizer_of(family)
    own = tokenizer.mask_token
    for text in (
        "the @ of South Carolina is @.",
        "@ is(@) boat@s",
        "in\n@ @@",
        "  @\tthe   dog  ",
        "@",
        "walk@ the\n\n@\n",
        "don't @, it's “@” naïve@é",
        "春天@来了，@的花都开了@。",
        "no mask at all",
    ):
        reading = MarkerEncoder(tokenizer)([text.replace("@", own if marker == "own" else marker)])[0]
        if "@" not in text:
            assert "no mask" in (reading.error or "")
            continue
        vocabulary = vocabulary_of(tokenizer)
        ids = [*vocabulary.prefix, *reading.body.tolist(), *vocabulary.suffix]
        assert ids == tokenizer(text.replace("@", own))["input_ids"], text
        assert len(reading.gaps) == text.count("@")


@pytest.mark.parametrize("lstrip", [False, True])
def test_the_mask_of_byte_level_takes_the_space_before_it_only_when_the_tokenizer_says_so(
    lstrip: bool, byte_level_tokenizer: Any
) -> None:
    import copy

    from transformers import AddedToken

    tokenizer = copy.deepcopy(byte_level_tokenizer)
    tokenizer.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=lstrip, special=True)})
    ids = MarkerEncoder(tokenizer)(["the [MASK] of"])[0].body.tolist()
    assert ids == tokenizer("the <mask> of", add_special_tokens=False)["input_ids"]
    assert (tokenizer.convert_tokens_to_ids("Ġ") in ids) is not lstrip


@pytest.mark.parametrize("family", TOKENIZERS)
def test_literal_special_tokens_are_text(family: str, tokenizer_of: Callable[[str], Any]) -> None:
    tokenizer = tokenizer_of(family)
    controls = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id, tokenizer.unk_token_id}
    text = " ".join(token for token in tokenizer.all_special_tokens if token != tokenizer.mask_token)
    reading = MarkerEncoder(tokenizer)([f"a {text} [MASK] [SEP]</s>"])[0]
    assert not controls & set(reading.body.tolist())
    assert len(reading.gaps) == reading.body.tolist().count(tokenizer.mask_token_id) == 1


def test_the_encoder_leaves_the_tokenizer_as_it_was(wordpiece_tokenizer: Any) -> None:
    before = wordpiece_tokenizer.backend_tokenizer.to_str()
    MarkerEncoder(wordpiece_tokenizer)(["a [MASK]"])
    assert wordpiece_tokenizer.backend_tokenizer.to_str() == before


# --- writing the text ---------------------------------------------------------------------------------------------


def _written(fill: FillMask, text: str, tokens: list[str]) -> str:
    """The sequence when exactly these tokens are chosen, read off the exhaustive list of candidates."""
    from unmask.inference.markers import TokenWriter

    encoder = MarkerEncoder(fill.model.tokenizer)
    ids = fill.model.tokenizer.convert_tokens_to_ids(tokens)
    assert fill.model.tokenizer.unk_token_id not in ids
    return TokenWriter(fill.model.tokenizer, encoder).sequence(encoder.split(text), [(id,) for id in ids])


@pytest.mark.parametrize(
    ("family", "text", "tokens", "wanted"),
    [
        ("bert", "A  Dog,\n[MASK]   Café.", ["the"], "A  Dog,\nthe   Café."),
        ("bert", "the ([MASK]).", ["the"], "the (the)."),
        ("bert", "repair [MASK] now", ["##s"], "repairs now"),
        ("bert", "so[MASK]", ["the"], "so the"),
        ("bert", "[MASK] [MASK]!", ["the", "##s"], "thes!"),
        ("roberta", "is\n<mask>.", ["Ġthe"], "is\nthe."),
        ("roberta", "<mask> is", ["Ġthe"], "the is"),
        ("roberta", "word<mask>", ["Ġthe"], "word the"),
        ("roberta", "word <mask> on", ["s"], "words on"),
        ("modernbert", "a [MASK][MASK] b", ["Ġthe", "s"], "a thes b"),
        ("deberta-v2", "a [MASK] b", ["▁the"], "a the b"),
        ("deberta-v2", "a [MASK] b", ["s"], "as b"),
    ],
)
def test_the_text_around_the_mask_stays(
    family: str, text: str, tokens: list[str], wanted: str, filler: Callable[[str], FillMask]
) -> None:
    assert _written(filler(family), text, tokens) == wanted


def test_chinese_characters_are_not_spaced(chinese_tokenizer: Any) -> None:
    from unmask.inference.markers import TokenWriter

    encoder = MarkerEncoder(chinese_tokenizer)
    ids = chinese_tokenizer.convert_tokens_to_ids(["天"])
    assert (
        TokenWriter(chinese_tokenizer, encoder).sequence(encoder.split("春[MASK]来了"), [ids]) == "春天来了"
    )


def test_a_candidate_says_what_goes_where(filler: Callable[[str], FillMask]) -> None:
    result = filler("bert")("The <mask> was SOLD.", top_k=3)
    for candidate, token in zip(result.candidates, result.per_mask[0], strict=True):
        assert (candidate.tokens, candidate.token_ids) == ([token.token], [token.token_id])
        assert candidate.text == token.text
        assert candidate.probabilities == [candidate.probability] == [token.probability]
        assert candidate.sequence.endswith(f"{token.text} was SOLD.")
        assert candidate.sequence.startswith("The")


def test_a_result_is_json(filler: Callable[[str], FillMask]) -> None:
    content = json.loads(json.dumps(filler("bert")("a [MASK]").to_dict()))
    assert set(content) == {
        "text", "masks", "candidates", "per_mask", "error", "ranking", "exact", "window", "target_errors",
        "unknown",
    }  # fmt: skip
    assert content["ranking"] == content["candidates"][0]["ranking"] == "joint"
    assert {"text", "tokens", "probability", "probabilities", "sequence", "score"} <= set(
        content["candidates"][0]
    )


# --- what cannot be filled ----------------------------------------------------------------------------------------


def test_a_text_that_cannot_be_filled_does_not_stop_the_others(filler: Callable[[str], FillMask]) -> None:
    texts = {
        "a [MASK]": None,
        "": "the text is empty",
        " \t": "the text is empty",
        "no mask": "no mask in this text: write [MASK] or <mask> where a token is wanted, or ___ for a word",
        "[SEP] [CLS] [PAD]": "no mask",
        "[MASK]"
        + " word" * 200
        + " [MASK]": "take 602 tokens from the first to the last, and the model takes 126",
        "a\0 [MASK]": "NUL character at position 2",
        "a \ud83d [MASK]": "lone surrogate (U+D83D) at position 3",
        "[MASK] b": None,
    }
    for result, (text, wanted) in zip(filler("bert").fill(list(texts)), texts.items(), strict=True):
        assert result.text == text
        assert len(result.candidates) == (0 if wanted else 5), text
        assert (result.error is None) == (wanted is None)
        assert (wanted or "") in (result.error or "")
        assert "\n" not in (result.error or "")


def test_masks_that_just_fit_are_filled(filler: Callable[[str], FillMask]) -> None:
    for family in FAMILIES:
        limit = filler(family).model.max_length
        texts = ["[MASK]" * (limit - 2), "[MASK]" * (limit - 1)]
        fits, over = filler(family).fill(texts, top_k=1, ranking="independent")
        assert len(fits.masks) == limit - 2
        assert fits.window is None
        assert f"{limit - 1} tokens" in (over.error or "")


def test_one_text_alone_raises(filler: Callable[[str], FillMask]) -> None:
    with pytest.raises(DataError, match="no mask"):
        filler("bert")("nothing to fill")


def test_no_texts_give_no_results(filler: Callable[[str], FillMask]) -> None:
    assert filler("bert").fill([]) == []


@pytest.mark.parametrize("top_k", [0, -1, 10**6])
def test_top_k_out_of_range_is_refused(top_k: int, filler: Callable[[str], FillMask]) -> None:
    with pytest.raises(ConfigError, match="top_k must be 1 to"):
        filler("bert").fill(["a [MASK]"], top_k=top_k)


def test_other_bad_arguments_are_refused(filler: Callable[[str], FillMask], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="list of texts"):
        filler("bert").fill("a [MASK]")
    with pytest.raises(ConfigError, match="text 2 is of type NoneType"):
        filler("bert").fill(["a [MASK]", None])  # type: ignore[list-item]
    for wrong in ({"batch_size": 0}, {"beam": 0}, {"ranking": "best"}, {"targets": []}, {"targets": [" "]}):
        with pytest.raises(ConfigError, match=next(iter(wrong)).rstrip("s")):
            filler("bert").fill(["a [MASK]"], **wrong)
    with pytest.raises(ConfigError, match="list of words"):
        filler("bert").fill(["a [MASK]"], targets="the")
    with pytest.raises(ConfigError):
        load_for_inference(tmp_path / "absent", offline=True)
