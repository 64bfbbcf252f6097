"""The search tree: what the page holds, and the page opened and clicked in Chromium."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal._html import is_changed
from deal._trace import path as path_of

PROMPT = "the cat sat"
HOSTILE = "</script><script>window.broken=1</script><!--<b>&\u2028\u2029"


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("tree") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32", threads=2)


def write(lm: deal.Model, **settings: Any) -> deal.Generation:
    n = settings.pop("max_new_tokens", 8)
    rewards = deal.rewards.Keywords(["cat", "dog", "sun", "river"])
    search = deal.Search(**{"top_k": 4, "lookahead": 4, "reward_weight": 40} | settings)
    return lm.generate(PROMPT, rewards=rewards, search=search, max_new_tokens=n)


class HostileTokenizer:
    """The tokenizer, in front of whose every text stands a hostile one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: Any, **kwargs: Any) -> str:
        return HOSTILE + self._tokenizer.decode(ids, **kwargs)


def data_of(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])["nodes"]


# --- the page ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exact", "naive"])
@pytest.mark.parametrize(("num_beams", "commit"), [(1, 1), (3, 1), (2, 3)])
def test_nodes_are_the_candidates(
    lm: deal.Model, mode: str, num_beams: int, commit: int
) -> None:
    r = write(lm, mode=mode, num_beams=num_beams, commit=commit)
    nodes = data_of(r.tree().html)
    assert len(nodes) == 1 + sum(len(d.candidates) for d in r.trace)
    assert nodes[0]["parent"] == -1
    assert all(node["parent"] < i for i, node in enumerate(nodes))
    assert all(nodes[node["parent"]]["kind"] == "chosen" for node in nodes[1:])
    way = [node for node in nodes if node["result"]]
    steps = path_of(r)
    assert len(way) == 1 + len(steps)
    for node, before in zip(way[1:], way, strict=False):
        assert nodes[node["parent"]] is before
    # The labels along the way spell the text; a dot is a space.
    spelt = "".join(node["label"] for node in way[1:-1]).replace("·", " ")
    assert spelt and repr(r.text)[1:-1].startswith(spelt)
    assert [n["changed"] for n in way[1:]] == [is_changed(step) for step in steps]
    details = dict(way[1]["details"])
    assert details["log P"] == f"{steps[0].chosen.logprob:.3f}"


def test_page_needs_nothing_else(lm: deal.Model, tmp_path: Path) -> None:
    tree = write(lm).tree()
    tree.save(tmp_path / "tree.html")
    assert (tmp_path / "tree.html").read_text("utf-8") == tree.html
    assert not re.search(r"<(link|img|iframe)\b|\bsrc=|@import|url\(", tree.html)
    assert "default-src 'none'" in tree.html
    assert "Redistribution and use in source and binary forms" in tree.html
    assert len(tree.html) < 150_000
    with pytest.raises(ValueError, match=r"ends in \.html, got .*tree\.svg"):
        tree.save(tmp_path / "tree.svg")


def test_frame_holds_the_page(lm: deal.Model) -> None:
    tree = write(lm).tree()
    frame = tree._repr_html_()
    found = re.fullmatch(
        r'<iframe sandbox="allow-scripts" .*? srcdoc="([^"]*)"></iframe>', frame, re.S
    )
    assert found and html.unescape(found[1]) == tree.html


def test_hostile_text_cannot_leave_its_script(lm: deal.Model) -> None:
    page = replace(write(lm), text=HOSTILE).tree(HostileTokenizer(lm.tokenizer)).html
    plain = write(lm).tree().html
    for part in ("<script", "</script", "<!--", "<b>"):
        assert page.count(part) == plain.count(part)
    assert "\u2028" not in page and "\u2029" not in page
    assert HOSTILE[:8] in data_of(page)[1]["label"]


def test_without_a_trace_or_a_tokenizer(lm: deal.Model) -> None:
    with pytest.raises(ValueError, match="with a trace"):
        lm.generate(PROMPT, max_new_tokens=2).tree()
    copied = replace(write(lm), reward=0.0)
    with pytest.raises(ValueError, match="give lm.tokenizer"):
        copied.tree()
    assert copied.tree(lm.tokenizer).html


# --- in a browser --------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, of Debian's packages chromium and chromium-driver."""
    webdriver = pytest.importorskip("selenium.webdriver")
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in found:
        pytest.skip("no Chromium: on Debian, apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.add_argument("--window-size=1200,800")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # A sanitizer that is preloaded into this process is not for the browser.
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    service = webdriver.ChromeService(executable_path=found[1], env=env)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


class View:
    """A tree in the browser."""

    def __init__(self, browser: Any, tree: deal.Tree, folder: Path) -> None:
        tree.save(folder / "tree.html")
        self.browser = browser
        browser.get_log("browser")
        browser.get((folder / "tree.html").as_uri())

    def ids(self) -> list[int]:
        found = self.browser.find_elements("css selector", "g.node")
        return sorted(int(each.get_attribute("data-id")) for each in found)

    def node(self, i: int) -> Any:
        return self.browser.find_element("css selector", f'g.node[data-id="{i}"]')

    def click(self, i: int) -> None:
        self.node(i).find_element("css selector", "circle").click()

    def told(self) -> str:
        return self.browser.find_element("css selector", "aside").text

    def button(self, name: str) -> None:
        self.browser.find_element("id", name).click()

    def press(self, *keys: str) -> int:
        """The node that has the focus after the keys."""
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)
        return int(self.browser.switch_to.active_element.get_attribute("data-id"))

    def place(self) -> str:
        return self.browser.find_element("css selector", "svg > g").get_attribute(
            "transform"
        )

    def complaints(self) -> list[Any]:
        return self.browser.get_log("browser")


