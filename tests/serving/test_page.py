"""The page of the server in a real browser: typing, masking, comparing, errors, narrow screens, no outside request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open the page of a server; every request to another host, and every error of the console, fails the test."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def opened(url: str, width: int = 1100, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.on(
            "request", lambda request: request.url.startswith((url, "data:")) or wrong.append(request.url)
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        page.wait_for_function("document.querySelectorAll('#words button').length > 0")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def write(page: Any, text: str) -> None:
    page.get_by_label("Text", exact=True).fill(text)


def rows(page: Any, model: str) -> list[str]:
    return list(page.get_by_role("region", name=model, exact=True).locator("tbody th").all_inner_texts())


def test_words_are_masked_and_both_models_fill_them(
    url: str, open_page: Callable[..., Any], client: Any
) -> None:
    page = open_page(url)
    write(page, "The river is quiet in the morning")
    page.get_by_label("one token").check()
    page.get_by_role("button", name="quiet").click()
    page.get_by_role("button", name="Fill", exact=True).click()
    page.get_by_text("Done.").wait_for()
    for model, mask in (("bert", "[MASK]"), ("roberta", "<mask>")):
        body = {"model": model, "inputs": f"The river is {mask} in the morning", "parameters": {"top_k": 8}}
        wanted = [one["text"].strip() for one in client.post("/fill", json=body).json()[0]["candidates"]]
        assert [row.strip() for row in rows(page, model)] == wanted
    page.get_by_role("checkbox", name="roberta").uncheck()
    page.get_by_role("button", name="river").click()
    page.get_by_role("button", name="Fill", exact=True).click()
    page.get_by_role("heading", name="Mask 2 alone").wait_for()
    assert page.get_by_role("region", name="roberta").count() == 0


def test_masks_in_the_text_and_blanks_are_filled(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    page.get_by_role("checkbox", name="roberta").uncheck()
    write(page, "The [MASK] is quiet")
    page.get_by_role("button", name="Fill", exact=True).click()
    page.get_by_text("Done.").wait_for()
    assert len(rows(page, "bert")) == 8
    assert page.locator("#words > *").all_inner_texts() == ["The", "[MASK]", "is", "quiet"]
    page.get_by_role("button", name="quiet").click()
    page.get_by_role("button", name="Fill", exact=True).click()
    page.wait_for_function("document.querySelectorAll('#results tbody tr').length >= 1")


@pytest.mark.parametrize("mask", ["[MASK]", "<mask>"])
def test_a_mask_of_either_model_is_one_for_both(url: str, open_page: Callable[..., Any], mask: str) -> None:
    page = open_page(url)
    page.get_by_role("checkbox", name="roberta").wait_for()
    write(page, f"The {mask} is quiet")
    page.get_by_role("button", name="Fill", exact=True).click()
    page.get_by_text("Done.").wait_for()
    assert [len(rows(page, model)) for model in ("bert", "roberta")] == [8, 8]


def test_several_masks_are_filled_jointly_or_independently(
    url: str, open_page: Callable[..., Any], client: Any
) -> None:
    page = open_page(url)
    page.get_by_role("checkbox", name="roberta").uncheck()
    write(page, "The [MASK] is [MASK]")
    for label, ranking in (("jointly", "joint"), ("independently", "independent")):
        page.get_by_label(label).check()
        with page.expect_response("**/fill") as sent:
            page.get_by_role("button", name="Fill", exact=True).click()
        assert sent.value.request.post_data_json["parameters"]["ranking"] == ranking
        page.get_by_role("heading", name="Mask 2 alone").wait_for()
        body = {"inputs": "The [MASK] is [MASK]", "parameters": {"top_k": 8, "ranking": ranking}}
        wanted = [one["text"] for one in client.post("/fill", json=body).json()[0]["candidates"]]
        for _ in range(100):  # until then the page may show the first answer
            if rows(page, "bert")[:8] == wanted:
                break
            page.wait_for_timeout(50)
        assert rows(page, "bert")[:8] == wanted


def test_an_error_of_one_model_leaves_the_answer_of_the_other(
    url: str, open_page: Callable[..., Any]
) -> None:
    page = open_page(url)

    def refuse(route: Any) -> None:
        if route.request.post_data_json["model"] == "roberta":
            route.fulfill(status=422, json={"error": "too long", "field": "inputs"})
        else:
            route.continue_()

    page.route("**/fill", refuse)
    write(page, "The river is [MASK]")
    page.get_by_role("button", name="Fill", exact=True).click()
    page.get_by_role("alert").get_by_text("roberta: inputs: too long").wait_for()
    assert len(rows(page, "bert")) == 8


def test_errors_are_said(url: str, serve: Callable[..., str], open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    write(page, "nothing is masked here")
    page.get_by_role("button", name="Fill", exact=True).click()
    page.get_by_role("alert").get_by_text("no mask in this text").wait_for()
    page.get_by_role("checkbox", name="bert", exact=True).uncheck()
    page.get_by_role("checkbox", name="roberta").uncheck()
    page.get_by_role("button", name="Fill", exact=True).click()
    page.get_by_role("alert").get_by_text("Choose a model.").wait_for()


def test_a_key_is_asked_for(serve: Callable[..., str], open_page: Callable[..., Any]) -> None:
    page = open_page(serve(api_key="secret"))
    page.get_by_role("alert").get_by_text("wants its key").wait_for()
    page.get_by_label("This server wants its key").fill("secret")
    page.get_by_role("button", name="Use it").click()
    page.get_by_role("checkbox", name="roberta").wait_for()


def test_surprise_is_that_of_score(url: str, open_page: Callable[..., Any], client: Any) -> None:
    page = open_page(url)
    text = "The river is <b>quiet</b> in the morning"
    write(page, text)
    page.get_by_role("tab", name="Surprise").click()
    page.get_by_role("button", name="Score").click()
    page.get_by_text("Done.").wait_for()
    found = client.post("/score", json={"inputs": text, "parameters": {"details": True}}).json()[0]
    shown = page.get_by_role("region", name="bert", exact=True).locator("li small").all_inner_texts()
    assert [float(value) for value in shown] == [round(-word["pll"], 1) for word in found["word_scores"]]
    assert page.locator("#results b").count() == 0


def test_steps_follow_the_seed_and_keys_move_between_tabs(
    url: str, open_page: Callable[..., Any], client: Any
) -> None:
    page = open_page(url)
    page.get_by_role("checkbox", name="roberta").uncheck()
    page.get_by_role("tab", name="Fill masks").focus()
    page.keyboard.press("ArrowLeft")
    assert page.get_by_role("tab", name="Step by step").get_attribute("aria-selected") == "true"
    page.get_by_role("button", name="Explain").click()
    page.get_by_text("Done.").wait_for()

    def step(title: str) -> str:
        return str(
            page.locator("#results li").filter(has=page.get_by_role("heading", name=title)).inner_text()
        )

    before = step("Random draw")
    page.get_by_role("button", name="Draw again").click()
    page.wait_for_function(
        "before => !document.querySelector('#results').innerText.includes(before)", arg=before
    )
    assert page.get_by_label("Seed").input_value() == "1"
    page.get_by_label("Seed").fill("0")
    page.get_by_role("button", name="Explain").click()
    page.wait_for_function(
        "before => document.querySelector('#results').innerText.includes(before)", arg=before
    )
    text = "The patient was given morphine for the pain."
    wanted = client.post("/explain", json={"inputs": text, "model": "bert", "parameters": {"seed": 0}}).json()
    for title, values in {
        "Tokens": wanted["tokens"],
        "Three tensors": wanted["input_ids"],
        "Labels": wanted["labels"],
        "Selected positions": wanted["selected"],
        "Replaced ids": wanted["masked_input_ids"],
        "Predictions": [one["token"] for found in wanted["predictions"] for one in found["top"]],
        "Loss": [f"{wanted['loss']:.3f}"],
    }.items():
        shown = step(title).split()
        assert all(str(value) in shown or f"{value}." in shown for value in values), title


def test_results_are_copied_as_json_and_python(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url, permissions=["clipboard-read", "clipboard-write"])
    write(page, 'The "river" is [MASK]')
    page.get_by_role("button", name="Fill", exact=True).click()
    page.get_by_role("button", name="Copy as Python").click()
    page.get_by_text("Copied").wait_for()
    text = page.evaluate("navigator.clipboard.readText()")
    printed: list[Any] = []
    exec(compile(text, "copied", "exec"), {"print": printed.append})
    page.get_by_role("button", name="Copy as JSON").click()
    page.locator("#copy-json").get_by_text("Copied").wait_for()
    shown = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert [answer[0]["text"] for answer in printed] == [answer[0]["text"] for answer in shown]
    assert [answer[0]["text"] for answer in shown] == ['The "river" is [MASK]', 'The "river" is <mask>']


@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits(
    url: str, open_page: Callable[..., Any], width: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(url, width, color_scheme=scheme)
    for tab, button in (("Fill masks", "Fill"), ("Surprise", "Score"), ("Step by step", "Explain")):
        page.get_by_role("tab", name=tab).click()
        if button == "Fill":
            page.get_by_role("button", name="morphine").click()
        page.get_by_role("button", name=button, exact=True).click()
        page.get_by_text("Done.").wait_for()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
