"""The page of `humanpref serve`: what is sent, and what a person at a browser finds."""

import re
import threading
import time
from urllib.parse import urljoin

import pytest

pytest.importorskip("starlette", reason="needs humanpref[serve]")
pytest.importorskip("uvicorn", reason="needs humanpref[serve]")
pytest.importorskip("jinja2", reason="needs humanpref[serve]")
pytest.importorskip("httpx", reason="needs humanpref[test]")

import uvicorn
from starlette.testclient import TestClient

import humanpref
from humanpref.interfaces.judge import Judgement
from humanpref.interfaces.serve import Limits, application, listen

from .chromium import Browser

BASE = "http://127.0.0.1:8000"
TAB, ENTER, CTRL = "Tab", "Enter", 2
CSP = "content-security-policy"


def client_of(*arguments):
    return TestClient(application(*arguments or [humanpref.load()]), base_url=BASE)


def test_everything_that_the_page_loads_comes_from_the_server():
    client = client_of()
    page = client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert links == ["data:,", "page.css", "page.js"]
    kinds = {}
    for link in links[1:]:
        answer = client.get(urljoin(BASE, link))
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"//\w|@import|url\(|innerHTML|\beval\b", answer.text)
        kinds[link] = answer.headers["content-type"].partition(";")[0]
    assert kinds == {"page.css": "text/css", "page.js": "text/javascript"}
    assert "//" not in page.text


def test_the_policy_forbids_the_rest_and_the_page_needs_none_of_it():
    page = client_of().get("/")
    policy = dict(each.split(" ", 1) for each in page.headers[CSP].split("; "))
    own = dict.fromkeys(("script-src", "style-src", "connect-src"), "'self'")
    nothing = ("default-src", "base-uri", "form-action", "frame-ancestors")
    assert policy == {**own, **dict.fromkeys(nothing, "'none'"), "img-src": "data:"}
    # Inline scripts, handlers and styles would not run.
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", page.text)


def test_the_model_is_named_and_its_bias_told():
    text = client_of().get("/").text
    assert "<b>packaged</b>" in text
    assert "It favors the longer answer" in text
    hostile = client_of(humanpref.load(), "<script>'&").get("/").text
    assert "<b>&lt;script&gt;&#39;&amp;</b>" in hostile


def test_methods_and_names():
    client = client_of()
    for path in ("/", "/page.js", "/page.css"):
        assert client.head(path).status_code == 200
        assert client.post(path).status_code == 405
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 421


def test_every_field_has_a_label_and_the_result_is_announced():
    text = client_of().get("/").text
    labeled = re.findall(r'<label[^>]*>([\w ]+)\n<textarea name="(\w+)"', text)
    assert labeled == [("Prompt", "prompt"), ("Answer A", "response_a"), ("Answer B", "response_b")]
    assert text.count("<textarea") == 3
    assert '<p id="said" role="status">' in text
    assert '<html lang="en">' in text


class Positional:
    """A judge that prefers what comes first, and cuts a long text if it comes second."""

    model = None

    def judge(self, prompt, a, b):
        first = 0.5 + 0.01 * len(a[0])
        second = (1 - first) / 4
        return Judgement(first, second, 3 * second, 0.0, 0.0, cut=len(b[0]) > 20)


