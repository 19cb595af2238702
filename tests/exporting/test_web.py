"""An export for the web in a real browser, which reaches nothing but the files: the results are those of Python."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.data.tokenizer import TextEncoder, token_names
from unmask.errors import ConfigError
from unmask.exporting.export import export_model
from unmask.exporting.libraries import LIBRARIES, read_libraries
from unmask.exporting.web import SAMPLES, facts_for_page, require_readable
from unmask.inference.markers import MarkerEncoder

LIBRARY_FOLDER = Path(__file__).parents[2] / "build" / "web-libraries"
in_browser = [
    pytest.mark.skipif(
        len([*LIBRARY_FOLDER.glob("*.tgz")]) < len(LIBRARIES),
        reason=f"no JavaScript libraries in {LIBRARY_FOLDER}; 'make weblibs' downloads them",
    ),
]

TEXTS = [
    "The {} is quiet in the morning.",
    "Trains were built at {}.",
    "{} of the line was opened.",
    "He was given a new {} and some water",
    "The engine, which was “old”, had {} wheels; it ran well.",
    "In 1861 the {} broke out – or so they said (twice).",
    "a literal [SEP] or </s> before {}",
    "Der Zug fährt über die {} nach Zürich, ça va ?",
    "医生今天{}上来了。 🙂",
    "  two  spaces,\ttab, and\na new line  {} ",
]


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def site(
    checkpoint: Callable[[str], Path], heldout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[Path, str]]]:
    """Return `make(architecture) -> (folder, URL)`: an export for the web on a plain server of files, made once."""
    made: dict[str, tuple[Path, str]] = {}
    servers: list[ThreadingHTTPServer] = []

    def make(architecture: str) -> tuple[Path, str]:
        if architecture not in made:
            out = tmp_path_factory.mktemp("web") / architecture
            export_model(
                checkpoint(architecture), out, "web", heldout, force=True, web_libraries=LIBRARY_FOLDER
            )
            made[architecture] = out, serve(out)
        return made[architecture]

    def serve(folder: Path) -> str:
        servers.append(
            ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(folder)))
        )
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield make
    for server in servers:
        server.shutdown()


@pytest.fixture
def open_page(browser: Any, site: Callable[[str], tuple[Path, str]]) -> Iterator[Callable[..., Any]]:
    """Open the page of a model. Nothing but its files is reached; a request for more, or an error, fails the test."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def opened(architecture: str, width: int = 1100, **options: Any) -> Any:
        url = site(architecture)[1]
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))

        def route(one: Any) -> None:
            if one.request.url.startswith(url):
                one.continue_()
            else:
                wrong.append(one.request.url)
                one.abort()

        contexts[-1].route("**/*", route)
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        page.goto(url)
        page.wait_for_function("document.querySelector('#note').textContent !== ''")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def ask(page: Any, task: str, text: str, **parameters: Any) -> Any:
    """Ask the module that the page asks, in the page."""
    code = "async ([task, body]) => (await import('./page/backend.js')).ask(task, body, () => {})"
    return page.evaluate(code, [task, {"inputs": text, "parameters": parameters}])


def fill(page: Any, text: str) -> None:
    write(page, text)
    page.get_by_role("button", name="Fill", exact=True).click()


def write(page: Any, text: str) -> None:
    page.get_by_label("Text", exact=True).fill(text)


def rows(page: Any) -> list[str]:
    return list(page.locator("#results table").first.locator("tbody th").all_inner_texts())


def same(found: Any, wanted: Any, what: str) -> None:
    """Compare JSON: numbers to rounding. A sentence with its gaps filled is only made in Python."""
    if isinstance(wanted, dict):
        unknown = {"sequence", "target_errors"}
        assert found.keys() == wanted.keys() - unknown, what
        for name in found:
            same(found[name], wanted[name], f"{what}: {name}")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), (what, found, wanted)
        for number, pair in enumerate(zip(found, wanted, strict=True)):
            same(*pair, f"{what}[{number}]")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-4, rel=1e-3), what
    else:
        assert found == wanted, (what, found, wanted)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
