"""The collator: what a Trainer gets, the same masks from any number of workers, and clear refusals."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from unmask.config.settings import MaskingSettings
from unmask.data.collator import IGNORED, MLMCollator
from unmask.errors import ConfigError, DataError

FAMILIES = ["wordpiece", "byte_level", "modernbert", "unigram", "chinese"]
Features = list[dict[str, list[int]]]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    """A tokenizer of every family."""
    return request.getfixturevalue(f"{request.param}_tokenizer")


@pytest.fixture
def features(wordpiece_tokenizer: Any, corpus_text: list[str]) -> Features:
    """60 tokenised texts of different lengths."""
    return [dict(wordpiece_tokenizer(text)) for text in corpus_text[:60]]


def rows(batch: dict[str, torch.Tensor]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield what is shown and what is asked in every text of a batch, without padding."""
    for shown, labels, attended in zip(
        batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
    ):
        kept = attended.bool()
        yield tuple(shown[kept].tolist()), tuple(labels[kept].tolist())


def originals(shown: tuple[int, ...], labels: tuple[int, ...]) -> list[int]:
    return [label if label != IGNORED else id for id, label in zip(shown, labels, strict=True)]


# --- one batch ----------------------------------------------------------------------------------------------------


def test_a_batch_is_what_a_model_takes(family: Any, corpus_text: list[str]) -> None:
    features = [dict(family(text)) for text in corpus_text[:8]]
    batch = MLMCollator(family)(features)
    longest = max(len(feature["input_ids"]) for feature in features)
    assert set(batch) == {*features[0], "labels"}
    assert all(part.dtype == torch.int64 and part.shape == (8, longest) for part in batch.values())
    padding = batch["attention_mask"] == 0
    assert (batch["input_ids"][padding] == family.pad_token_id).all()
    assert (batch["labels"][padding] == IGNORED).all()
    for feature, (shown, labels) in zip(features, rows(batch), strict=True):
        assert originals(shown, labels) == feature["input_ids"]


def test_the_loss_of_a_model_is_over_the_targets(
    tiny_model: Callable[..., Any], wordpiece_tokenizer: Any, features: Features
) -> None:
    model = tiny_model("bert", len(wordpiece_tokenizer))
    batch = MLMCollator(wordpiece_tokenizer)(features)
    with torch.no_grad():
        out = model(**batch)
    wanted = batch["labels"] != IGNORED
    own = torch.nn.functional.cross_entropy(out.logits[wanted], batch["labels"][wanted])
    assert float(out.loss) == pytest.approx(float(own), rel=1e-6)


def test_rate_and_split_are_met(wordpiece_tokenizer: Any) -> None:
    special = len(wordpiece_tokenizer.all_special_ids)
    draw = np.random.default_rng(0)
    texts = [draw.integers(special, len(wordpiece_tokenizer), 400).tolist() for _ in range(300)]
    batch = MLMCollator(wordpiece_tokenizer)(texts)
    asked = batch["labels"] != IGNORED
    assert float(asked.float().mean()) == pytest.approx(0.15, abs=0.005)
    shown = batch["input_ids"][asked]
    assert float((shown == wordpiece_tokenizer.mask_token_id).float().mean()) == pytest.approx(0.8, abs=0.01)
    assert float((shown == batch["labels"][asked]).float().mean()) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("strategy", ["token", "word", "span"])
def test_special_tokens_are_never_asked_for(strategy: Any, family: Any, corpus_text: list[str]) -> None:
    collator = MLMCollator(
        family, MaskingSettings(strategy=strategy, rate=1.0, mask_share=0.0, random_share=1.0)
    )
    batch = collator([dict(family(text)) for text in corpus_text[:20]])
    special = torch.tensor(family.all_special_ids)
    for shown, labels in rows(batch):
        assert shown[0] == family.cls_token_id
        assert shown[-1] == family.sep_token_id
        assert labels[0] == labels[-1] == IGNORED
    asked = batch["labels"] != IGNORED
    assert not torch.isin(batch["labels"][asked], special).any()
    assert not torch.isin(batch["input_ids"][asked], special).any()