@pytest.fixture
def visit(tmp_path):
    """Open the page of a judge in a browser, type a pair into it, and return the browser."""
    closing = []

    def opened(judge, texts, limits=None):
        listener = listen("127.0.0.1", 0)
        app = application(judge, limits=limits)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()

        def stop():
            server.should_exit = True
            thread.join()
            listener.close()

        closing.append(stop)
        browser = Browser(tmp_path)
        browser.stop_server = stop
        closing.append(browser.close)
        browser.look(1280)
        browser.open(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        for text in texts:
            browser.press(TAB)
            browser.type(text)
        return browser

    yield opened
    for close in reversed(closing):
        close()


def said(browser):
    return browser.value("document.getElementById('said').textContent")


def judged(browser):
    """Wait for the result; return the percentages of the bars, and those of the cells."""
    browser.wait("!document.getElementById('result').hidden")
    rows = browser.value(
        "['a', 'b', 'tie'].map(name => { const row = document.querySelector(`#verdict .${name}`);"
        "return [parseFloat(row.querySelector('.bar div').style.backgroundSize),"
        "...[...row.cells].slice(2).map(cell => parseFloat(cell.textContent))]; })"
    )
    bars, *columns = zip(*rows, strict=True)
    return bars, columns


def listed(browser, name):
    rows = f"[...document.getElementById('{name}').rows]"
    return browser.value(f"{rows}.map(row => [...row.cells].map(cell => cell.textContent))")


TEXTS = "Why?", "Because:\n\n- one\n- two <b>\n", "So."


@pytest.mark.slow
def test_a_pair_typed_and_judged_by_the_keyboard(visit):
    browser = visit(humanpref.load(), TEXTS)
    browser.press(TAB)
    browser.press(" ")
    bars, columns = judged(browser)
    own = humanpref.load().judge(*TEXTS)
    expected = [100 * own.p_a, 100 * own.p_b, 100 * own.p_tie]
    assert bars == pytest.approx(expected, abs=1e-4)
    for column in columns:  # the mean and both orders, which are the same
        assert column == pytest.approx(expected, abs=0.051)
    assert said(browser) == f"People most likely prefer A: {expected[0]:.1f}%."
    cut = browser.value("document.getElementById('cut').textContent")
    assert cut.startswith("Nothing was cut")
    shares = own.margin_shares
    (first, side, size), *_ = listed(browser, "margin")
    largest = max(shares, key=lambda name: abs(shares[name]))
    assert first == largest.removesuffix("_difference").replace("log_", "").replace("_", " ")
    assert side == ("for A" if shares[largest] > 0 else "for B")
    assert size == f"{shares[largest]:+.3f}".replace("-", "−")
    for name, score in (("margin", own.margin), ("tie", own.tie_score)):
        sizes = [float(row[2].replace("−", "-")) for row in listed(browser, name)]
        assert sum(sizes) == pytest.approx(score, abs=0.006)
    # A result does not outlive its texts.
    browser.value("document.forms[0].elements.prompt.focus()")
    browser.type("x")
    assert browser.value("document.getElementById('result').hidden")
    assert said(browser) == ""
    assert browser.complaints == []


@pytest.mark.slow
def test_both_orders_of_a_model_that_depends_on_them(visit):
    texts = "p", "a" * 30, "b" * 10
    browser = visit(Positional(), texts)
    browser.press(ENTER, CTRL)
    bars, (mean, first, second) = judged(browser)
    assert first == pytest.approx((80, 5, 15), abs=0.051)
    assert second == pytest.approx((10, 60, 30), abs=0.051)
    assert mean == bars == pytest.approx((45, 32.5, 22.5), abs=0.051)
    # Only the second order is cut, and this model has no shares.
    assert "read only a part" in browser.value("document.getElementById('cut').textContent")
    assert browser.value("document.getElementById('margin').hidden")
    assert browser.complaints == []


@pytest.mark.slow
def test_errors_are_shown_in_words(visit):
    browser = visit(humanpref.load(), TEXTS, Limits(body_bytes=200))
    browser.type("x" * 300)
    browser.press(ENTER, CTRL)
    browser.wait("!!document.querySelector('#said.error')")
    assert said(browser) == "Not judged: the body is larger than 200 bytes"
    browser.value("document.forms[0].elements.response_b.value = 'So.'")
    browser.press(ENTER, CTRL)
    judged(browser)
    browser.stop_server()
    browser.press(ENTER, CTRL)
    browser.wait("!!document.querySelector('#said.error')")
    assert said(browser) == "Not judged: the server does not answer; is it still running?"
    assert browser.value("document.getElementById('result').hidden")


class Slow:
    """A judge whose first judgement comes after the second pair was asked for."""

    model = None

    def judge(self, prompt, a, b):
        time.sleep(0.5 if prompt == ["slow"] else 0)
        share = 0.9 if prompt == ["slow"] else 0.4
        return Judgement(share, 1 - share, 0.0, 0.0, 0.0)


@pytest.mark.slow
def test_the_judgement_of_a_former_text_is_not_shown(visit):
    browser = visit(Slow(), ("slow",))
    browser.press(ENTER, CTRL)
    browser.wait("document.getElementById('said').textContent === 'Judging …'")
    browser.type("er")
    assert said(browser) == ""
    browser.press(ENTER, CTRL)
    assert judged(browser)[0] == pytest.approx((50, 50, 0))
    time.sleep(1)
    assert judged(browser)[0] == pytest.approx((50, 50, 0))
    assert said(browser) == "A and B are equally likely: 50.0% each."


@pytest.mark.slow
def test_phones_and_dark_screens(visit, tmp_path):
    browser = visit(humanpref.load(), ("Why?", "word" * 200, "- a\n" * 30))
    browser.press(ENTER, CTRL)
    judged(browser)
    light = {}
    for width in (1280, 400):
        for scheme in ("light", "dark"):
            browser.look(width, scheme)
            assert browser.value("innerWidth") == width
            assert browser.value("document.documentElement.scrollWidth") <= width
            colors = "(({ color, backgroundColor }) => [color, backgroundColor])"
            text, page = (
                sum(map(int, re.findall(r"\d+", color)[:3])) / 3
                for color in browser.value(f"{colors}(getComputedStyle(document.body))")
            )
            light[scheme] = page > text
            assert abs(page - text) > 150
            browser.screenshot(tmp_path / "shot.png")
            assert (tmp_path / "shot.png").stat().st_size > 20_000
    assert light == {"light": True, "dark": False}
