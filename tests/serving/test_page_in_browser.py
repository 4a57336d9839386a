"""The page in a real Chromium, without a window, by pointer and by keyboard.

``SPIKEFORMERS_SCREENSHOTS=folder`` keeps the screenshots.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the page's test is driven by Playwright: pip install playwright"
)
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
if CHROMIUM is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)

Start = Callable[..., Any]
Open = Callable[..., Any]
SECONDS = 60_000  # milliseconds that a slow machine may take


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, running: Any) -> Iterator[Open]:
    """``open_page(width=390, color_scheme="dark")``: the page of a server, connected.

    Its console stays silent, and it talks to its own server only.
    """
    contexts: list[Any] = []
    complaints: list[str] = []
    asked: list[str] = []

    def visit(
        width: int = 1400,
        height: int = 1000,
        url: str = running.url,
        up: bool = True,
        before: Callable[[Any], None] = lambda page: None,
        **more: Any,
    ) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        context.set_default_timeout(SECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        before(page)
        page.goto(url)
        page.wait_for_selector("#light.up" if up else "#light.down")
        return page

    yield visit
    for context in contexts:
        context.close()
    own = ("http://127.0.0.1:", "data:")
    assert [url for url in asked if not url.startswith(own)] == []
    refused = "Failed to load resource: the server responded with a status of "
    assert [text for text in complaints if not text.startswith(refused)] == []


@pytest.fixture
def slowly(running: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The engine takes ``pace["seconds"]`` per step, to give time to see a text being written."""
    engine = running.service.model.engine
    step, pace = engine.step, {"seconds": 0.01}

    def slow_step(*given: Any) -> Any:
        time.sleep(pace["seconds"])
        return step(*given)

    monkeypatch.setattr(engine, "step", slow_step)
    return pace


def write(page: Any, prompt: str, most: int = 24, seed: int = 3) -> None:
    """Let the model continue a text, and wait for its end."""
    page.get_by_label("Continue a text").check(force=True)
    page.fill("#prompt", prompt)
    page.fill("#most", str(most))
    page.fill("#seed", str(seed))
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".token", state="attached")
    page.wait_for_selector("#write:not([hidden])")


def middle(page: Any, selector: str) -> list[float]:
    """Where an element is, asked in one step: what is drawn anew between two has no place."""
    return page.evaluate(
        """(selector) => {
          const box = document.querySelector(selector).getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        }""",
        selector,
    )


def is_marked(element: Any) -> bool:
    return "won" in (element.get_attribute("class") or "").split()


def texts(page: Any) -> list[str]:
    return page.locator(".token").all_text_contents()


def test_tokens_arrive_one_after_another_and_are_those_of_the_interface(
    open_page: Open, running: Any, slowly: dict[str, float]
) -> None:
    page = open_page()
    page.get_by_label("Continue a text").check(force=True)
    page.fill("#prompt", "a spike")
    page.fill("#most", "120")
    page.fill("#seed", "3")
    slowly["seconds"] = 0.5
    page.get_by_role("button", name="Write").click()
    page.wait_for_selector(".token", state="attached")
    early = page.locator(".token").count()
    slowly["seconds"] = 0.0
    page.wait_for_selector("#write:not([hidden])")
    assert 0 < early < page.locator(".token").count() == 120
    answer = running.complete("a spike", max_tokens=120, temperature=0.8, seed=3)
    assert page.locator(".answer").text_content() == answer["choices"][0]["text"]
    assert page.locator(".prompt").text_content() == "a spike"
    assert page.locator("#state").text_content() == "ended at the limit of tokens"


def test_stop_ends_the_text_and_frees_its_slot(
    open_page: Open, running: Any, slowly: dict[str, float]
) -> None:
    page = open_page()
    page.get_by_label("Continue a text").check(force=True)
    page.fill("#prompt", "a spike")
    page.fill("#most", "300")
    slowly["seconds"] = 0.5  # 150 seconds for the text, however slow the machine is
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".token", state="attached")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("#write:not([hidden])")
    written = page.locator(".token").count()
    assert 0 < written < 300
    assert page.locator("#state").text_content() == "stopped"
    running.wait_until_idle()
    page.wait_for_timeout(200)
    assert page.locator(".token").count() == written


