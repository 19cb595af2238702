"""A trimmed model is the old one for all text whose tokens it has kept."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import CHINESE, sentences
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

import unmask
from unmask.cli.main import main
from unmask.errors import ConfigError
from unmask.vocabulary.smaller_tokenizer import Entries

Checkpoint = Callable[[str], Path]
LINES = sentences()[:12]
SCRIPTS = [*CHINESE, "Привет, мир!", "สวัสดีชาวโลก", "नमस्ते दुनिया", "مرحبا بالعالم", "naïve café 🙂"]


def metaspace_bpe(texts: list[str]) -> PreTrainedTokenizerFast:
    """The layout of a sentencepiece BPE: ▁ for spaces, bytes for what has no entry, several merges for an entry."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", "<pad>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    core.train_from_iterator(
        (word for text in texts for word in text.split()),
        trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False),
    )
    content = json.loads(core.to_str())
    content["added_tokens"] = content["added_tokens"][:5]
    model = content["model"]
    ordered = sorted(model["vocab"], key=model["vocab"].__getitem__)
    # As in the conversion of sentencepiece: every pair of entries that spells a third is a merge.
    model["merges"] = [
        [entry[:cut], entry[cut:]]
        for entry in ordered[261:]
        for cut in range(1, len(entry))
        if entry[:cut] in model["vocab"] and entry[cut:] in model["vocab"]
    ]
    core = Tokenizer.from_str(json.dumps(content))
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


