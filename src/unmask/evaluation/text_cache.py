"""The text of an evaluation, tokenised once per tokenizer in a temporary folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from unmask.config.load import load_config
from unmask.config.settings import DocumentSettings
from unmask.data.corpus import Corpus, given_shards, open_shards, require_readable
from unmask.data.preparation import prepare
from unmask.data.reading.documents import MANY_FILES, Document, DocumentReader
from unmask.data.reading.errors import are_whole_files
from unmask.data.shards import TemporaryFolder
from unmask.data.tokenizer import tokenizer_hash, vocabulary_of
from unmask.errors import ConfigError, DataError, plural
from unmask.progress import Progress
from unmask.run_folder import RunFolder, run_of
from unmask.storage import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TextInputs = str | Path | Sequence[str | Path]
"""A file, folder, glob, ``-``, ``hf://org/name`` or a folder of prepared shards, or several of them."""


class EvaluationText:
    """The text that models with one tokenizer or several are evaluated on; a context manager.

    Args:
        inputs: text as the readers take it, or one folder of prepared shards.
        settings: how files become documents.
        progress: logs what is read.

    Attributes:
        inputs: as they were given.
        shards: the folder of prepared shards, if that is what was given.

    Raises:
        DataError: there are shards among other inputs, or an input that cannot be read.
    """

    def __init__(
        self,
        inputs: TextInputs,
        settings: DocumentSettings = DocumentSettings(),
        progress: Progress = Progress(),
    ) -> None:
        given = [inputs] if isinstance(inputs, str | Path) else inputs
        self.inputs, self.settings, self.progress = [str(item) for item in given], settings, LogOnce(progress)
        self.shards = given_shards(self.inputs, self.progress)
        require_readable(self.inputs, settings)
        self._folder = TemporaryFolder("unmask-text-")
        self._spooled: list[str] | None = None
        self._corpora: dict[str, Corpus] = {}

    def __enter__(self) -> EvaluationText:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._corpora.clear()
        self._folder.cleanup()

    def corpus(self, tokenizer: PreTrainedTokenizerBase) -> Corpus:
        """Return the text as tokens of a tokenizer; a second call with the same one reads nothing.

        Raises:
            DataError: the text cannot be read, holds nothing, or is in shards of another tokenizer.
        """
        name = tokenizer_hash(tokenizer)
        if name not in self._corpora:
            self._corpora[name] = (
                open_shards(self.shards, tokenizer, allow_unknown=True, progress=self.progress)
                if self.shards
                else self._prepared(name, tokenizer)
            )
        return self._corpora[name]

    def documents(self) -> Iterator[Document]:
        """Yield the documents as text.

        Raises:
            DataError: the text cannot be read or holds nothing, or there are only shards.
        """
        if self.shards:
            raise DataError(
                "prepared shards hold the tokens of one tokenizer, and models with different tokenizers are compared "
                "on the text itself; give the text",
                path=self.shards,
            )
        reader = DocumentReader(self._readable(), self.settings, progress=self.progress)
        yield from reader
        if message := lines_of_few_files(vars(reader.stats), self.settings):
            self.progress.warning(message)

    def _prepared(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Corpus:
        out = Path(self._folder.name) / name[:16]
        settings = self.settings.model_copy(
            update={"allow_unknown": True}
        )  # a model may be evaluated on any text
        return prepare(self._readable(), settings, tokenizer, out, progress=self.progress)

    def _readable(self) -> list[str]:
        """Return inputs that can be read more than once: standard input is written to a file first."""
        if self._spooled is None:
            self._spooled = [self._spool() if item == "-" else item for item in self.inputs]
        return self._spooled

    def _spool(self) -> str:
        path = Path(self._folder.name) / "stdin.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for document in DocumentReader(["-"], self.settings, progress=self.progress):
                file.write(json.dumps({self.settings.text_field: document.text}) + "\n")
        return str(path)


def split_as_in_training(
    models: Iterable[object], settings: DocumentSettings, progress: Progress
) -> DocumentSettings:
    """Return settings by which text is split into documents as that of the runs of some models was, where they are ``auto``."""
    if settings.documents != "auto":
        return settings
    runs = [run for model in models if isinstance(model, str | Path) and (run := run_of(str(model)))]
    modes = dict.fromkeys(mode for run in runs if (mode := _mode_of(run)) != "auto")
    if not modes:
        return settings
    if len(modes) > 1:
        progress.warning(
            f"the runs were trained on documents that were split differently ({', '.join(modes)}); this text is split by itself, unless "
            f"--documents says how"
        )
        return settings
    (mode,) = modes
    progress.log(
        f"one document per {mode} of plain text, as in the run that trained the model; change with --documents"
    )
    return settings.model_copy(update={"documents": mode})


def warn_of_training_text(models: Iterable[object], data: Iterable[str], progress: Progress) -> None:
    """Warn of evaluated text that the run of a model was trained on, by the paths that were given to both."""
    for model in models:
        run = run_of(str(model)) if isinstance(model, str | Path) else None
        if run is None:
            continue
        try:
            settings = load_config(run.config).data
        except ConfigError:  # of another version, say; the model can be evaluated all the same
            continue
        trained = [_real(name) for name in (*settings.inputs, *settings.replay) if name != "-"]
        for name in data:
            path = _real(name)
            if name != "-" and any(path in (old, *old.parents) or old in path.parents for old in trained):
                progress.warning(
                    f"'{name}' is, or holds, text that '{model}' was trained on, by the paths in its run folder, so its metrics "
                    f"here are better than on new text; give text that it did not see"
                )


def _real(name: str) -> Path:
    return Path(os.path.realpath(name))


def _mode_of(run: RunFolder) -> str:
    """Return what a document of plain text was in a run."""
    mode = load_config(run.config).data.documents
    read = (read_json(run.info) or {}).get("read") or {}
    return "file" if mode == "auto" and are_whole_files(read.get("text") or {}) else mode


def lines_of_few_files(read: Mapping[str, Any], settings: DocumentSettings) -> str | None:
    """Return that lines of few files were taken as documents without being asked for, which they may not be."""
    files = read.get("splits", {}).get("line", 0)
    if settings.documents != "auto" or not 1 < files < MANY_FILES:
        return None
    return (
        f"each line of {plural(files, 'file')} of plain text counts as a document of its own; where a file is one document, the intervals are too "
        f"narrow: give --documents file"
    )


class LogOnce(Progress):
    """Passes everything on, but each log only once: the same files may be read for several tokenizers."""

    def __init__(self, progress: Progress) -> None:
        self._logged: set[str] = set()
        self._progress = progress
        self.begin, self.advance, self.end = progress.begin, progress.advance, progress.end  # type: ignore[method-assign]

    def log(self, text: str) -> None:
        self._pass_on(text, self._progress.log)

    def warning(self, text: str) -> None:
        self._pass_on(text, self._progress.warning)

    def _pass_on(self, text: str, log: Callable[[str], None]) -> None:
        if text not in self._logged:
            self._logged.add(text)
            log(text)


def one_tokenizer(
    first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase, text: EvaluationText
) -> bool:
    """Return whether two tokenizers are the same, or are saved differently but make the same tokens of a text."""
    if tokenizer_hash(first) == tokenizer_hash(second):
        return True
    if text.shards or first.get_vocab() != second.get_vocab():
        return False
    left, right = vocabulary_of(first), vocabulary_of(second)
    frames = [(found.mask_id, found.pad_id, found.prefix, found.suffix) for found in (left, right)]
    if frames[0] != frames[1] or (left.special != right.special).any():
        return False
    return _checksums(text.corpus(first)) == _checksums(text.corpus(second))


def _checksums(corpus: Corpus) -> list[dict[str, str]]:
    return [shard["sha256"] for shard in corpus.manifest["shards"]]


def sequence_length(wanted: int | None, most: Sequence[int], usual: int = 512) -> int:
    """Return the tokens of a sequence: ``wanted``, or what every model takes, at most ``usual``.

    Raises:
        ConfigError: a model takes fewer than wanted.
    """
    if wanted is not None and wanted > min(most):
        raise ConfigError(
            f"--max-length is {wanted}, but a model takes at most {min(most)} tokens; give a smaller one"
        )
    return wanted or min(usual, *most)