def test_a_token_under_the_pointer_shows_its_figures_and_winners(
    open_page: Open, running: Any
) -> None:
    page = open_page()
    write(page, "a spike wins")
    answer = running.complete(
        "a spike wins", max_tokens=24, temperature=0.8, seed=3, spike_details=True
    )
    tenth = answer["choices"][0]["spikes"][9]
    page.locator(".token").nth(9).hover()
    page.wait_for_selector("#token-0-9.shown")
    figures = page.locator("#token dl").inner_text()
    assert f"{tenth['events']:,}" in figures
    assert f"{100 * tenth['density']:.1f} %" in figures
    assert "Energy, estimated" in figures
    page.wait_for_selector(".prompt span", state="attached")  # the prompt's tokens are known
    before = answer["usage"]["prompt_tokens"]
    spans, tokens = page.locator(".prompt span"), page.locator(".token")
    assert spans.count() == before
    won = {position for layer in tenth["winners"] for head in layer for position in head}
    marked = {place for place in range(before) if is_marked(spans.nth(place))}
    marked |= {before + place for place in range(24) if is_marked(tokens.nth(place))}
    assert marked == won
    titles = [chip.get_attribute("title") for chip in page.locator("#token .heads span").all()]
    first = tenth["winners"][0][0][0]  # of the first layer's first head
    assert titles[0].startswith("head 1")
    assert f"(token {first + 1} of what the model read)" in titles[0]
    tokens.nth(9).click()  # it stays chosen while the pointer goes to its figures
    page.locator("#token .layer").first.click()
    page.wait_for_selector("#token .layer[aria-pressed=true]")
    marked = {place for place in range(before) if is_marked(spans.nth(place))}
    marked |= {before + place for place in range(24) if is_marked(tokens.nth(place))}
    assert marked == {position for head in tenth["winners"][0] for position in head}


def test_a_layer_that_is_pressed_stays_until_it_is_released(open_page: Open) -> None:
    """The figures are drawn anew whenever the pointer moves or a token arrives."""
    page = open_page()
    write(page, "a spike")
    page.mouse.move(*middle(page, "#token .layer"))
    page.mouse.down()
    page.evaluate("""async () => {
      refresh();
      await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
    }""")
    page.mouse.up()
    page.wait_for_selector("#token .layer[aria-pressed=true]")


def test_totals_and_shades_are_those_of_the_tokens(open_page: Open, running: Any) -> None:
    page = open_page()
    write(page, "a spike")
    answer = running.complete("a spike", max_tokens=24, temperature=0.8, seed=3, spike_details=True)
    spikes = answer["choices"][0]["spikes"]
    read, dense = (
        sum(each[key] for each in spikes) for key in ("weight_bytes_read", "dense_weight_bytes")
    )
    assert page.locator("#share").text_content() == f"{100 * read / dense:.1f} %"
    assert f"{sum(each['events'] for each in spikes):,}" in page.locator("#totals").inner_text()
    labels = {"events": "Spikes", "weight_bytes_read": "Weights read"}
    for metric, label in (labels | {"estimated_nanojoules": "Energy"}).items():
        page.get_by_label(label, exact=True).check(force=True)
        page.wait_for_timeout(100)
        costs = [each[metric] for each in spikes]
        heats = [int(page.locator(".token").nth(i).get_attribute("data-heat")) for i in range(24)]
        assert heats[costs.index(min(costs))] == 0
        assert heats[costs.index(max(costs))] == 8
        assert [heat for _, heat in sorted(zip(costs, heats, strict=True))] == sorted(heats)
    assert "Energy, estimated" in page.locator("#metric-name").text_content()


def test_the_strip_shows_each_layer_and_chooses_tokens(open_page: Open) -> None:
    page = open_page()
    write(page, "a spike")
    strip = page.locator("#strip")
    label = strip.get_attribute("aria-label")
    assert label.startswith("Density of 2 layers over the last 24 tokens")
    assert "layer 2" in label
    strip.hover(position={"x": 70, "y": 8})
    page.wait_for_selector(".token.shown")
    assert page.locator(".token.shown").get_attribute("id") in ("token-0-0", "token-0-1")