@pytest.fixture(scope="module")
def tokenizers_of_all_kinds(
    wordpiece_tokenizer: Any, byte_level_tokenizer: Any, modernbert_tokenizer: Any, unigram_tokenizer: Any
) -> dict[str, Any]:
    return {
        "wordpiece": wordpiece_tokenizer,
        "byte-level": byte_level_tokenizer,
        "specials-last": modernbert_tokenizer,
        "unigram": unigram_tokenizer,
        "metaspace-bpe": metaspace_bpe(sentences()),
    }


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level", "specials-last", "unigram", "metaspace-bpe"])
def test_text_of_kept_tokens_is_tokenised_as_before(
    tokenizers_of_all_kinds: dict[str, Any], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For any entries that are dropped, in known words, unseen combinations of their parts, and other scripts."""
    tokenizer = tokenizers_of_all_kinds[kind]
    entries = Entries(tokenizer)
    words = sorted({word for line in sentences() for word in line.split()})
    parts = st.lists(
        st.sampled_from([*words, *(word[:3] for word in words), *SCRIPTS]), min_size=1, max_size=6
    )
    texts = st.lists(st.tuples(st.booleans(), parts), min_size=40, max_size=40)
    compared = 0

    @settings(max_examples=12)
    @given(texts, st.integers(0, 2**31), st.sampled_from([0.05, 0.3, 0.7, 0.95]))
    def check(drawn: list[tuple[bool, list[str]]], seed: int, share: float) -> None:
        nonlocal compared
        draw = random.Random(seed)
        kept = entries.closed(
            entries.required | {number for number in entries.ids.values() if draw.random() < share}
        )
        order = entries.in_order(kept, None)
        new = entries.write(tokenizer, order, tmp_path_factory.mktemp("tokenizer"))
        assert new.special_tokens_map == tokenizer.special_tokens_map
        places = {old: number for number, old in enumerate(order)}
        for glued, chosen in drawn:
            text = ("" if glued else " ").join(chosen)
            old = tokenizer(text)["input_ids"]
            found = new(text)["input_ids"]
            if tokenizer.unk_token_id in old:
                continue
            assert new.unk_token_id not in found
            if {*old} <= kept:
                compared += 1
                assert found == [places[number] for number in old]

    check()
    assert compared > 20  # the test would say nothing if no text were of kept tokens


ARCHITECTURES = [
    ("bert", {}),
    ("bert", {"tie_word_embeddings": False}),
    ("roberta", {"tie_word_embeddings": False}),
    ("modernbert", {}),
    ("deberta-v2", {"legacy": False}),
    ("mobilebert", {}),
]


@pytest.mark.parametrize(("architecture", "config"), ARCHITECTURES, ids=str)
def test_logits_of_kept_entries_are_as_before(
    checkpoint: Checkpoint, tiny_model: Any, tmp_path: Path, architecture: str, config: dict[str, Any]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint(architecture))
    rows = -(-len(tokenizer) // 64) * 64
    model = tiny_model(architecture, rows, **config)
    for name, weight in model.named_parameters():
        if name.endswith("bias") and rows in weight.shape:
            torch.nn.init.normal_(weight)  # of a new model they are zero, so that losing them would not show
    model.save_pretrained(tmp_path / "old")
    tokenizer.save_pretrained(tmp_path / "old")
    found = unmask.trim_tokenizer(tmp_path / "old", LINES, out=tmp_path / "new", keep=1, documents="line")
    again = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert found.after.entries == len(again) < len(tokenizer)
    assert found.after.rows % 64 == 0
    assert found.changed.unchanged == found.kept == 1
    before, after = (AutoModelForMaskedLM.from_pretrained(tmp_path / name).eval() for name in ("old", "new"))
    assert after.config.vocab_size == found.after.rows
    old_ids = [
        tokenizer.get_vocab()[entry] for entry in sorted(again.get_vocab(), key=again.get_vocab().__getitem__)
    ]
    ids = tokenizer(LINES[0], return_tensors="pt")["input_ids"]
    new_ids = again(LINES[0], return_tensors="pt")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[0]) == again.convert_ids_to_tokens(new_ids[0])
    with torch.no_grad():
        wanted, logits = before(input_ids=ids).logits[..., old_ids], after(input_ids=new_ids).logits
    torch.testing.assert_close(logits[..., : len(again)], wanted)
    for name in ("pad", "cls", "sep", "mask"):
        if (number := getattr(before.config, f"{name}_token_id", None)) is not None:
            assert old_ids[getattr(after.config, f"{name}_token_id")] == number


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "deberta-v2"])
def test_added_words_are_kept_and_can_be_trained(
    checkpoint: Checkpoint, tmp_path: Path, architecture: str
) -> None:
    text = [f"The cardiomyopathy of {n} patients is an echocardiogramme." for n in range(60)]
    added = unmask.extend_tokenizer(text, model=checkpoint(architecture), out=tmp_path / "extended", add=2)
    unmask.trim_tokenizer(tmp_path / "extended", LINES, out=tmp_path / "new")
    listed = json.loads((tmp_path / "new" / "added_words.json").read_text(encoding="utf-8"))["words"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert [word["word"] for word in listed] == [word.word for word in added.words]
    for word in listed:
        assert tokenizer(f"a {word['word']}", add_special_tokens=False)["input_ids"][-1] == word["id"]
    run = unmask.train(
        text,
        model=tmp_path / "new",
        out=tmp_path / "run",
        max_steps=1,
        batch_tokens=64,
        new_embeddings_steps=1,
    )
    smaller = unmask.trim_tokenizer(run.folder.model, text, out=tmp_path / "smaller")
    assert smaller.after.entries < smaller.before.entries


def test_the_verb_says_what_changes(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    call = ["tokenizer", "trim", str(checkpoint("bert")), "--data", str(path), "--documents", "line"]
    assert main([*call, "--keep", "95%", "-o", str(tmp_path / "new")]) == 0
    shown = capsys.readouterr().out
    for expected in (
        "entries",
        "unknown tokens",
        "of these tokens are as before",
        "held-out",
        "unmask compare",
    ):
        assert expected in shown
    assert main([*call, "--keep", "0.9", "-o", str(tmp_path / "json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0.9 <= found["kept"] < 1
    assert found["changed"]["unchanged"] < 1
    assert found["changed"]["unknown_after"] == found["changed"]["unknown_before"]
    assert found["after"]["mb"] < found["before"]["mb"]
    before = sorted(tmp_path.iterdir())
    for keep in ("0%", "101%", "99.9", "most", "nan"):
        assert main([*call, "--keep", keep, "-o", str(tmp_path / "no")]) == 2
        assert f"not '{keep}'" in capsys.readouterr().err
    path.write_text("\n", encoding="utf-8")
    assert main([*call, "-o", str(tmp_path / "no")]) == 3
    assert sorted(tmp_path.iterdir()) == before


def test_where_nothing_can_be_dropped_nothing_is_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    unmask.trim_tokenizer(checkpoint("bert"), LINES, out=tmp_path / "one", keep=1)
    with pytest.raises(ConfigError, match=r"none of the .* entries can be dropped"):
        unmask.trim_tokenizer(tmp_path / "one", LINES, out=tmp_path / "two", keep=1)
    assert not (tmp_path / "two").exists()
