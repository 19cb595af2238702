"""Check text before training: encoding, duplicates, test text in it, lengths, vocabulary; then epochs and commands.

Documents are read once; what is kept of them is hashes, sketches, counts and a few examples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.checking.advice import (
    EXTEND_TOKENS,
    SAVED_SHARE,
    TOKENS_PER_WORD,
    estimated_rate,
    literature,
    measured_rate,
    model_for,
    train_command,
)
from unmask.checking.characters import Chunk
from unmask.checking.duplicates import Duplicates, text_keys
from unmask.checking.findings import findings_of
from unmask.checking.leakage import LeakIndex, is_test_name, is_train_name
from unmask.checking.results import DataCheck
from unmask.checking.text import DocumentIndex, Place, TextSurvey, chunked, shown
from unmask.config.settings import DocumentSettings
from unmask.data.corpus import is_corpus
from unmask.data.hub import offline_mode
from unmask.data.packing import SequenceSplit
from unmask.data.reading.documents import DocumentReader
from unmask.data.reading.errors import ErrorCounts, ReadErrors
from unmask.data.reading.inputs import Given, HubInput, Input, StdinInput, as_list, expand_inputs
from unmask.data.unknown import MOST, UNMEASURABLE
from unmask.errors import ConfigError, DataError, UnmaskError, plural
from unmask.progress import Progress
from unmask.remote.files import RemoteFile
from unmask.run_folder import is_model_folder, model_folder
from unmask.training.recipe import default_epochs

if TYPE_CHECKING:
    from unmask.checking.fertility import TokenSurvey

_LONGEST = 512
_SAMPLE = 60_000
_READ_AGAIN = 100_000_000
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def check_data(
    inputs: str | Path | Sequence[str | Path],
    settings: DocumentSettings = DocumentSettings(),
    *,
    model: str | None = None,
    test: Sequence[str | Path] = (),
    max_length: int | None = None,
    offline: bool = False,
    on_found: Callable[[DataCheck], None] = lambda found: None,
    progress: Progress = Progress(),
) -> DataCheck:
    """Check text before training.

    Files that cannot be read are reported and the others checked. Where the inputs themselves hold files called like
    ``train`` and like ``dev``, ``valid`` or ``test``, the latter are searched for in the former too.

    Args:
        inputs: files, folders, globs, URLs, ``-`` or ``hf://`` addresses, or one of them.
        settings: how text files are split into documents, and the field with the text (of the test files too).
        model: a checkpoint whose tokenizer and speed are measured: Hub name or folder.
        test: test files, which are searched for in the inputs, word for word and in runs of 13 words.
        max_length: tokens of a sequence; by default 512, or what the model takes if that is less.
        offline: make no network call.
        on_found: gets all but the speed and the time in the plan, which take long to measure, before they are.
        progress: told of documents and characters read, and of warnings.

    Raises:
        DataError: nothing could be read, or a file of ``test`` could not.
        ConfigError: the model or its tokenizer cannot be loaded.
    """
    with offline_mode(offline):
        tests = expand_inputs(test) if test else []
        check = _Check(settings, model, max_length, offline, progress)
        found = check.run(as_list(inputs), tests)
        on_found(found)
        found.plan |= check.speed(found.plan)
    return found


class _Check:
    """One check: the surveys that documents are added to, and what was read."""

    def __init__(
        self,
        settings: DocumentSettings,
        model: str | None,
        max_length: int | None,
        offline: bool,
        progress: Progress,
    ) -> None:
        self.settings = settings.model_copy(update={"strict": False, "skip_unreadable": True})
        self.model, self.offline, self.progress = model, offline, progress
        self.index, self.duplicates, self.leaks = DocumentIndex(), Duplicates(), LeakIndex()
        self.tokens: TokenSurvey | None = None
        self.max_length, self.limit, self.overhead = max_length, max_length or _LONGEST, 2
        self.unreadable: list[dict[str, str]] = []
        self.sample: list[str] = []
        self._sampled = 0

    def _load(self, model: str) -> tuple[list[str], list[str]]:
        """Load the tokenizer and find what the model takes; return its control and its other special tokens."""
        from unmask.checking.fertility import TokenSurvey
        from unmask.data.special_tokens import control_ids, text_specials
        from unmask.data.tokenizer import load_tokenizer, vocabulary_of

        tokenizer = load_tokenizer(model, offline=self.offline, progress=self.progress)
        self.tokens = TokenSurvey(tokenizer)
        self.overhead = vocabulary_of(tokenizer).overhead
        self.trainable = True
        try:
            from unmask.model.load import load_for_inference

            longest = load_for_inference(model, device="cpu", offline=self.offline).max_length
        except ConfigError as error:
            if is_model_folder(model) and Path(model_folder(model), "config.json").is_file():
                raise  # a model that cannot be trained
            self.trainable, longest = False, int(tokenizer.model_max_length)
            self.progress.log(f"only the tokenizer of '{model}' is used: {error}")
        if self.max_length is not None and self.max_length > longest:
            raise ConfigError(
                f"--max-length is {self.max_length}, but the model takes at most {longest} tokens"
            )
        self.limit = self.max_length or min(_LONGEST, longest)
        if self.limit <= self.overhead:
            raise ConfigError(f"--max-length is {self.limit}; {self.overhead} of that are special tokens")
        control = tokenizer.convert_ids_to_tokens(sorted(control_ids(tokenizer)))
        return [str(token) for token in control], text_specials(tokenizer)

    def run(self, inputs: list[Given], tests: list[Input]) -> DataCheck:
        given, items = self._expanded(inputs)
        named = _splits(items)
        self.progress.begin("check")
        if not items:
            raise self._nothing()
        self.text = TextSurvey() if self.model is None else TextSurvey(*self._load(self.model))
        self.reader = self._reader(items, self.progress)
        for item in tests:
            self._add_test(item, must=True)
        for item in named:
            if item not in tests:
                self._add_test(item, must=False)
        searched = len(self.leaks.index) > 0
        if searched:
            self.leaks.freeze()
        self._read(searched)
        self.progress.end()
        return self._result(inputs, given, [*map(str, dict.fromkeys([*tests, *named]))], items, searched)

    def _read(self, searched: bool) -> None:
        """Read the documents; errors are counted and become findings."""
        try:
            for chunk in chunked(self.reader):
                self._add(chunk, searched)
        except DataError:
            if not self.unreadable and not self.reader.stats.unreadable:
                raise
        stats = self.reader.stats
        for name, count in self.skipped.skipped_files.items():
            stats.skipped_files[name] = stats.skipped_files.get(name, 0) + count
        self.unreadable += self.skipped.unreadable + stats.unreadable
        if not len(self.index):
            raise self._nothing()

    # ---- reading

    def _expanded(self, inputs: list[Given]) -> tuple[list[str], list[Input]]:
        """Return the inputs that exist, and the files they name; the others are noted as unreadable."""
        there: list[str] = []
        items: list[Input] = []
        self.skipped = ErrorCounts()
        for given in inputs:
            try:
                if is_corpus(str(given)):
                    raise DataError(
                        "a folder of tokenised shards, which hold no text; give the text itself", path=given
                    )
                errors = ReadErrors(self.progress, skip_unreadable=True, counts=self.skipped)
                items += expand_inputs([given], errors=errors)
                there.append(str(given))
            except DataError as error:
                self._note(str(given), error)
        if sum(isinstance(item, StdinInput) for item in items) > 1:
            expand_inputs(["-", "-"])  # says why that cannot be
        return there, items

    def _note(self, source: str, error: DataError) -> None:
        self.unreadable.append({"source": source, "error": str(error)})

    def _reader(
        self, items: Sequence[Input], progress: Progress, *, log_errors: bool = False
    ) -> DocumentReader:
        given = [
            item
            if isinstance(item, Path | RemoteFile)
            else "-"
            if isinstance(item, StdinInput)
            else item.address
            for item in items
        ]
        return DocumentReader(given, self.settings, progress=progress, log_errors=log_errors)

    def _add_test(self, item: Input, *, must: bool) -> None:
        try:
            reader = self._reader([item], self.progress if must else Progress(), log_errors=must)
            reader.small_files |= self.reader.small_files  # the same documents as in the text
            for chunk in chunked(reader):
                self.leaks.add(chunk, text_keys(chunk))
        except DataError:
            if must:
                raise  # otherwise it is noted when the file is read as one of the inputs

    def _nothing(self) -> DataError:
        if len(self.unreadable) == 1:
            return DataError(self.unreadable[0]["error"])
        first = "; ".join(item["error"] for item in self.unreadable[:2])
        return DataError(f"none of {plural(len(self.unreadable), 'input')} could be read: {first}")

    def _add(self, chunk: Chunk, searched: bool) -> None:
        keys = text_keys(chunk)
        self.index.add(chunk)
        self.text.add(chunk)
        self.duplicates.add(chunk, keys)
        if searched:
            self.leaks.look(chunk, keys)
        texts = [document.text for document in chunk.documents]
        if self.tokens is not None:
            self.tokens.add(texts)
        if self._sampled < _SAMPLE:
            self.sample += (taken := [text[:4000] for text in texts[:200]])
            self._sampled += sum(map(len, taken))
        self.progress.advance(None, {"documents": len(self.index), "characters": self.text.characters})

    # ---- what came out

    def _result(
        self,
        inputs: list[Given],
        given: list[str],
        test: list[str],
        items: list[Input],
        searched: bool,
    ) -> DataCheck:
        words = self.index.words if self.index.has_words else None
        vocabulary = self.tokens.found() if self.tokens is not None else None
        lengths = self.index.characters if words is None else words
        if self.tokens is not None:
            lengths = np.array(self.tokens.lengths, dtype=np.int64)
        stats = vars(self.reader.stats)
        read = {
            **{name: value for name, value in stats.items() if not name.startswith("unreadable")},
            "words": None if words is None else int(words.sum()),
            "tokens": vocabulary and vocabulary["tokens"],
        }
        text = self.text.to_dict()
        found = DataCheck(
            inputs=[str(item) for item in inputs],
            test=test,
            model=self.model,
            read=read,
            unreadable=self.unreadable,
            text=text,
            lengths=self._lengths(lengths),
            limit=self._limit(lengths),
            duplicates=self._duplicates(),
            leakage=self.leaks.found(self.index) if searched else None,
            vocabulary=vocabulary,
            plan=self._plan(given, items, test, vocabulary, text["scripts"]),
        )
        found.findings = findings_of(found.to_dict())
        return found

    def _duplicates(self) -> dict[str, Any]:
        found = self.duplicates.found(self.index)
        for group in [*found["exact_examples"], *(found["near"] or {"examples": []})["examples"]]:
            for side in ("first", "second"):
                group[side] = self._with_text(group[side])
        return found

    def _with_text(self, place: Place) -> Place:
        """Read the beginning of a document again, since texts are not kept."""
        path = Path(place.source)
        if not path.is_file() or path.stat().st_size > _READ_AGAIN:
            return place
        documents = DocumentReader([path], self.settings, small_files=self.reader.small_files)
        text = next((document.text for document in documents if document.line == place.line), "")
        return Place(place.source, place.line, shown(text))

    def _lengths(self, lengths: np.ndarray) -> dict[str, Any]:
        longest = int(lengths.argmax())
        top = max(1, int(lengths.max()).bit_length())
        bins = np.bincount([int(length).bit_length() for length in lengths], minlength=top + 1)
        return {
            "unit": "tokens" if self.tokens else "words" if self.index.has_words else "characters",
            "mean": float(lengths.mean()),
            "quantiles": {f"{share:g}": float(np.quantile(lengths, share)) for share in _QUANTILES},
            "longest": {"length": int(lengths.max()), "place": self.index.place(longest)},
            "bins": [
                {"from": 2 ** (number - 1) if number else 0, "below": 2**number, "documents": int(count)}
                for number, count in enumerate(bins.tolist())
            ],
        }

    def _limit(self, lengths: np.ndarray) -> dict[str, Any] | None:
        if self.tokens is None:
            return None
        body = self.limit - self.overhead
        longer = lengths > body
        return {
            "max_length": self.limit,
            "longer": int(longer.sum()),
            "longer_share": float(longer.mean()),
            "tokens_beyond": int((lengths[longer] - body).sum()),
            "tokens_beyond_share": float((lengths[longer] - body).sum() / max(1, lengths.sum())),
            "sequences": int(SequenceSplit(body).counts(lengths).sum()),
        }

    def _plan(
        self,
        given: list[str],
        items: list[Input],
        test: list[str],
        vocabulary: dict[str, Any] | None,
        scripts: list[dict[str, Any]],
    ) -> dict[str, Any]:
        # An unknown token is one however much text it stands for.
        known = vocabulary if vocabulary and vocabulary["unknown"]["share"] <= UNMEASURABLE else None
        tokens = known["tokens"] if known else self._estimated_tokens()
        epochs = default_epochs(tokens)
        worth = bool(vocabulary and vocabulary["saved_share"] >= SAVED_SHARE)
        extend = worth and tokens >= EXTEND_TOKENS
        # Where test files are among the inputs, only the others are to be trained on.
        tests = set(map(os.path.realpath, test))
        others = [name for name in map(str, items) if os.path.realpath(name) not in tests]
        chosen = given if len(others) == len(items) else others
        default, why = model_for(scripts)
        return {
            "tokens": tokens,
            "tokens_estimated": known is None,
            "literature": literature(tokens),
            "epochs": epochs,
            "extend": extend,
            "too_little_to_extend": worth and not extend,
            "why_model": why if self.model is None else None,
            "commands": train_command(
                chosen,
                self.model,
                epochs,
                self._chosen_settings(),
                extend=extend,
                tokenizer_only=self.model is not None
                and not self.trainable
                and (is_model_folder(self.model) or Path(self.model).exists()),
                unknown=bool(vocabulary and vocabulary["unknown"]["share"] > MOST),
                unreadable=bool(self.reader.passed_over + len(self.skipped.unreadable)),
                default=default,
            )
            if chosen
            else [],
        }

    def speed(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Return how fast a plan is computed here, how long it takes, and how that is known."""
        speed, how = self._measured_speed(plan["tokens"]) or estimated_rate()
        if self.model is None:
            how += "; --model measures the speed"
        elif not self.trainable:
            how += f"; only the tokenizer of '{self.model}' was found"
        seconds = plan["epochs"] * plan["tokens"] / speed
        return {"tokens_per_second": speed, "seconds": seconds, "time_from": how}

    def _measured_speed(self, tokens: int) -> tuple[float, str] | None:
        """Return how fast the model trains here, and how that is known; ``None`` where there is none or it cannot."""
        if self.model is None or not self.trainable:
            return None
        self.progress.log(f"measuring the speed of training {self.model} here, on a few steps")
        try:
            density = tokens / max(1, self.text.characters)
            return measured_rate(self.model, self.sample, density, offline=self.offline)
        except UnmaskError as error:
            self.progress.warning(
                f"the speed could not be measured, so that of another model is taken: {error}"
            )
            return None

    def _estimated_tokens(self) -> int:
        """Return the tokens to be expected without a tokenizer; one a letter where the text has no words."""
        if not self.index.is_letters:
            return round(TOKENS_PER_WORD * int(self.index.words.sum()))
        return int(self.index.characters.sum())

    def _chosen_settings(self) -> DocumentSettings:
        """Return the settings with what ``auto`` chose, where it is the same for all files of plain text."""
        splits = list(self.reader.stats.splits)
        update = {"documents": "file"} if splits == ["file"] and len(self.reader.inputs) > 1 else {}
        if encoding := self.reader.encoding:
            update["encoding"] = encoding
        return self.settings.model_copy(update=update)


def _splits(items: Sequence[Input]) -> list[Input]:
    """Return the files called like test files, where others are called like training text."""
    files = [item for item in items if not isinstance(item, StdinInput | HubInput)]
    if not any(is_train_name(str(path)) for path in files):
        return []
    return [path for path in files if is_test_name(str(path))]