def test_the_keyboard_alone_is_enough(open_page: Open) -> None:
    """From the top of the page: choose, write, stop, walk through tokens, and pick a layer."""
    page = open_page()
    focused = "() => document.activeElement.id || document.activeElement.className"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")  # from "Chat" to "Continue a text"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "prompt"
    page.keyboard.type("a spike")
    page.fill("#most", "12")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#write:not([hidden])")
    page.wait_for_selector(".token", state="attached")
    reached = [page.evaluate(focused)]
    while "answer" not in reached[-1]:
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focused))
        assert len(reached) < 30, reached
    page.keyboard.press("Home")
    page.wait_for_selector("#token-0-0.shown")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#token-0-1.shown")
    answer = page.locator(".answer")
    assert answer.get_attribute("aria-activedescendant") == "token-0-1"
    option = page.locator("#token-0-1")
    assert (option.get_attribute("role"), option.get_attribute("aria-selected")) == (
        "option",
        "true",
    )
    assert "spikes fired" in option.get_attribute("aria-label")
    page.keyboard.press("End")
    page.wait_for_selector("#token-0-11.shown")
    while page.evaluate(focused) != "layer":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".layer[aria-pressed=true]")


def test_a_chat_remembers_and_can_be_cleared(open_page: Open, running: Any) -> None:
    page = open_page()
    assert page.locator("input[value=chat]").is_checked()  # the model has a chat template
    page.fill("#most", "8")
    page.fill("#seed", "3")
    for count, message in enumerate(("a spike", "wins"), 1):
        page.fill("#prompt", message)
        page.press("#prompt", "Enter")
        page.wait_for_selector(f".turn:nth-child({count}) .token", state="attached")
        page.wait_for_selector("#write:not([hidden])")
    first, second = page.locator(".answer").all_text_contents()
    messages = [
        {"role": "user", "content": "a spike"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "wins"},
    ]
    answer = running.post(
        "/v1/chat/completions", messages=messages, max_tokens=8, temperature=0.8, seed=3
    ).json()
    assert second == answer["choices"][0]["message"]["content"]
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".turn").count() == 0


def test_errors_of_the_server_are_shown(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Continue a text").check(force=True)
    page.fill("#prompt", "a" * 400)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#problem:not([hidden])")
    assert "context" in page.locator("#problem").text_content()
    assert page.locator(".turn").count() == 0


def test_it_waits_for_a_server_that_is_still_loading(open_page: Open) -> None:
    loading = {"error": {"message": "the model is still loading.", "type": "server_unavailable"}}
    answers = [lambda route: route.fulfill(status=503, json=loading)]

    def before(page: Any) -> None:
        page.route(
            "**/v1/models", lambda route: answers.pop()(route) if answers else route.continue_()
        )

    page = open_page(up=False, before=before)
    assert page.locator("#problem").text_content() == "the model is still loading."
    assert page.locator("#model").text_content() == "waiting for the server"
    page.wait_for_selector("#light.up")
    assert page.locator("#problem").is_hidden()


def test_a_key_is_asked_for(open_page: Open, start: Start) -> None:
    with start(api_key="sesame") as locked:
        page = open_page(url=locked.url, up=False)
        page.wait_for_selector("#key-form:not([hidden])")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)
        assert page.locator("#light.down").count() == 1
        page.fill("#key", "sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#light.up")
        assert page.locator("#key-form").is_hidden()
        write(page, "a spike", most=4)
        assert len(texts(page)) == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits_and_can_be_read(scheme: str, width: int, open_page: Open, tmp_path: Path) -> None:
    """Nothing is wider than the window, and all text has the contrast of WCAG AA."""
    page = open_page(width=width, height=844 if width < 600 else 1000, color_scheme=scheme)
    write(page, "a spike wins or loses", most=120)
    page.locator(".token").nth(60).hover()
    page.wait_for_selector(".token.shown")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    worst = page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst
    assert worst["count"] > 100
    folder = Path(os.environ.get("SPIKEFORMERS_SCREENSHOTS", tmp_path))
    picture = folder / f"page-{scheme}-{width}.png"
    page.screenshot(path=str(picture), full_page=width < 600)
    assert picture.stat().st_size > 20_000


CONTRAST = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = (color) => {
    const [red, green, blue] = numbers(color).map((c) => linear(c / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((numbers(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const worst = { ratio: 99, count: 0 };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (!text || element.closest("script, [hidden], .hidden, legend")) continue;
    const ink = luminance(getComputedStyle(element).color), ground = luminance(behind(element));
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    worst.count += 1;
    if (ratio < worst.ratio) Object.assign(worst, { ratio, text: text.slice(0, 40) });
  }
  return worst;
}"""
