"""Train tokenizers: WordPiece, byte-level BPE or Unigram, with the special tokens of a model family.

Marks are kept unless ``accents`` is ``strip``: in most scripts they are letters. What a tokenizer loses of its training
text all the same is measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from unmask.config.settings import ModelSettings
from unmask.data.round_trip import RoundTrip, WordCounter
from unmask.data.tokenizer import plain_copy
from unmask.data.words import is_ideograph
from unmask.errors import DataError
from unmask.progress import Progress
from unmask.reporting.format import round_trip_text
from unmask.vocabulary.families import BERT, TokenizerFamily
from unmask.vocabulary.unigram import WORD_MARK, alphabet_of, unigram_pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

KINDS = {"wordpiece": "WordPiece", "byte-level-bpe": "byte-level BPE", "unigram": "Unigram"}
"""Names of the kinds."""
LOSSY = 0.005
"""Share of characters or words from which their loss is a warning."""
_SPARE_MERGES = 4096
# In scripts without spaces a whole phrase is one pre-token.
_LONGEST_WORD = 500
# Candidates of Unigram per entry.
_SEEDS = 3
# Control characters and invisible ones, but not white space, joiners and selectors.
_INVISIBLE = r"[\x00-\x08\x0E-\x1F\x7F-\x84\x86-\x9F\u00AD\u200E\u200F\u202A-\u202E\u2060-\u2064\u2066-\u206F\uFEFF\uFFFD]"
_DIACRITICS = "[\u0300-\u036f]"


class NewTokenizer(NamedTuple):
    """A trained tokenizer, what it loses of its training text, and the entries that were asked for."""

    tokenizer: PreTrainedTokenizerBase
    round_trip: RoundTrip
    asked: int

    @property
    def shortfall(self) -> str | None:
        """That the text gave fewer entries than were asked for, and why; ``None`` where it did not."""
        entries = len(self.tokenizer)
        if entries >= self.asked:
            return None
        return (
            f"the vocabulary has {entries:,} entries, not the {self.asked:,} asked for: no more parts of words recur in the "
            f"text; more text gives more"
        )

    def log(self, progress: Progress) -> None:
        """Log that it is smaller than asked for, and what it loses; more than a little is a warning."""
        if self.shortfall:
            progress.log(self.shortfall)
        found = self.round_trip.to_dict()
        lossy = max(found["dropped_share"], found["changed_share"]) >= LOSSY
        (progress.warning if lossy else progress.log)(round_trip_text(found))


def train_tokenizer(
    texts: Iterable[str],
    settings: ModelSettings,
    *,
    family: TokenizerFamily = BERT,
    token_types: bool = True,
) -> NewTokenizer:
    """Train a tokenizer, the same one for the same text.

    Args:
        texts: the training text, read once.
        settings: its kind, size and normalisation; a small text may give fewer entries.
        family: its special tokens, and what the settings leave open.
        token_types: whether the tokenizer returns ``token_type_ids``.

    Raises:
        DataError: the text gave no entries but the special tokens.
    """
    words = WordCounter()
    settings = family.resolve(settings)
    assert settings.tokenizer_kind is not None
    core = _TRAINERS[settings.tokenizer_kind](_counted(texts, words), settings, family)
    if not words.counts or core.get_vocab_size() <= len(family.entries):
        raise DataError("the text is too small to train a tokenizer on: it gave no vocabulary")
    tokenizer = _finished(core, token_types, settings.tokenizer_kind, family)
    return NewTokenizer(tokenizer, RoundTrip.of(plain_copy(tokenizer), words.counts), settings.vocab_size)


def _counted(texts: Iterable[str], words: WordCounter) -> Iterator[str]:
    for text in texts:
        words.add(text)
        yield text


def _finished(
    learned: Tokenizer, token_types: bool, kind: str, family: TokenizerFamily
) -> PreTrainedTokenizerBase:
    """Add the special tokens of a sequence; those that a trainer registered could not be changed."""
    from tokenizers import Tokenizer, processors
    from transformers import AddedToken, PreTrainedTokenizerFast

    core = Tokenizer(learned.model)
    core.normalizer, core.pre_tokenizer = learned.normalizer, learned.pre_tokenizer
    core.decoder = learned.decoder
    single, pair = family.framed()
    ends = [family.specials[name] for name in ("cls", "sep")]
    core.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, core.token_to_id(token)) for token in ends]
    )
    inputs = ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"]
    # The space before a mask belongs to the word that it hides, where words hold their space.
    mask = AddedToken(family.specials["mask"], lstrip=kind != "wordpiece", special=True)
    tokens = {f"{name}_token": token for name, token in family.specials.items()} | {"mask_token": mask}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=inputs, **tokens)


def _normalizer(settings: ModelSettings) -> Any:
    from tokenizers import Regex, normalizers

    forms: dict[str, list[Any]] = {"nfc": [normalizers.NFC()], "nfkc": [normalizers.NFKC()], "none": []}
    kind = settings.tokenizer_kind
    steps: list[Any] = []
    if kind != "byte-level-bpe":
        # A zero-width space separates words of Khmer or Thai.
        steps += [normalizers.Replace(Regex(_INVISIBLE), ""), normalizers.Replace("\u200b", " ")]
    if settings.case == "lower":
        steps.append(normalizers.Lowercase())
    if settings.accents == "strip":
        steps += [normalizers.NFD(), normalizers.Replace(Regex(_DIACRITICS), ""), normalizers.NFC()]
    steps += forms[settings.normal_form]
    if kind == "wordpiece":
        spaced = {"clean_text": False, "strip_accents": False, "lowercase": False}
        steps.append(normalizers.BertNormalizer(handle_chinese_chars=True, **spaced))
    return normalizers.Sequence(steps) if steps else None


def _train_wordpiece(texts: Iterator[str], settings: ModelSettings, family: TokenizerFamily) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    entries = _wordpiece_entries(texts, settings, family)
    vocab = {entry: number for number, entry in enumerate(entries)}
    core = Tokenizer(
        models.WordPiece(vocab, unk_token=family.specials["unk"], max_input_chars_per_word=_LONGEST_WORD)
    )
    core.normalizer = _normalizer(settings)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##")
    return core


def _wordpiece_entries(texts: Iterator[str], settings: ModelSettings, family: TokenizerFamily) -> list[str]:
    """Learn the entries of a WordPiece vocabulary deterministically.

    The library's WordPiece trainer orders equal counts differently in every process; its BPE trainer does not. So
    merges are learned by BPE with a mark at word starts, and converted to WordPiece entries.
    """
    from tokenizers import pre_tokenizers

    size = settings.vocab_size
    merged = list(_learn_merges(texts, settings, pre_tokenizers.BertPreTokenizer(), size + _SPARE_MERGES))
    kept = alphabet_of(merged, size)
    words = (e[1:] if e.startswith(WORD_MARK) else f"##{e}" for e in merged if set(e) <= {*kept, WORD_MARK})
    entries = [*family.entries, *kept, *(f"##{c}" for c in kept if not is_ideograph(c)), *words]
    return list(dict.fromkeys(entry for entry in entries if entry not in ("", "##")))[:size]


def _learn_merges(
    texts: Iterator[str], settings: ModelSettings, split: Any, size: int
) -> dict[str, tuple[str, ...]]:
    """Return characters and merges of BPE, the first learned first, each with the two that it consists of."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.normalizer = _normalizer(settings)
    marked = pre_tokenizers.Metaspace(replacement=WORD_MARK, prepend_scheme="always", split=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([split, marked])
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, show_progress=False, min_frequency=2)
    )
    model = json.loads(core.to_str())["model"]
    pairs = {left + right: (left, right) for left, right in model["merges"]}
    return {entry: pairs.get(entry, ()) for entry, _ in sorted(model["vocab"].items(), key=lambda e: e[1])}