def test_words_are_masked_whole(wordpiece_tokenizer: Any, features: Features) -> None:
    collator = MLMCollator(wordpiece_tokenizer, MaskingSettings(strategy="word", rate=0.5))
    for shown, labels in rows(collator(features)):
        names = wordpiece_tokenizer.convert_ids_to_tokens(originals(shown, labels))
        for place, name in enumerate(names):
            if name.startswith("##"):
                assert (labels[place] == IGNORED) == (labels[place - 1] == IGNORED)


def test_a_segmenter_joins_chinese_characters(chinese_tokenizer: Any) -> None:
    features = [dict(chinese_tokenizer("春天来了花园里的花都开了" * 8))] * 1
    masking = MaskingSettings(strategy="word", rate=0.5)
    pairs = MLMCollator(
        chinese_tokenizer, masking, segmenter=lambda text: [text[n : n + 2] for n in range(0, len(text), 2)]
    )
    ((_, labels),) = rows(pairs(features))
    asked = [label != IGNORED for label in labels[1:-1]]
    assert asked[::2] == asked[1::2]
    ((_, alone),) = rows(MLMCollator(chinese_tokenizer, masking)(features))
    assert [label != IGNORED for label in alone[1:-1:2]] != [label != IGNORED for label in alone[2:-1:2]]


def test_bare_lists_and_other_sequences_are_taken(wordpiece_tokenizer: Any, features: Features) -> None:
    collator = MLMCollator(wordpiece_tokenizer)
    wanted = collator(features)
    ids = [feature["input_ids"] for feature in features]
    for kind in (list, np.array, torch.tensor):
        bare = collator([kind(row) for row in ids])
        named = collator([{"input_ids": kind(row)} for row in ids])
        for part in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(bare[part], wanted[part])
            assert torch.equal(named[part], wanted[part])
        assert "token_type_ids" not in bare


@pytest.mark.parametrize("strategy", ["token", "word", "span"])
@pytest.mark.parametrize(("before", "after"), [(0, 5), (5, 0), (2, 3)])
def test_padding_that_is_there_changes_no_mask(
    before: int, after: int, strategy: Any, wordpiece_tokenizer: Any, features: Features
) -> None:
    collator = MLMCollator(wordpiece_tokenizer, MaskingSettings(strategy=strategy))
    pad = wordpiece_tokenizer.pad_token_id
    padded = [
        {
            "input_ids": [*[pad] * before, *feature["input_ids"], *[pad] * after],
            "attention_mask": [0] * before + [1] * len(feature["input_ids"]) + [0] * after,
        }
        for feature in features
    ]
    batch = collator(padded)
    assert list(rows(batch)) == list(rows(collator(features)))
    padding = batch["attention_mask"] == 0
    assert (batch["input_ids"][padding] == pad).all()
    assert (batch["labels"][padding] == IGNORED).all()


def test_the_width_is_rounded_up(wordpiece_tokenizer: Any, features: Features) -> None:
    batch = MLMCollator(wordpiece_tokenizer, pad_to_multiple_of=8)(features)
    assert batch["input_ids"].shape[1] % 8 == 0
    assert list(rows(batch)) == list(rows(MLMCollator(wordpiece_tokenizer)(features)))


def test_tokens_that_are_called_special_are_no_targets(wordpiece_tokenizer: Any) -> None:
    ids = list(range(10, 30))
    called = [int(n % 2) for n in range(20)]
    batch = MLMCollator(wordpiece_tokenizer, MaskingSettings(rate=1.0))(
        [{"input_ids": ids, "special_tokens_mask": called}]
    )
    assert (batch["labels"][0] == IGNORED).int().tolist() == called
    assert "special_tokens_mask" not in batch


