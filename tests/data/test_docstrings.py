from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from unmask.errors import ConfigError, DataError
from unmask.progress import Progress
from unmask.run.docstring_sieve import MAX_REPEATS
from unmask.run.docstrings import (
    Docstring,
    DocstringCorpus,
    collect_docstrings,
    installed_roots,
    write_jsonl,
)

WORDS = (
    "river stone table window garden letter winter market silver bridge candle forest meadow harbour".split()
)


def sentence(seed: object, count: int = 20) -> str:
    """Words that no other seed gives in this order."""
    draw = random.Random(str(seed))
    return " ".join(draw.choice(WORDS) + str(draw.randrange(50)) for _ in range(count))


def module(*docstrings: str) -> str:
    """Source of a module with one function for each docstring."""
    return "".join(f'def f{i}():\n    """{text}"""\n\n' for i, text in enumerate(docstrings))


def write_modules(root: Path, modules: Mapping[str, str]) -> Path:
    for name, source in modules.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return root


@pytest.fixture
def collect(tmp_path: Path) -> Callable[..., DocstringCorpus]:
    """Collect from modules given as sources, beside enough others that both sides hold something."""

    def run(modules: Mapping[str, str], **settings: object) -> DocstringCorpus:
        others = {f"other{i}.py": module(sentence(("other", i))) for i in range(12)}
        root = write_modules(tmp_path / "packages", {**others, **modules})
        settings = {"workers": 1, "heldout_share": 0.5, **settings}
        return collect_docstrings(roots=[root], **settings)  # type: ignore[arg-type]

    return run


def documents(corpus: DocstringCorpus) -> list[Docstring]:
    return [*corpus.train, *corpus.heldout]


def of_module(corpus: DocstringCorpus, name: str) -> dict[str, str]:
    return {document.name: document.text for document in documents(corpus) if document.module == name}


def sides(corpus: DocstringCorpus) -> tuple[str, str]:
    """A module of the training side and one of the held-out side."""
    return corpus.train[0].module, corpus.heldout[0].module


class Listener(Progress):
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.shares: list[float | None] = []

    def log(self, text: str) -> None:
        self.messages.append(text)

    def advance(self, share: float | None, figures: Mapping[str, object]) -> None:
        self.shares.append(share)


def test_modules_classes_and_functions_give_cleaned_documents_and_nothing_is_imported(collect):
    source = '''"""The module speaks about rivers, stones and the bridges between them."""
raise SystemExit("imported")

class Bridge:
    """A bridge that carries people from one side of a river to the other.

    Args:
        planks: indented further than the rest.
    """

    async def cross(self):
        """Walk to the other side, which takes a minute or two in good weather."""

    def short(self):
        """Too short."""

if True:
    try:
        def hidden():
            r"""Stand below an if and a try, with a backslash \\d that is no escape."""
    except ImportError:
        pass
'''
    found = of_module(collect({"pkg/__init__.py": source}), "pkg")
    assert list(found) == ["", "Bridge", "Bridge.cross", "hidden"]
    assert found["Bridge"].endswith(
        "of a river to the other.\n\nArgs:\n    planks: indented further than the rest."
    )
    assert r" \d " in found["hidden"]


def test_tables_test_folders_and_generated_files_are_left_out(collect):
    table = "a  1.0 | 2.0 | 3.0 | 4.0\n    " + "+------+------+------+------+\n    " * 4
    corpus = collect(
        {
            "table.py": module(table, sentence("beside the table")),
            "pkg/tests/test_pkg.py": module(sentence("in tests")),
            "generated.py": module(*(sentence(i, 100) for i in range(1500))),
            "sparse.py": module(sentence("much code")) + "x = 1\n" * 2000,
        }
    )
    assert list(of_module(corpus, "table")) == ["f1"]
    assert not any(of_module(corpus, name) for name in ("pkg.tests.test_pkg", "generated", "sparse"))


def test_the_same_documents_in_the_same_order_for_any_number_of_workers(tmp_path):
    root = write_modules(
        tmp_path, {f"p{i % 7}/m{i}.py": module(sentence(i), sentence(("again", i % 9))) for i in range(140)}
    )
    listener = Listener()
    one, two = (
        collect_docstrings(roots=[root], workers=workers, heldout_share=0.3, progress=listener)
        for workers in (1, 2)
    )
    assert listener.messages == []  # the processes did work
    assert one == two
    assert len(documents(one)) == 140 + 9
    assert [d.module for d in one.train] != sorted(d.module for d in one.train)  # the packages are mixed


def test_modules_are_split_and_not_their_docstrings(collect):
    corpus = collect({f"m{i}.py": module(*(sentence((i, j)) for j in range(5))) for i in range(20)})
    train, heldout = ({d.module for d in side} for side in (corpus.train, corpus.heldout))
    assert train
    assert heldout
    assert not train & heldout
    assert corpus.modules == len(train | heldout) == 32
    assert corpus.files == 32


def test_equal_words_stand_once_and_training_text_keeps_them(collect):
    train, heldout = sides(collect({}))
    text = sentence("the same in both")
    corpus = collect(
        {
            f"{heldout}.py": module(text, sentence("only held out")),
            f"{train}.py": module(text.upper() + "!", text),
        }
    )
    assert [d.module for d in documents(corpus) if d.text.lower().startswith(text)] == [train]
    assert [d.text for d in corpus.heldout if d.module == heldout] == [sentence("only held out")]
    assert corpus.duplicates == 2