def _train_byte_level(texts: Iterator[str], settings: ModelSettings, family: TokenizerFamily) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.normalizer = _normalizer(settings)
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=max(settings.vocab_size, len(family.entries) + len(alphabet)),
        special_tokens=list(family.entries),
        initial_alphabet=sorted(alphabet),
        min_frequency=2,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return core


def _train_unigram(texts: Iterator[str], settings: ModelSettings, family: TokenizerFamily) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = WordCounter(re.compile(r"\S+"))
    normalizer = _normalizer(settings)

    def counted() -> Iterator[str]:
        for text in texts:
            words.add(text if normalizer is None else normalizer.normalize_str(text))
            yield text

    split = pre_tokenizers.WhitespaceSplit()
    merges = _learn_merges(counted(), settings, split, _SEEDS * settings.vocab_size)
    marked = {WORD_MARK + word: count for word, count in sorted(words.counts.items())}
    pieces = unigram_pieces(merges, marked, settings.vocab_size - len(family.entries))
    core = Tokenizer(
        models.Unigram(
            [*((name, 0.0) for name in family.entries), *pieces], family.entries.index(family.specials["unk"])
        )
    )
    core.normalizer = normalizer
    core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.Metaspace()])
    core.decoder = decoders.Metaspace()
    return core


_TRAINERS: dict[str, Callable[[Iterator[str], ModelSettings, TokenizerFamily], Tokenizer]] = {
    "wordpiece": _train_wordpiece,
    "byte-level-bpe": _train_byte_level,
    "unigram": _train_unigram,
}
