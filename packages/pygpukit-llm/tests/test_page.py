"""The chat page in a real browser: a Chromium of the system, driven by Playwright."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator

import pytest
from pygpukit.llm import LLM

pytest.importorskip("uvicorn", reason="the extra: serve", exc_type=ImportError)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright to drive a browser"
)

from serving import CHAT, served  # noqa: E402

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
playwright.expect.set_options(timeout=20_000)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        # Chromium's own sandbox doesn't work as root.
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: playwright.Browser) -> Iterator[playwright.Page]:
    """A page in which no script fails."""
    page = browser.new_page(viewport={"width": 320, "height": 500}, color_scheme="dark")
    page.set_default_timeout(20_000)
    failures = list[object]()
    page.on("pageerror", lambda error: failures.append(error))
    yield page
    page.close()
    assert not failures


def model(scripted: Callable[..., LLM], text: str, *, context_length: int = 64) -> LLM:
    """Answers prompts of one token."""
    config = {"chat_template": CHAT, "eos_token": "<|end|>"}
    ids = [*text.encode(), 257]
    return scripted(ids, context_length=context_length, tokenizer_config=config)


@pytest.fixture
def hello(scripted: Callable[..., LLM]) -> LLM:
    return model(scripted, "Hello world")


@pytest.fixture
def endless(scripted: Callable[..., LLM]) -> LLM:
    return model(scripted, "ab " * 333, context_length=1000)


def messages_of(request: playwright.Request) -> list[tuple[str, str]]:
    body = json.loads(request.post_data)
    return [(message["role"], message["content"]) for message in body["messages"]]


def test_a_conversation_by_keyboard(hello: LLM, page: playwright.Page) -> None:
    expect = playwright.expect
    with served(hello) as address:
        page.goto(address)
        expect(page).to_have_title("test")
        expect(page.get_by_role("heading", name="test")).to_be_visible()
        field, log = page.get_by_role("textbox", name="Message"), page.get_by_role("log")
        expect(field).to_be_focused()
        page.keyboard.press("Enter")  # nothing to send
        page.keyboard.type("x")
        page.keyboard.press("Enter")
        expect(log.get_by_role("article", name="You")).to_have_text("x")
        expect(log.get_by_role("article", name="Model")).to_have_text("Hello world")
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        expect(field).to_be_focused()
        expect(field).to_have_value("")
        page.keyboard.type("one")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        with page.expect_request("**/completions") as sent:
            page.keyboard.press("Enter")
        assert messages_of(sent.value) == [
            ("user", "x"), ("assistant", "Hello world"), ("user", "one\ntwo"),
        ]  # fmt: skip


def test_the_order_of_the_keyboard(hello: LLM, page: playwright.Page) -> None:
    with served(hello) as address:
        page.goto(address)
        for role, name in (
            ("button", "New conversation"),
            ("textbox", "Message"),
            ("button", "Send"),
        ):
            if name == "New conversation":
                page.keyboard.press("Shift+Tab")
            playwright.expect(page.get_by_role(role, name=name)).to_be_focused()
            page.keyboard.press("Tab")


def test_stopping_and_beginning_anew(endless: LLM, page: playwright.Page) -> None:
    expect = playwright.expect
    with served(endless) as address:
        page.goto(address)
        page.keyboard.type("x")
        page.keyboard.press("Enter")
        answer = page.get_by_role("article", name="Model")
        expect(answer).to_contain_text("ab ab")
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        stopped = answer.inner_text()
        assert len(stopped) < 900
        with page.expect_request("**/completions") as sent:
            page.keyboard.type("y")
            page.keyboard.press("Enter")
        assert [role for role, _ in messages_of(sent.value)] == ["user", "assistant", "user"]
        page.get_by_role("button", name="New conversation").click()
        expect(page.get_by_role("article")).to_have_count(0)
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        with page.expect_request("**/completions") as sent:
            page.keyboard.type("z")
            page.keyboard.press("Enter")
        assert messages_of(sent.value) == [("user", "z")]
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert not endless.engine.busy


def test_the_end_of_a_long_answer_is_in_sight(
    scripted: Callable[..., LLM], page: playwright.Page
) -> None:
    long = "word" * 40 + "!\n" * 60
    with served(model(scripted, long, context_length=300)) as address:
        page.goto(address)
        page.keyboard.type("x")
        page.keyboard.press("Enter")
        playwright.expect(page.get_by_role("article", name="Model")).to_have_text(long.strip())
        below = "document.documentElement.scrollHeight - scrollY - innerHeight"
        assert page.evaluate(below) < 2
        assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_what_goes_wrong_is_shown(hello: LLM, page: playwright.Page) -> None:
    expect = playwright.expect
    with served(hello) as address:
        page.goto(address)
        page.keyboard.type("x" * 100)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("more than the model's context")
        field = page.get_by_role("textbox", name="Message")
        expect(field).to_have_value("x" * 100)
        field.fill("x")
        page.keyboard.press("Enter")
        expect(page.get_by_role("article", name="Model")).to_have_text("Hello world")
        expect(page.get_by_role("alert")).to_have_count(0)
    page.keyboard.type("y")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The server can't be reached.")
    expect(field).to_have_value("y")


def test_an_answer_that_breaks_off(endless: LLM, page: playwright.Page) -> None:
    with served(endless, time_limit=0.4) as address:
        page.goto(address)
        page.keyboard.type("x")
        page.keyboard.press("Enter")
        playwright.expect(page.get_by_role("alert")).to_contain_text("deadline has passed")
        playwright.expect(page.get_by_role("article", name="Model")).to_contain_text("ab")


def test_an_api_key(hello: LLM, page: playwright.Page) -> None:
    answers = iter(["wrong", "right"])
    page.on("dialog", lambda dialog: dialog.accept(next(answers)))
    with served(hello, api_keys=["right"]) as address:
        page.goto(address)
        playwright.expect(page).to_have_title("test")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_colours(hello: LLM, page: playwright.Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    contrast = """selector => {
        const canvas = document.createElement("canvas").getContext("2d", { alpha: false });
        const luminance = color => {
            canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(c => c / 255)
                .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const style = getComputedStyle(document.querySelector(selector));
        const back = getComputedStyle(document.querySelector("form")).backgroundColor;
        const [high, low] = [luminance(style.color), luminance(back)].sort((a, b) => b - a);
        return (high + 0.05) / (low + 0.05);
    }"""
    with served(hello) as address:
        page.goto(address)
        page.keyboard.type("x" * 100)
        page.keyboard.press("Enter")
        playwright.expect(page.get_by_role("alert")).to_be_visible()
        for selector in ("h1", ".error", "small"):
            assert page.evaluate(contrast, selector) > 4.5, selector


def test_the_model_is_chosen(scripted: Callable[..., LLM], page: playwright.Page) -> None:
    expect = playwright.expect
    with served({"one": model(scripted, "1st"), "two": model(scripted, "2nd")}) as address:
        page.goto(address)
        expect(page).to_have_title("one")
        chosen = page.get_by_role("combobox", name="Model")
        expect(chosen).to_have_value("one")
        field, log = page.get_by_role("textbox", name="Message"), page.get_by_role("log")
        expect(field).to_be_focused()
        page.keyboard.type("x")
        page.keyboard.press("Enter")
        expect(log.get_by_role("article", name="Model")).to_have_text("1st")
        page.get_by_role("button", name="New conversation").click()
        chosen.select_option("two")
        expect(page).to_have_title("two")
        field.focus()
        page.keyboard.type("x")
        page.keyboard.press("Enter")
        expect(log.get_by_role("article", name="Model")).to_have_text("2nd")