def test_clicks_unfold_and_fold(browser: Any, lm: deal.Model, tmp_path: Path) -> None:
    r = write(lm)
    nodes = data_of(r.tree().html)
    children = [
        [i for i, node in enumerate(nodes) if node["parent"] == p]
        for p in range(len(nodes))
    ]
    way = [i for i, node in enumerate(nodes) if node["result"]]
    view = View(browser, r.tree(), tmp_path)
    begun = view.ids()
    assert set(way) <= set(begun)
    assert set(children[0]) <= set(begun)  # all candidates of the first decision
    view.button("taken")
    assert view.ids() == way
    assert view.node(0).find_element("css selector", ".more").text == "+3"
    view.click(0)
    assert view.ids() == sorted({*way, *children[0]})
    assert view.node(0).get_attribute("aria-expanded") == "true"
    view.click(0)
    assert view.ids() == [0]
    assert view.node(0).get_attribute("aria-expanded") == "false"
    view.click(0)
    assert view.ids() == way
    view.button("all")
    assert view.ids() == list(range(len(nodes)))
    view.button("fold")
    assert view.ids() == [0]
    assert view.complaints() == []


def test_hovering_tells_numbers(browser: Any, lm: deal.Model, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains

    r = write(lm)
    view = View(browser, r.tree(), tmp_path)
    nodes = data_of(r.tree().html)
    for i, c in enumerate(r.trace[0].candidates, 1):
        circle = view.node(i).find_element("css selector", "circle")
        ActionChains(browser).move_to_element(circle).perform()
        told = view.told()
        assert told.splitlines()[0] == nodes[i]["label"]
        assert f"{c.logprob:.3f}" in told
        assert "score" in told
    assert view.complaints() == []


def test_keys_move_and_unfold(browser: Any, lm: deal.Model, tmp_path: Path) -> None:
    from selenium.webdriver import Keys

    r = write(lm)
    nodes = data_of(r.tree().html)
    way = [i for i, node in enumerate(nodes) if node["result"]]
    view = View(browser, r.tree(), tmp_path)
    view.button("taken")
    view.click(0)  # all candidates of the first decision
    assert view.press(Keys.ARROW_RIGHT) == way[1]
    assert view.press(Keys.ARROW_RIGHT) == way[2]
    assert view.press(Keys.ARROW_LEFT) == way[1]
    assert nodes[view.press(Keys.ARROW_DOWN)]["parent"] == 0
    assert view.press(Keys.HOME) == 0
    assert view.press(Keys.END) in view.ids()
    assert view.press(Keys.HOME) == 0
    before = len(view.ids())
    assert view.press(Keys.ENTER) == 0 and len(view.ids()) < before
    place = view.place()
    view.press("+")
    assert view.place() != place
    assert view.complaints() == []


def test_drag_and_fit_move_the_picture(
    browser: Any, lm: deal.Model, tmp_path: Path
) -> None:
    from selenium.webdriver import ActionChains

    view = View(browser, write(lm).tree(), tmp_path)
    place = view.place()
    svg = browser.find_element("css selector", "svg")
    ActionChains(browser).move_to_element_with_offset(
        svg, 0, 200
    ).click_and_hold().move_by_offset(60, -40).release().perform()
    moved = view.place()
    assert moved != place
    view.button("fit")
    assert view.place() == place


def test_hostile_text_is_shown(browser: Any, lm: deal.Model, tmp_path: Path) -> None:
    tree = replace(write(lm), text=HOSTILE).tree(HostileTokenizer(lm.tokenizer))
    view = View(browser, tree, tmp_path)
    view.click(1)
    assert "</script>" in view.told() and "<!--" in view.told()
    assert browser.execute_script("return window.broken") is None
    assert view.complaints() == []


def test_hundreds_of_decisions(browser: Any, lm: deal.Model, tmp_path: Path) -> None:
    r = write(lm, max_new_tokens=240, top_k=10, lookahead=0)
    assert len(r.trace) > 200
    tree = r.tree()
    n = 1 + sum(len(d.candidates) for d in r.trace)
    assert len(data_of(tree.html)) == n > 2000
    view = View(browser, tree, tmp_path)
    assert len(view.ids()) < 300  # folded at first
    view.button("all")
    count = "return document.querySelectorAll('g.node').length"
    assert browser.execute_script(count) == n
    view.button("fold")
    assert view.ids() == [0]


def test_frame_in_a_page(browser: Any, lm: deal.Model, tmp_path: Path) -> None:
    page = tmp_path / "notebook.html"
    body = write(lm).tree()._repr_html_()
    page.write_text(f"<!DOCTYPE html><meta charset=utf-8>{body}", "utf-8")
    browser.get(page.as_uri())
    browser.switch_to.frame(0)
    assert browser.find_elements("css selector", "g.node")
    browser.switch_to.default_content()