def test_held_out_text_that_mostly_stands_in_training_text_is_dropped(collect):
    train, heldout = sides(collect({}))
    shared, own = sentence("shared", 60), sentence("own", 60)
    corpus = collect(
        {
            f"{train}.py": module(f"Begins in its own way. {shared}"),
            f"{heldout}.py": module(f"{shared} ends differently", f"{shared[: len(shared) // 4]} {own}"),
        }
    )
    assert list(of_module(corpus, heldout)) == ["f1"]
    assert corpus.near_duplicates == 1


def test_marks_count_where_held_out_text_is_compared_with_training_text(collect):
    """No 8 words in a row are the same, but with the marks between them most of the runs are."""
    train, heldout = sides(collect({}))
    shared = [sentence(("shared", number), 7).replace(" ", ", ") for number in range(8)]
    one, other = (
        "; ".join(f"{text}; {own}{place}" for place, text in enumerate(shared)) for own in ("a", "b")
    )
    corpus = collect({f"{train}.py": module(one), f"{heldout}.py": module(other)})
    assert not list(of_module(corpus, heldout))
    assert corpus.near_duplicates == 1


def test_a_paragraph_that_many_docstrings_repeat_becomes_rare(collect):
    boilerplate = sentence("boilerplate", 15)
    modules = {f"m{i}.py": module(f"{sentence(i)}\n\n    {boilerplate}\n\n    Ends.") for i in range(10)}
    corpus = collect(modules, heldout_share=0.1)
    holding = [d for d in documents(corpus) if boilerplate in d.text]
    assert len(holding) == MAX_REPEATS
    assert corpus.boilerplate == 10 - MAX_REPEATS
    assert len(documents(corpus)) == 12 + 10
    assert all(d.text.endswith("\n\nEnds.") for d in documents(corpus) if d.module.startswith("m"))


def test_a_limit_takes_the_first_modules_of_the_order(collect):
    modules = {f"m{i}.py": module(sentence(i, 50)) for i in range(60)}
    whole = collect(modules, heldout_share=0.3)
    part = collect(modules, heldout_share=0.3, max_characters=8000)
    assert 5000 < part.train_characters + part.heldout_characters <= 8000
    assert part.train == whole.train[: len(part.train)]
    assert part.heldout == whole.heldout[: len(part.heldout)]


def test_files_that_cannot_be_parsed_are_counted_and_said(collect):
    listener = Listener()
    corpus = collect({"old.py": f'"""{sentence("old")}"""\nprint "python 2"\n'}, progress=listener)
    assert corpus.unreadable == 1
    assert [("1 of 13" in text, "old.py" in text) for text in listener.messages] == [(True, True)]
    assert listener.shares[-1] == 1.0


def test_control_characters_are_left_out(collect):
    corpus = collect({"odd.py": module(f"{sentence('odd')} a\\x00b\\x08c d\\x7fe")})
    assert of_module(corpus, "odd")["f0"].endswith("abc de")


def test_text_that_utf8_cannot_hold_is_written_all_the_same(collect, tmp_path):
    corpus = collect({"odd.py": module(f"{sentence('odd')} \\ud800 and é 漢")})
    write_jsonl(documents(corpus), tmp_path / "all.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [Docstring(**row) for row in rows] == documents(corpus)
    assert of_module(corpus, "odd")["f0"].endswith("? and é 漢")


@pytest.mark.parametrize("settings", [{"heldout_share": 0.0}, {"heldout_share": 1.0}, {"workers": 0}])
def test_settings_out_of_range_are_refused(collect, settings):
    with pytest.raises(
        ConfigError, match=f"{next(iter(settings))} must .* not {next(iter(settings.values()))}"
    ):
        collect({}, **settings)


def test_a_folder_without_docstrings_or_no_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="found 0 and 0 in 0 Python files"):
        collect_docstrings(roots=[tmp_path], workers=1)
    with pytest.raises(DataError, match=r"absent: expected a folder"):
        collect_docstrings(roots=[tmp_path / "absent"], workers=1)


def test_this_installation_has_documents():
    corpus = collect_docstrings(workers=1, heldout_share=0.2, max_characters=300_000)
    assert 0 < corpus.heldout_characters < corpus.train_characters
    assert len(installed_roots()) >= 2


def test_workers_import_nothing_heavy():
    heavy = "{'torch', 'transformers', 'numpy', 'pydantic'}"
    code = f"import sys, unmask.run.docstrings; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_a_script_without_a_main_guard_still_gets_its_documents(tmp_path):
    root = write_modules(tmp_path / "packages", {f"m{i}.py": module(sentence(i)) for i in range(100)})
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from unmask.run.docstrings import collect_docstrings\n"
        "from unmask.progress import Progress\n"
        "class Printing(Progress):\n"
        "    def log(self, text): print(text)\n"
        f"roots = [Path({str(root)!r})]\n"
        "corpus = collect_docstrings(roots=roots, workers=2, heldout_share=0.3, progress=Printing())\n"
        "print(len(corpus.train) + len(corpus.heldout))\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    notice, count = done.stdout.splitlines()
    assert "read in this process" in notice
    assert count == "100"
