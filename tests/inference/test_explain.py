"""Explaining one text: the reference case, the figures of training and of plain transformers, and the page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.config.settings import DocumentSettings, MaskingSettings
from unmask.errors import ConfigError, DataError
from unmask.inference.explain import IGNORED, explain
from unmask.inference.explanation import Explanation
from unmask.model.masked_lm import MaskedLM

KEYS = (
    "text tokens input_ids token_type_ids attention_mask labels random_draw special_tokens_mask mask selected "
    "masked_input_ids masked_tokens predictions token_loss loss labels_mode mask_positions_given forced "
    "spans chances units masking seed mask_token_id takes_token_types model"
).split()

# --- the reference case -------------------------------------------------------------------------------------------

LINCOLN = (
    "After Abraham Lincoln won the November 1860 presidential election on an anti-slavery platform, an initial seven "
    "slave states declared their secession from the country to form the Confederacy. War broke out in April 1861 when "
    "secessionist forces attacked Fort Sumter in South Carolina, just over a month after Lincoln's inauguration."
)
POSITIONS = [4, 14, 36, 39, 41, 43, 48, 53, 54]
HELD = ["won", "slavery", "in", "when", "##ist", "attacked", "south", "a", "month"]

# Where these entries stand among the 30,522 of the published vocabulary of bert-base-uncased.
SIZE = 30_522
ENTRIES = {
    0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1005: "'", 1010: ",", 1011: "-", 1012: ".",
    1037: "a", 1055: "s", 1996: "the", 1999: "in", 2000: "to", 2006: "on", 2013: "from", 2019: "an", 2037: "their",
    2041: "out", 2043: "when", 2044: "after", 2058: "over", 2074: "just", 2148: "south", 2162: "war", 2163: "states",
    2180: "won", 2258: "april", 2281: "november", 2406: "country", 2433: "form", 2602: "election", 2698: "seven",
    2749: "forces", 2923: "##ist", 3204: "month", 3334: "##ter", 3424: "anti", 3481: "fort", 3631: "broke",
    3792: "carolina", 3988: "initial", 4132: "platform", 4161: "declared", 4457: "attacked", 4883: "presidential",
    5367: "lincoln", 6658: "slave", 6863: "1861", 7313: "1860", 7680: "sum", 8181: "abraham", 8864: "slavery",
    17331: "inauguration", 18179: "confederacy", 22965: "secession",
}  # fmt: skip
IDS = [
    101, 2044, 8181, 5367, 2180, 1996, 2281, 7313, 4883, 2602, 2006, 2019, 3424, 1011, 8864, 4132, 1010, 2019, 3988,
    2698, 6658, 2163, 4161, 2037, 22965, 2013, 1996, 2406, 2000, 2433, 1996, 18179, 1012, 2162, 3631, 2041, 1999, 2258,
    6863, 2043, 22965, 2923, 2749, 4457, 3481, 7680, 3334, 1999, 2148, 3792, 1010, 2074, 2058, 1037, 3204, 2044, 5367,
    1005, 1055, 17331, 1012, 102,
]  # fmt: skip


def bert_of(folder: Path, entries: list[str], tiny_model: Callable[..., Any]) -> MaskedLM:
    """A tiny BERT whose tokenizer is read from a vocab.txt, as a checkpoint's is."""
    from transformers import BertTokenizer

    folder.joinpath("vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer.from_pretrained(folder)
    model = tiny_model("bert", len(entries), hidden_size=8, num_hidden_layers=1, intermediate_size=8)
    return MaskedLM(model, tokenizer)


@pytest.fixture(scope="module")
def reference_model(tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> MaskedLM:
    entries = [ENTRIES.get(id, f"[unused{id}]") for id in range(SIZE)]
    return bert_of(tmp_path_factory.mktemp("vocabulary"), entries, tiny_model)


def test_the_reference_case(reference_model: MaskedLM) -> None:
    told = explain(LINCOLN, reference_model, mask_positions=POSITIONS, labels="all")
    assert len(told.input_ids) == 62
    assert told.input_ids == told.labels == IDS
    assert told.input_ids[:7] + told.input_ids[-3:] == [
        101,
        2044,
        8181,
        5367,
        2180,
        1996,
        2281,
        17331,
        1012,
        102,
    ]
    assert told.token_type_ids == [0] * 62
    assert told.attention_mask == [1] * 62
    assert told.selected == POSITIONS
    assert [told.tokens[position] for position in POSITIONS] == HELD
    assert told.masked_input_ids == [103 if place in POSITIONS else id for place, id in enumerate(IDS)]
    assert [item.original for item in told.predictions] == HELD
    assert {item.shown for item in told.predictions} == {"[MASK]"}
    assert told.random_draw is None
    assert told.mask_positions_given


def test_the_reference_case_with_the_whole_vocabulary(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    path = root.parent / "shared" / "data" / "vocab" / "bert-base-uncased-vocab.txt"
    if not path.is_file():
        pytest.skip(f"the published vocabulary is not here: {path}")
    entries = path.read_text(encoding="utf-8").splitlines()
    assert len(entries) == SIZE
    told = explain(LINCOLN, bert_of(tmp_path, entries, tiny_model), mask_positions=POSITIONS)
    assert told.input_ids == IDS
    assert [told.tokens[position] for position in POSITIONS] == HELD


@pytest.mark.weights
def test_the_reference_loss_with_the_published_weights() -> None:
    told = explain(LINCOLN, "bert-base-uncased", mask_positions=POSITIONS, labels="all")
    assert told.input_ids == IDS
    assert told.loss == pytest.approx(0.7134, abs=5e-5)


# --- the figures --------------------------------------------------------------------------------------------------

TEXT = "Her grandmother repaired the broken telescope in the morning; an international committee measured it twice."


@pytest.fixture(scope="session")
def model_of(checkpoint: Callable[[str], Path]) -> Callable[[str], MaskedLM]:
    from unmask.model.load import load_for_inference

    return cache(lambda family: load_for_inference(str(checkpoint(family)), device="cpu"))


@pytest.fixture
def bert(model_of: Callable[[str], MaskedLM]) -> MaskedLM:
    return model_of("bert")


@pytest.mark.parametrize("labels", ["all", "masked"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_losses_and_predictions_are_those_of_plain_transformers(
    family: str, labels: Any, checkpoint: Callable[[str], Path]
) -> None:
    import torch
    from transformers import AutoModelForMaskedLM

    told = explain(TEXT, checkpoint(family), labels=labels, seed=1)
    assert told.selected
    model = AutoModelForMaskedLM.from_pretrained(checkpoint(family)).eval()
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor([told.masked_input_ids]),
            attention_mask=torch.tensor([told.attention_mask]),
            labels=torch.tensor([told.labels]),
        )
    assert told.loss == pytest.approx(output.loss.item(), rel=1e-6)
    shares = torch.softmax(output.logits[0], dim=-1)
    for item in told.predictions:
        best = sorted(shares[item.position].tolist(), reverse=True)[:5]
        assert [guess.probability for guess in item.top] == pytest.approx(best, abs=1e-6)
        for guess in item.top:
            assert guess.probability == pytest.approx(shares[item.position, guess.token_id].item(), abs=1e-6)
        right = told.input_ids[item.position]
        assert item.loss == pytest.approx(-math.log(shares[item.position, right].item()), rel=1e-4)
        assert told.token_loss[item.position] == item.loss


@pytest.mark.parametrize("labels", ["all", "masked"])
def test_the_loss_is_the_mean_of_the_scored_tokens(labels: Any, bert: MaskedLM) -> None:
    told = explain(TEXT, bert, labels=labels, seed=1)
    scored = [loss for loss in told.token_loss if loss is not None]
    assert told.loss == pytest.approx(sum(scored) / len(scored))
    assert [loss is not None for loss in told.token_loss] == [label != IGNORED for label in told.labels]
    if labels == "all":
        assert told.labels == told.input_ids
    else:
        assert [place for place, label in enumerate(told.labels) if label != IGNORED] == told.selected
        assert all(told.labels[place] == told.input_ids[place] for place in told.selected)


def test_top_k_says_how_many_predictions_are_kept(bert: MaskedLM) -> None:
    told = explain(TEXT, bert, mask_positions=[2], top_k=9)
    assert len(told.predictions[0].top) == 9
    most = bert.vocabulary.size
    shares = explain(TEXT, bert, mask_positions=[2], top_k=most).predictions[0].top
    assert sum(guess.probability for guess in shares) == pytest.approx(1, abs=1e-5)


# --- the draw -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["token", "word"])
def test_what_is_shown_is_what_training_does(strategy: Any, bert: MaskedLM, tmp_path: Path) -> None:
    from unmask.data.batches import TextSource
    from unmask.data.masking.random_bits import MaskKey
    from unmask.data.preparation import prepare

    others = ["A text that comes before.", TEXT, "And one that comes after, which moves nothing."]
    tmp_path.joinpath("text.txt").write_text("\n".join(others) + "\n", encoding="utf-8")
    corpus = prepare(
        [tmp_path / "text.txt"], DocumentSettings(documents="line"), bert.tokenizer, tmp_path / "shards"
    )
    masking = MaskingSettings(strategy=strategy, rate=0.4)
    source = TextSource(corpus, np.array([1]), bert.vocabulary, masking, bert.max_length)
    for seed in range(5):
        told = explain(TEXT, bert, masking=masking, seed=seed)
        batch = source.batch(np.array([0]), MaskKey(seed, 0), masking.rate)
        assert told.masked_input_ids == batch.input_ids.tolist()
        assert told.selected == batch.target_index.tolist()
        assert [told.input_ids[place] for place in told.selected] == batch.target_ids.tolist()


@pytest.mark.parametrize("strategy", ["token", "word"])
@pytest.mark.parametrize("rate", [0.15, 0.5, 1.0])
def test_the_mask_is_where_the_draw_is_below_the_rate_and_no_special_token_stands(
    rate: float, strategy: Any, bert: MaskedLM
) -> None:
    for seed in range(4):
        told = explain(TEXT, bert, masking=MaskingSettings(rate=rate, strategy=strategy), seed=seed)
        assert told.random_draw is not None
        assert all(0 <= draw < 1 for draw in told.random_draw)
        special = [bool(flag) for flag in told.special_tokens_mask]
        assert special == [True] + [False] * (len(special) - 2) + [True]
        below = [draw < rate for draw in told.random_draw]
        drawn = [low and not never for low, never in zip(below, special, strict=True)]
        assert told.mask == drawn or (told.forced and not any(drawn))
        assert told.selected == [place for place, chosen in enumerate(told.mask) if chosen]
        for place, token in enumerate(told.tokens):
            if strategy == "word" and token.startswith("##"):
                assert told.random_draw[place] == told.random_draw[place - 1]


def test_replacements_are_mask_random_and_own_and_never_special(bert: MaskedLM) -> None:
    masking = MaskingSettings(rate=1.0, mask_share=0.4, random_share=0.3)
    kinds = {"mask": 0, "own": 0, "random": 0}
    for seed in range(20):
        told = explain(TEXT, bert, masking=masking, seed=seed)
        assert told.masked_tokens == bert.tokenizer.convert_ids_to_tokens(told.masked_input_ids)
        for place, (before, after) in enumerate(zip(told.input_ids, told.masked_input_ids, strict=True)):
            if not told.mask[place]:
                assert before == after
                continue
            kind = "mask" if after == bert.vocabulary.mask_id else "own" if before == after else "random"
            kinds[kind] += 1
            assert kind == "mask" or not bert.vocabulary.special[after]
    shares = {kind: count / sum(kinds.values()) for kind, count in kinds.items()}
    assert shares == pytest.approx({"mask": 0.4, "own": 0.3, "random": 0.3}, abs=0.07)


def test_the_seed_alone_decides(bert: MaskedLM) -> None:
    assert explain(TEXT, bert, seed=3) == explain(TEXT, bert, seed=3)
    assert len({tuple(explain(TEXT, bert, seed=seed).selected) for seed in range(8)}) > 4


def test_where_nothing_is_drawn_the_lowest_draw_is_masked_and_said_so(bert: MaskedLM) -> None:
    masking = MaskingSettings(rate=1e-9)
    told = explain(TEXT, bert, masking=masking)
    assert told.random_draw is not None
    draws = [
        draw for draw, special in zip(told.random_draw, told.special_tokens_mask, strict=True) if not special
    ]
    assert told.forced
    assert told.to_dict()["forced"] is True
    assert [told.random_draw[place] for place in told.selected] == [min(draws)]
    assert told.masked_tokens[told.selected[0]] == "[MASK]"
    assert told.loss == told.predictions[0].loss
    assert "No draw was below the rate" in told.to_html()
    assert not explain(TEXT, bert, masking=MaskingSettings(rate=1.0)).forced
    assert not explain(TEXT, bert, masking=masking, mask_positions=[1]).forced


def test_a_forced_draw_masks_a_whole_word_where_words_are_drawn(bert: MaskedLM) -> None:
    for seed in range(6):
        told = explain(TEXT, bert, masking=MaskingSettings(rate=1e-9, strategy="word"), seed=seed)
        assert told.forced
        assert told.units is not None
        assert told.selected == [
            at for at, unit in enumerate(told.units) if unit == told.units[told.selected[0]]
        ]


def test_a_text_of_special_tokens_has_no_loss(bert: MaskedLM) -> None:
    told = explain("☃", bert)
    assert told.tokens == ["[CLS]", "[UNK]", "[SEP]"]
    assert told.selected == told.predictions == []
    assert told.loss is None
    assert set(told.token_loss) == {None}
    assert "Nothing was selected" in told.to_html()
    everything = explain("☃", bert, labels="all")
    assert everything.loss is not None
    assert everything.masked_input_ids == everything.input_ids


# --- positions that are given -------------------------------------------------------------------------------------


def test_given_positions_all_become_the_mask_in_any_order(bert: MaskedLM) -> None:
    told = explain(TEXT, bert, mask_positions=np.array([7, 2, 5]), masking=MaskingSettings(mask_share=0))
    assert told.selected == [2, 5, 7]
    assert {told.masked_input_ids[place] for place in told.selected} == {bert.vocabulary.mask_id}
    assert told.random_draw is None
    assert sum(told.mask) == 3
    assert not explain(TEXT, bert).mask_positions_given


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        ([0], ["0", "[CLS]"]),
        ([3, 4], ["4", "[SEP]"]),
        ([5], ["5", "0 ('[CLS]')", "4 ('[SEP]')"]),
        ([-1], ["-1", "[SEP]"]),
        ([2, 1, 2], ["2", "##og", "twice"]),
        ([1.5], ["1.5", "integers"]),
        (["2"], ["'2'", "integers"]),
        ([True], ["True", "integers"]),
        ([], ["empty"]),
    ],
)
def test_bad_positions_are_named_with_their_token(positions: Any, said: list[str], bert: MaskedLM) -> None:
    with pytest.raises(ConfigError) as caught:
        explain("dog.", bert, mask_positions=positions)
    for part in said:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tokens_of_the_test_above(bert: MaskedLM) -> None:
    assert explain("dog.", bert).tokens == ["[CLS]", "d", "##og", ".", "[SEP]"]


# --- text that cannot be explained --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_empty_text_is_refused(text: str, bert: MaskedLM) -> None:
    with pytest.raises(DataError, match="empty"):
        explain(text, bert)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_the_longest_text_that_fits_and_one_more(family: str, model_of: Callable[[str], MaskedLM]) -> None:
    model = model_of(family)
    word = model.tokenizer.convert_ids_to_tokens(int(model.vocabulary.replacements[0]))
    room = model.max_length - model.vocabulary.overhead
    told = explain(word * room, model, seed=1)
    assert len(told.tokens) == model.max_length
    with pytest.raises(DataError, match=f"{model.max_length + 1} tokens.*{model.max_length}"):
        explain(word * (room + 1), model)


def test_other_bad_arguments_are_refused(bert: MaskedLM) -> None:
    for top_k in (0, bert.vocabulary.size + 1):
        with pytest.raises(ConfigError, match="top_k"):
            explain(TEXT, bert, top_k=top_k)
    with pytest.raises(ConfigError, match="labels"):
        explain(TEXT, bert, labels="some")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_literal_special_tokens_are_text(family: str, model_of: Callable[[str], MaskedLM]) -> None:
    model = model_of(family)
    told = explain("a [SEP] </s> [MASK] <mask> [CLS] b", model)
    assert sum(told.special_tokens_mask) == model.vocabulary.overhead
    assert model.vocabulary.mask_id not in told.input_ids


# --- what comes out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [None, [2]])
def test_the_dictionary_is_plain_json(positions: Any, bert: MaskedLM) -> None:
    told = explain(TEXT, bert, mask_positions=positions, seed=1)
    content = told.to_dict()
    assert list(content) == KEYS
    assert json.loads(json.dumps(content)) == content
    for item in content["predictions"]:
        assert set(item) == {"position", "original", "shown", "top", "loss"}
        assert all(set(guess) == {"token", "token_id", "probability"} for guess in item["top"])
    length = len(content["tokens"])
    per_token = (
        "input_ids token_type_ids attention_mask labels special_tokens_mask mask masked_tokens token_loss"
    )
    assert all(len(content[key]) == length for key in per_token.split())


class Page(HTMLParser):
    """Reads a page: its text, its elements, and whether every element is closed in order."""

    VOID = {"meta", "br", "hr", "img", "link", "input"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open):
            self.said.append(data)

    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


EXPLANATIONS: list[dict[str, Any]] = [
    {"seed": 1},
    {"seed": 2, "labels": "all", "masking": MaskingSettings(rate=1.0, mask_share=0.4, random_share=0.3)},
    {"mask_positions": [2, 3], "labels": "all"},
    {"masking": MaskingSettings(rate=1e-9)},
    {"masking": MaskingSettings(rate=0.5, strategy="word")},
]


@pytest.mark.parametrize("how", EXPLANATIONS, ids=["drawn", "all", "given", "nothing", "words"])
def test_the_page_tells_eight_steps_offline(how: dict[str, Any], bert: MaskedLM) -> None:
    told = explain(TEXT, bert, **how)
    html = told.to_html()
    page = Page(html)
    steps = re.findall(r"Step (\d):", page.text())
    assert steps == list("12345678")
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "a"}
    assert not re.search(r"https?:|url\(|@import|\ssrc=|\son\w+=", html)
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    figures = [*told.tokens, str(told.input_ids[1])]
    figures += [str(told.selected)] if told.selected else []
    figures += [f"{told.loss:.4f}"] if told.loss is not None else ["no loss"]
    figures += [f"{told.random_draw[1]:.3f}"] if told.random_draw else []
    for figure in figures:
        assert figure in page.text()


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_the_page_quotes_the_text_and_marks_what_is_masked(
    family: str, model_of: Callable[[str], MaskedLM]
) -> None:
    def quoted(told: Explanation) -> str:
        return re.findall(r"<blockquote[^>]*>(.*?)</blockquote>", told.to_html(), re.DOTALL)[0]

    text = "An  unusually long\nsentence, naïve!"
    told = explain(text, model_of(family), masking=MaskingSettings(rate=1.0))
    assert told.spans[0] == told.spans[-1] == (0, 0)
    # A character of several tokens is marked once, and spaces between tokens not at all.
    assert re.sub(r"</?mark[^>]*>", "", quoted(told)) == text
    assert "".join(re.findall(r"<mark[^>]*>(.*?)</mark>", quoted(told))) == "".join(text.split())
    alone = [text[start:end].strip() for start, end in told.spans]
    place = next(place for place, part in enumerate(alone) if len(part) > 1 and text.count(part) == 1)
    one = explain(text, model_of(family), mask_positions=[place])
    assert quoted(one) == text.replace(alone[place], f'<mark class="mask">{alone[place]}</mark>')


def test_everything_on_the_page_is_escaped(bert: MaskedLM) -> None:
    text = "<script>alert('1')</script> & \"x\" <b>bold</b>"
    told = explain(text, bert, masking=MaskingSettings(rate=0.5), seed=2)
    object.__setattr__(told, "model", "<img src=x onerror=alert(1)>")
    html = told.to_html()
    page = Page(html)
    assert not {tag for tag, _ in page.elements} & {"script", "img"}
    assert sum(tag == "b" for tag, _ in page.elements) == html.count("<b>") + html.count("<b ")
    assert "<b>bold" not in html
    assert "<img src=x onerror=alert(1)>" in page.text()
    assert "".join("".join(page.said).split()).count("<script>alert('1')</script>&\"x\"<b>bold</b>") == 1


def test_the_page_is_a_function_of_the_explanation(bert: MaskedLM) -> None:
    told: Explanation = explain(TEXT, bert, seed=1)
    assert told.to_html() == told.to_html() == explain(TEXT, bert, seed=1).to_html()


def test_bars_are_as_long_as_the_probabilities(bert: MaskedLM) -> None:
    told = explain(TEXT, bert, mask_positions=[2])
    widths = [
        float(match)
        for match in re.findall(r'class="track" aria-hidden="true"><i style="width:([\d.]+)%', told.to_html())
    ]
    wanted = [100 * guess.probability for guess in told.predictions[0].top]
    assert widths[:5] == pytest.approx(wanted, abs=0.006)


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("bert", "there is one, so all are 0."),
        ("roberta", "there is one, so all are 0."),
        ("modernbert", "this model makes no use of them"),
        ("distilbert", "this model makes no use of them"),
    ],
)
def test_the_page_says_of_the_model_whether_it_uses_token_types(
    family: str, told: str, model_of: Callable[[str], MaskedLM]
) -> None:
    model = model_of(family)
    names = model.tokenizer.model_input_names
    for listed in (["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]):
        model.tokenizer.model_input_names = listed  # the tokenizer's file does not decide it
        try:
            assert told in explain("the river", model).to_html()
        finally:
            model.tokenizer.model_input_names = names


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_bytes_of_tokens_are_no_letters(family: str, model_of: Callable[[str], MaskedLM]) -> None:
    told = explain("the café 京", model_of(family))
    # Each of these bytes is a token of its own.
    assert "".join(told.tokens[1:-1]) == r"theĠcaf\xc3\xa9Ġ\xe4\xba\xac"
    others = [*told.masked_tokens, *(guess.token for one in told.predictions for guess in one.top)]
    assert not [token for token in others if {*token} & {*"ÃâģĢľĿ"}]