def test_copies_of_a_text_have_masks_of_their_own_by_their_ids(wordpiece_tokenizer: Any) -> None:
    collator, copies = MLMCollator(wordpiece_tokenizer), 2000
    ids = [int(number) for number in wordpiece_tokenizer("the harbour")["input_ids"]]
    same = collator([ids] * copies)
    assert len(set(rows(same))) == 1
    numbered = [{"input_ids": ids, "id": number} for number in range(copies)]
    batch = collator(numbered)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert float((batch["labels"] != IGNORED).sum() / (copies * (len(ids) - 2))) == pytest.approx(
        0.15, abs=0.03
    )
    again = collator([{"input_ids": ids, "id": np.int64(7)}, {"input_ids": ids, "id": torch.tensor(8)}])
    assert torch.equal(again["labels"], batch["labels"][7:9])
    named = collator([{"input_ids": ids, "id": f"note-{number}"} for number in range(copies)])
    assert not torch.equal(named["labels"], batch["labels"])


# --- determinism --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["token", "span"])
def test_masks_do_not_depend_on_batches_order_or_workers(
    strategy: Any, wordpiece_tokenizer: Any, features: Features
) -> None:
    collator = MLMCollator(wordpiece_tokenizer, MaskingSettings(strategy=strategy), seed=5)
    wanted = list(rows(collator(features)))
    assert [row for feature in features for row in rows(collator([feature]))] == wanted
    assert list(rows(collator(features[::-1])))[::-1] == wanted
    for workers, size in ((0, 7), (2, 7), (2, 32)):
        loader = DataLoader(features, size, collate_fn=collator, num_workers=workers)  # type: ignore[arg-type]
        assert [row for batch in loader for row in rows(batch)] == wanted


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_loader_follows_the_epoch(
    workers: int, persistent: bool, wordpiece_tokenizer: Any, features: Features
) -> None:
    collator = MLMCollator(wordpiece_tokenizer)
    loader = DataLoader(features, 16, collate_fn=collator, num_workers=workers, persistent_workers=persistent)  # type: ignore[arg-type]
    epochs = []
    for epoch in (0, 1, 0):
        collator.set_epoch(epoch)
        epochs.append([row for batch in loader for row in rows(batch)])
    assert epochs[0] == epochs[2]
    assert epochs[0] != epochs[1]


def test_seeds_give_other_masks(wordpiece_tokenizer: Any, features: Features) -> None:
    one, other = (list(rows(MLMCollator(wordpiece_tokenizer, seed=seed)(features))) for seed in (0, 1))
    assert one != other
    assert list(rows(MLMCollator(wordpiece_tokenizer, seed=0)(features))) == one


def test_evaluation_does_not_follow_the_epoch(wordpiece_tokenizer: Any, features: Features) -> None:
    collator = MLMCollator(wordpiece_tokenizer, seed=3)
    evaluation = collator.evaluation()
    first = list(rows(evaluation(features)))
    collator.set_epoch(4)
    assert list(rows(evaluation(features))) == first
    assert list(rows(MLMCollator(wordpiece_tokenizer, seed=9).evaluation()(features))) == first
    assert list(rows(collator(features))) != first


def test_evaluation_replaces_every_target_by_the_mask_token(
    wordpiece_tokenizer: Any, features: Features
) -> None:
    batch = MLMCollator(wordpiece_tokenizer).evaluation()(features)
    shown = batch["input_ids"][batch["labels"] != -100]
    assert len(shown) > 10
    assert (shown == wordpiece_tokenizer.mask_token_id).all()


def test_the_callback_tells_the_epoch_of_a_trainer(wordpiece_tokenizer: Any, features: Features) -> None:
    collator = MLMCollator(wordpiece_tokenizer)
    expected = MLMCollator(wordpiece_tokenizer)
    callback = collator.callback()
    # What a Trainer passes: the epoch as a fraction, also after a resume in the middle of one.
    for state, epoch in ((None, 0), (0.0, 0), (1.0, 1), (3.4, 3)):
        callback.on_epoch_begin(None, SimpleNamespace(epoch=state), None)  # type: ignore[arg-type]
        expected.set_epoch(epoch)
        assert list(rows(collator(features))) == list(rows(expected(features)))