class TestSame:
    """The page computes what Python does with the same file."""

    pytestmark = in_browser

    @pytest.fixture
    def page(self, architecture: str, open_page: Callable[..., Any]) -> Any:
        return open_page(architecture)

    @pytest.fixture
    def model(self, architecture: str, site: Callable[[str], tuple[Path, str]]) -> Any:
        return unmask.load(site(architecture)[0])

    def test_candidates(self, page: Any, model: Any) -> None:
        for text in TEXTS:
            filled = text.format(model.tokenizer.mask_token)
            found = ask(page, "fill", filled, top_k=5, ranking="joint")[0]
            wanted = model.fill(filled, 5, blanks=False).to_dict()
            same(found, wanted, filled)
        assert page.evaluate("async () => (await import('./page/backend.js')).warnings") == []

    @pytest.mark.parametrize("ranking", ["joint", "independent"])
    def test_several_masks(self, page: Any, model: Any, ranking: Any) -> None:
        mask = model.tokenizer.mask_token
        for text in (f"The {mask} is {mask} in the morning", f"{mask} {mask} and {mask}"):
            found = ask(page, "fill", text, top_k=5, ranking=ranking)[0]
            same(found, model.fill(text, 5, ranking=ranking, blanks=False).to_dict(), text)

    def test_surprise(self, page: Any, model: Any) -> None:
        for text in TEXTS[4:]:
            score = model.score(text.format("word"))
            if score.error:
                with pytest.raises(Exception, match=re.escape(score.error.partition(";")[0])):
                    ask(page, "score", text.format("word"), details=True)
                continue
            found, wanted = (
                ask(page, "score", text.format("word"), details=True)[0],
                score.to_dict(details=True),
            )
            for token in wanted["token_scores"]:
                del token["text"]
            same(found, wanted, text)

    @pytest.mark.parametrize(("seed", "rate"), [(0, 0.15), (7, 0.5), (1, 0.01)])
    def test_steps(self, page: Any, model: Any, seed: int, rate: float) -> None:
        for text in TEXTS[4:9]:
            found = ask(page, "explain", text.format("wörd"), seed=seed, mask_rate=rate)
            wanted = model.explain(text.format("wörd"), seed=seed, mask_rate=rate).to_dict()
            del wanted["spans"], wanted["model"], found["model"]
            same(found, wanted, text)

    def test_a_long_text(self, page: Any, model: Any) -> None:
        text = f"{'the old train ' * 60}{model.tokenizer.mask_token}{' went by the sea' * 60}"
        same(ask(page, "fill", text, top_k=5, ranking="joint")[0], model.fill(text, 5).to_dict(), "long")
        text = "the old train went by " * 9
        found = ask(page, "score", text, details=True)[0]
        assert found["pll"] == pytest.approx(model.score(text).pll, abs=1e-2)
        with pytest.raises(Exception, match="the model takes 128"):
            ask(page, "explain", text * 9, seed=0, mask_rate=0.15)


