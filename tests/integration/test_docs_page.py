"""The page at `/docs` in a real browser: complete, quiet, readable, for keyboard and thumb."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.integration.browser import Looker, chromium
from tests.integration.serving import Api, serving

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

DESKTOP: Final = (1280, 800)
PHONE: Final = (360, 740)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def look(browser: Browser, api: Api, size: tuple[int, int], scheme: Any) -> Looker:
    width, height = size
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    looker = Looker(await context.new_page(), f"http://127.0.0.1:{api.port}")
    await looker.open("/docs")
    return looker


@pytest_asyncio.fixture(loop_scope="module")
async def desk(browser: Browser, api: Api) -> AsyncIterator[Looker]:
    looker = await look(browser, api, DESKTOP, "light")
    yield looker
    assert looker.complaints() == []
    await looker.page.context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def phone(browser: Browser, api: Api) -> AsyncIterator[Looker]:
    looker = await look(browser, api, PHONE, "light")
    yield looker
    assert looker.complaints() == []
    await looker.page.context.close()


SHOWN: Final = """() => [...document.querySelectorAll("article")]
    .filter((article) => article.checkVisibility()).map((article) => article.id)"""


async def shown(looker: Looker) -> list[str]:
    """Return the operations that can be seen."""
    found: list[str] = await looker.run(SHOWN)
    return found


async def test_every_operation_of_the_document_is_on_it(desk: Looker, api: Api) -> None:
    document = (await api.get("/openapi.json")).body
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            article = desk.page.locator(f"article#{operation['operationId']}")
            text = await article.inner_text()
            assert operation["summary"] in text
            assert path in text
            assert method.upper() in text
            assert f"http://127.0.0.1:{api.port}/" in text, "the command names this node"
            for parameter in operation.get("parameters", ()):
                assert parameter["name"] in text
            everything = await article.text_content()
            assert everything is not None
            for status, response in operation["responses"].items():
                codes = response["content"].get("application/problem+json", {}).get("examples", ())
                for code in codes:
                    assert code in everything
                assert status in everything
            link = desk.page.locator(f"nav a[href='#{operation['operationId']}']")
            assert method.upper() in await link.inner_text()
    assert len(await shown(desk)) == sum(map(len, document["paths"].values()))


async def test_a_word_leaves_the_operations_that_have_it(desk: Looker) -> None:
    everything = await shown(desk)
    await desk.page.keyboard.press("/")
    await desk.page.keyboard.type("lamport SYNC")
    found = await shown(desk)
    assert "syncClock" in found
    assert "getMetrics" not in found
    assert await desk.page.locator("#found").inner_text() == (
        f"{len(found)} of {len(everything)} operations"
    )
    links = desk.page.locator("nav li li a:visible")
    assert await links.count() == len(found)
    await desk.page.keyboard.press("Enter")
    assert await desk.run("document.activeElement.hash") == f"#{found[0]}"
    await desk.page.locator("#query").press("Escape")
    assert await shown(desk) == everything


async def test_what_is_not_found_is_said_and_a_link_brings_it_back(desk: Looker) -> None:
    await desk.page.locator("#query").fill("qwzx nowhere")
    assert await shown(desk) == []
    assert (await desk.page.locator("#found").inner_text()).startswith("0 of ")
    await desk.run("location.hash = 'getClock'")
    await desk.page.locator("article#getClock").wait_for()
    assert await desk.page.locator("#query").input_value() == ""


async def test_the_list_shows_where_the_reader_is(desk: Looker) -> None:
    await desk.page.locator("nav a[href='#listEvents']").click()
    await desk.page.locator("nav a[href='#listEvents'][aria-current]").wait_for()
    assert await desk.page.locator("nav [aria-current]").count() == 1


async def test_a_command_is_copied_as_it_stands(desk: Looker) -> None:
    await desk.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    example = desk.page.locator("article#recordEvent .code").first
    await example.get_by_role("button", name="Copy").click()
    await example.get_by_role("button", name="Copied").wait_for()
    copied = await desk.run("navigator.clipboard.readText()")
    assert copied == await example.locator("code").text_content()
    assert copied.startswith("curl -X POST http://127.0.0.1:")


async def test_the_theme_is_the_reader_s_choice_and_stays(desk: Looker) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    button = desk.page.locator("#theme")
    colours = {}
    for _ in range(3):
        colours[await button.get_attribute("aria-label")] = await desk.run(ground)
        await button.click()
    assert set(colours) == {"Theme: auto", "Theme: light", "Theme: dark"}
    assert colours["Theme: auto"] == colours["Theme: light"] != colours["Theme: dark"]
    await button.click()
    await button.click()
    await desk.page.reload()
    assert await button.get_attribute("aria-label") == "Theme: dark"
    assert await desk.run(ground) == colours["Theme: dark"]


async def test_a_keyboard_reaches_everything(desk: Looker) -> None:
    await desk.page.keyboard.press("Tab")
    assert await desk.run("document.activeElement.textContent") == "Skip to the operations"
    await desk.page.keyboard.press("Enter")
    assert await desk.run("document.activeElement.id") == "content"
    article = desk.page.locator("article#recordEvent")
    await article.locator("details > summary").last.focus()
    await desk.page.keyboard.press("Enter")
    await article.get_by_text("OUTCOME_UNKNOWN").wait_for()
    outlined = "getComputedStyle(document.activeElement).outlineStyle"
    assert await desk.run(outlined) == "solid"


# What a screen reader needs: axe's rules on names, headings, landmarks and references, by hand.
FAULTS: Final = r"""() => {
  const faults = [];
  const name = (node) => (node.getAttribute("aria-label") || node.textContent
    || [...(node.labels || [])].map((label) => label.textContent).join(" ")).trim();
  for (const node of document.querySelectorAll("a, button, input, summary, nav, [role=region]")) {
    if (!name(node)) faults.push(`no name: ${node.outerHTML.slice(0, 80)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) {
    faults.push(`twice: #${id}`);
  }
  for (const node of document.querySelectorAll("[aria-labelledby], [aria-controls], label[for]")) {
    for (const attribute of ["aria-labelledby", "aria-controls", "for"]) {
      const id = node.getAttribute(attribute);
      if (id && !document.getElementById(id)) faults.push(`no #${id} for ${attribute}`);
    }
  }
  for (const link of document.querySelectorAll("a[href^='#']")) {
    if (!document.getElementById(link.hash.slice(1))) faults.push(`nowhere: ${link.hash}`);
  }
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    const next = Number(heading.tagName[1]);
    if (next > level + 1) faults.push(`after h${level}: ${heading.tagName} ${heading.textContent}`);
    level = next;
  }
  for (const [what, count] of [["h1", 1], ["main", 1], ["nav", 1], ["header", 1], ["search", 1]]) {
    if (document.querySelectorAll(what).length !== count) faults.push(`not ${count}: ${what}`);
  }
  for (const list of document.querySelectorAll("ul")) {
    if ([...list.children].some((child) => child.tagName !== "LI")) faults.push("no list item");
  }
  if (!document.documentElement.lang || !document.title) faults.push("no language or title");
  return faults;
}"""

# Every text that can be seen against the colour behind it: WCAG asks for 4.5, for large text 3.
PALE: Final = r"""() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const parts = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return pen.getImageData(0, 0, 1, 1).data;
  };
  const luminance = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parts(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  const pale = new Map();
  for (const node of document.body.querySelectorAll("*")) {
    const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!text || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const shades = [luminance(parts(style.color)), luminance(behind(node))].sort((a, b) => b - a);
    const contrast = (shades[0] + 0.05) / (shades[1] + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (contrast < (large ? 3 : 4.5)) {
      pale.set(`${node.tagName}.${node.className}`, contrast.toFixed(2));
    }
  }
  return [...pale];
}"""


async def test_a_screen_reader_finds_its_way(desk: Looker) -> None:
    assert await desk.run(FAULTS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_stands_out_from_what_is_behind_it(
    browser: Browser, api: Api, scheme: str
) -> None:
    looker = await look(browser, api, DESKTOP, scheme)
    await looker.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert await looker.run(PALE) == []
    assert looker.complaints() == []
    await looker.page.context.close()


async def test_on_a_phone_nothing_is_wider_than_the_screen(phone: Looker) -> None:
    await phone.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert await phone.run("document.documentElement.scrollWidth") == PHONE[0]


async def test_on_a_phone_the_list_opens_and_leads_somewhere(phone: Looker) -> None:
    menu, navigation = phone.page.locator("#menu"), phone.page.locator("nav")
    assert not await navigation.is_visible()
    await menu.click()
    assert await menu.get_attribute("aria-expanded") == "true"
    first = await navigation.get_by_role("link").first.bounding_box()
    bar = await phone.page.locator("header").bounding_box()
    assert first is not None
    assert bar is not None
    assert first["y"] >= bar["y"] + bar["height"], "nothing hides behind the bar"
    await phone.page.keyboard.press("Escape")
    assert not await navigation.is_visible()
    assert await phone.run("document.activeElement.id") == "menu"
    await menu.click()
    await navigation.locator("a[href='#getClock']").click()
    assert not await navigation.is_visible()
    assert await menu.get_attribute("aria-expanded") == "false"
    heading = await phone.page.locator("#getClock-title").bounding_box()
    assert heading is not None
    assert bar["height"] <= heading["y"] < PHONE[1]


async def test_on_a_phone_a_thumb_hits_what_it_aims_at(phone: Looker) -> None:
    await phone.page.locator("#menu").click()
    small = """() => [...document.querySelectorAll("button, input, nav a")]
      .filter((node) => node.checkVisibility())
      .filter((node) => {
        const { width, height } = node.getBoundingClientRect();
        return width < 24 || height < 24;
      }).map((node) => node.outerHTML)"""
    assert await phone.run(small) == []


async def test_without_scripts_it_is_a_page_to_read(browser: Browser, api: Api) -> None:
    context = await browser.new_context(
        viewport={"width": PHONE[0], "height": PHONE[1]}, java_script_enabled=False
    )
    page = await context.new_page()
    await page.goto(f"http://127.0.0.1:{api.port}/docs")
    assert await page.locator("nav a[href='#recordEvent']").is_visible()
    assert await page.locator("article#recordEvent").is_visible()
    await context.close()