class Texts(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Tokenised texts as a data set."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, number: int) -> dict[str, list[int]]:
        return {"input_ids": self.features[number]["input_ids"]}


class Recorded(torch.nn.Module):
    """A model that keeps the batches that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[dict[str, torch.Tensor]] = []

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        parts = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        self.batches.append({name: part.clone() for name, part in parts.items()})
        return {"loss": self.weight * 1.0}


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_bare_trainer_has_new_masks_in_every_epoch(
    workers: int, persistent: bool, wordpiece_tokenizer: Any, features: Features, tmp_path: Any
) -> None:
    from transformers import Trainer, TrainingArguments

    model, epochs = Recorded(), 3
    arguments = TrainingArguments(
        str(tmp_path),
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=persistent,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    collator = MLMCollator(wordpiece_tokenizer, seed=4)
    Trainer(model, arguments, train_dataset=Texts(features), data_collator=collator).train()
    expected = MLMCollator(wordpiece_tokenizer, seed=4)
    size = len(model.batches) // epochs
    for epoch in range(epochs):
        batches = model.batches[epoch * size : (epoch + 1) * size]
        found = sorted(row for batch in batches for row in rows(batch))
        expected.set_epoch(epoch)
        assert found == sorted(rows(expected(features)))


def test_a_copy_masks_alike(wordpiece_tokenizer: Any, features: Features) -> None:
    collator = MLMCollator(wordpiece_tokenizer, MaskingSettings(strategy="word"), seed=2)
    collator.set_epoch(3)
    wanted = list(rows(collator(features)))
    for other in (copy.deepcopy(collator), pickle.loads(pickle.dumps(collator))):
        assert list(rows(other(features))) == wanted


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "an empty list of features"),
        ([{"attention_mask": [1]}], "feature 0 has no input_ids, it has attention_mask"),
        ([{}], "feature 0 has no input_ids, it has nothing"),
        (
            [[5, 6], {"input_ids": [5], "text": "a"}],
            "feature 1 has 'text'; MLMCollator takes input_ids, attention_mask",
        ),
        (
            [{"input_ids": [5, 6], "attention_mask": [1]}],
            "the columns of feature 0 must be flat and of one length",
        ),
        ([{"input_ids": [[5, 6]]}], "the columns of feature 0 must be flat and of one length"),
        (["a text"], "feature 0 must hold integers only"),
        ([[5, 10**6]], "token ids go from 5 to 1000000, and the tokenizer has"),
        ([[-1]], "token ids go from -1"),
        ([{"input_ids": [5], "id": 1.5}], "the id of feature 0 must be an integer or a string, not 1.5"),
        ([{"input_ids": [5], "id": None}], "the id of feature 0 must be an integer or a string, not None"),
    ],
)
def test_features_that_cannot_be_masked_are_refused(
    features: Any, message: str, wordpiece_tokenizer: Any
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        MLMCollator(wordpiece_tokenizer)(features)
    assert "\n" not in str(caught.value)


def test_texts_without_a_token_are_left_as_they_are(wordpiece_tokenizer: Any) -> None:
    batch = MLMCollator(wordpiece_tokenizer, MaskingSettings(strategy="word"))([[], [5, 6], []])
    assert batch["attention_mask"].tolist() == [[0, 0], [1, 1], [0, 0]]


def test_a_strategy_that_does_not_fit_is_refused_at_once() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"a": 0, "[MASK]": 1}, unk_token="a"))
    wordless = PreTrainedTokenizerFast(tokenizer_object=core, mask_token="[MASK]")
    with pytest.raises(ConfigError, match="needs a tokenizer that marks where words begin"):
        MLMCollator(wordless, MaskingSettings(strategy="word"))
    with pytest.raises(ConfigError, match="has no mask token"):
        MLMCollator(PreTrainedTokenizerFast(tokenizer_object=core))
    empty = Tokenizer(models.WordLevel({"[UNK]": 0, "[MASK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ConfigError, match="it has 2 special tokens and no entries for text"):
        MLMCollator(PreTrainedTokenizerFast(tokenizer_object=empty, mask_token="[MASK]", unk_token="[UNK]"))