class TestPage:
    """The page itself, with one of the models."""

    pytestmark = in_browser

    def test_words_are_chosen_and_filled(
        self, open_page: Callable[..., Any], site: Callable[[str], tuple[Path, str]]
    ) -> None:
        page = open_page("bert")
        write(page, "The river is quiet in the morning")
        assert not page.get_by_text("a word of 1 to 4 subwords").is_visible()
        page.get_by_role("button", name="quiet").click()
        page.get_by_role("button", name="river").click()
        page.get_by_role("button", name="Fill", exact=True).click()
        page.get_by_role("heading", name="Mask 2 alone").wait_for()
        wanted = unmask.load(site("bert")[0]).fill("The [MASK] is [MASK] in the morning", 8)
        assert rows(page) == [one.text for one in wanted.candidates]
        assert page.get_by_text("no text leaves it").is_visible()
        assert "of held-out text" in page.locator("#note").inner_text()

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("", "the text is empty"),
            ("nothing is masked here", "no mask in this text"),
            ("a ___ here", "Python fills them"),
            (f"[MASK] {'and ' * 200} [MASK]", "put them nearer"),
        ],
    )
    def test_errors_are_said(self, open_page: Callable[..., Any], text: str, error: str) -> None:
        page = open_page("bert")
        fill(page, text)
        page.get_by_role("alert").get_by_text(error).wait_for()

    def test_an_empty_text_has_no_surprise_and_no_steps(self, open_page: Callable[..., Any]) -> None:
        page = open_page("bert")
        write(page, " ")
        for tab, button, error in (
            ("Surprise", "Score", "an empty text"),
            ("Step by step", "Explain", "the text is empty"),
        ):
            page.get_by_role("tab", name=tab).click()
            page.get_by_role("button", name=button).click()
            page.get_by_role("alert").get_by_text(error).wait_for()

    def test_a_new_question_ends_the_one_before(self, open_page: Callable[..., Any]) -> None:
        code = """async (text) => {
          const { ask } = await import('./page/backend.js');
          const asked = [ask('score', { inputs: text, parameters: {} }, () => {}),
                         ask('fill', { inputs: '[MASK]', parameters: { top_k: 3, ranking: 'joint' } }, () => {})];
          return (await Promise.allSettled(asked)).map((one) => one.reason?.message ?? one.value[0].candidates.length);
        }"""
        found = open_page("bert").evaluate(code, "the old train went by the sea " * 12)
        assert found == ["another question was asked", 3]

    def test_results_are_copied_as_python(
        self, open_page: Callable[..., Any], site: Callable[[str], tuple[Path, str]]
    ) -> None:
        page = open_page("bert", permissions=["clipboard-read", "clipboard-write"])
        fill(page, 'The "river" is [MASK]')
        page.get_by_role("button", name="Copy as Python").click()
        page.get_by_text("Copied").wait_for()
        code = page.evaluate("navigator.clipboard.readText()").replace("FOLDER", str(site("bert")[0]))
        printed: list[Any] = []
        exec(compile(code, "copied", "exec"), {"print": printed.append})
        assert [one.text for one in printed[0].candidates] == rows(page)

    def test_a_file_that_is_missing_is_named(
        self, browser: Any, site: Callable[[str], tuple[Path, str]]
    ) -> None:
        for missing, error in (("unmask.json", "unmask.json"), ("onnx/model_web.onnx", "model_web.onnx")):
            page = browser.new_page()
            page.route(f"**/{missing}", lambda route: route.fulfill(status=404))
            page.goto(site("bert")[1])
            page.wait_for_function("document.querySelector('#note').textContent !== ''")
            if missing.endswith("onnx"):
                fill(page, "The [MASK] is quiet")
            page.get_by_role("alert").get_by_text(error).wait_for()
            page.close()

    def test_other_tokens_than_in_python_are_warned_of(
        self, browser: Any, site: Callable[[str], tuple[Path, str]]
    ) -> None:
        folder, url = site("bert")
        facts = json.loads((folder / "unmask.json").read_text())
        facts["checks"]["texts"][0]["ids"][0] += 1
        facts["checks"]["prediction"]["best"][0][1] -= 1
        page = browser.new_page()
        page.route("**/unmask.json", lambda route: route.fulfill(json=facts))
        page.goto(url)
        page.get_by_text(f"other tokens than Python does, for example “{SAMPLES[0]}”").wait_for()
        page.wait_for_function("document.querySelector('#note').textContent !== ''")
        fill(page, "The [MASK] is quiet")
        page.get_by_text("computes other numbers than Python did").wait_for()
        page.close()

    @pytest.mark.parametrize("width", [360, 1100])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_is_accessible_and_fits(self, open_page: Callable[..., Any], width: int, scheme: str) -> None:
        from axe_playwright_python.sync_playwright import Axe

        page = open_page("bert", width, color_scheme=scheme)
        for tab, button in (("Fill masks", "Fill"), ("Surprise", "Score"), ("Step by step", "Explain")):
            page.get_by_role("tab", name=tab).click()
            if button == "Fill":
                page.get_by_role("button", name="morphine").click()
            page.get_by_role("button", name=button, exact=True).click()
            page.get_by_text("Done.").wait_for()
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    "architecture", ["bert", "roberta", "albert", "deberta-v2", "modernbert", "camembert", "mpnet"]
)
class TestTokens:
    """Tokens, their names and words are those of Python, of each family of tokenizers."""

    pytestmark = in_browser

    def test_tokens(
        self,
        architecture: str,
        load: Callable[..., Any],
        browser: Any,
        site: Callable[[str], tuple[Path, str]],
    ) -> None:
        lm = load(architecture)
        facts = facts_for_page(lm, "model")
        definition = json.loads(lm.tokenizer.backend_tokenizer.to_str())
        texts = [*SAMPLES, *(text.format("word") for text in TEXTS), "don't — naïve Ω ß", "x" * 300]
        page = browser.new_page()
        page.goto(site("bert")[1])
        found = page.evaluate(READ, [facts, definition, texts])
        page.close()
        for text, ids, names, starts, around in zip(texts, *found, strict=True):
            wanted = TextEncoder(lm.tokenizer)([text])[0]
            assert ids == wanted.tolist(), text
            assert names == token_names(lm.tokenizer, lm.vocabulary, ids), text
            assert starts == lm.vocabulary.words.starts(wanted).tolist(), text
            mask = str(lm.tokenizer.mask_token)
            assert around == MarkerEncoder(lm.tokenizer)([f"{text}{mask} x"])[0].body.tolist(), text


READ = """async ([facts, definition, texts]) => {
  const { Reader } = await import("./page/reader.js");
  const reader = new Reader(facts, definition);
  const ids = texts.map((text) => reader.ids(text));
  const names = ids.map((some) => some.map((id) => reader.name(id)));
  return [ids, names, ids.map((some) => reader.starts(some)), texts.map((text) => reader.idsAround([text, " x"]))];
}"""


def test_a_tokenizer_that_browsers_cannot_read_is_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    definition = json.loads((checkpoint("bert") / "tokenizer.json").read_text())
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "UnicodeScripts"}]}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition))
    with pytest.raises(ConfigError, match="its pre-tokenizer 'UnicodeScripts' is none that"):
        require_readable(path)


def test_libraries_are_those_that_were_tested(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime-web-1.30.0.tgz").write_bytes(b"something else")
    with pytest.raises(
        ConfigError, match=r"no archive of @huggingface/tokenizers@.* with the expected SHA-512"
    ):
        read_libraries(tmp_path)
    with pytest.raises(ConfigError, match="because of --offline; give a folder"):
        read_libraries(None, offline=True)


def test_libraries_are_only_for_the_web(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only for the format 'web'"):
        export_model(checkpoint("bert"), tmp_path / "out", "onnx", web_libraries=tmp_path)
