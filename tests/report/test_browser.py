"""The page in a browser, headless Chromium: runs if NORMRES_TEST_ALL is set, since it takes a while to start."""

import os
import shutil

import pytest
from synthetic import experiment, write_run

from normres.report import paper
from normres.runs.results import read_runs

if not os.environ.get("NORMRES_TEST_ALL"):
    pytest.skip("NORMRES_TEST_ALL is not set", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if not CHROMIUM:
    pytest.skip("no chromium is installed", allow_module_level=True)

HOSTILE = '<a href="http://x.example/">odd</a>'


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    for number, shortcut in enumerate(("none", "A")):
        for depth in (8, 14, 110):
            for seed in (0, 1):
                change = {"model.shortcut": shortcut, "model.depth": depth}
                error = 0.2 + 0.1 * number + 0.02 * seed + depth / 1000
                write_run(root / "runs", (error, error), seed=seed, change=change, name=f"{shortcut}-{depth}-{seed}")
    write_run(root / "runs", (0, 0), status="diverged", name="lost", change={"model.shortcut": "none"})
    write_run(root / "runs", (0.3, 0.4), name=HOSTILE, change={"model.shortcut": HOSTILE})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "save", lambda chart, folder: [])
        return experiment("degradation").draw(read_runs(root / "runs"), root / "out")[-1]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def page(request, browser, page_file):
    """Opens the page; a message of an error, or a request for anything but the file, fails the test at its end."""
    opened = browser.new_page(color_scheme=request.param, viewport={"width": 1100, "height": 900})
    faults = []
    opened.on("console", lambda message: faults.append(message.text))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("dialog", lambda dialog: faults.append(dialog.message) or dialog.dismiss())
    opened.on("request", lambda one: one.url.startswith(("file:", "data:", "blob:")) or faults.append(one.url))
    opened.goto(page_file.as_uri())
    opened.wait_for_selector("#degradation .main-svg .trace")
    opened.scheme = request.param
    yield opened
    opened.close()
    assert faults == []


def traces(page, name, figure="degradation"):
    """Returns whether each trace of a name is shown, as plotly has it."""
    return page.evaluate(
        "([figure, name]) => document.querySelector(`#${figure} .chart`)._fullData"
        ".filter((trace) => trace.legendgroup === name).map((trace) => trace.visible)",
        [figure, name],
    )


def place(page, text):
    """Returns where on the screen the first point of the main figure stands whose text begins so."""
    return page.evaluate(
        """(text) => {
          const chart = document.querySelector("#degradation .chart");
          chart.scrollIntoView({ block: "center" });
          for (const trace of chart._fullData) {
            const index = (trace.text || []).findIndex((one) => one.startsWith(text));
            if (index < 0) continue;
            const axis = (letter) => chart._fullLayout[letter + "axis" + trace[letter + "axis"].slice(1)];
            const [x, y] = [axis("x"), axis("y")];
            const box = chart.getBoundingClientRect();
            return [box.x + x._offset + x.d2p(trace.x[index]), box.y + y._offset + y.d2p(trace.y[index])];
          }
        }""",
        text,
    )


def test_a_point_says_which_run_it_is(page):
    page.mouse.move(*place(page, "none-110-1"))
    said = page.locator("#degradation .hoverlayer").text_content()
    assert said.replace("\xa0", " ") == "none-110-1: seed 1, 33.00 %"


def test_a_line_is_hidden_by_the_legend_and_by_its_box(page):
    box = page.locator("#degradation .lines input").first
    label = page.locator("#degradation .legend .traces").first
    assert box.is_checked()
    assert set(traces(page, "plain")) == {True}
    label.locator(".legendtoggle").click()
    page.wait_for_function("() => !document.querySelector('#degradation .lines input').checked")
    assert set(traces(page, "plain")) == {"legendonly"}
    assert set(traces(page, "residual (A)")) == {True}
    box.check()
    assert set(traces(page, "plain")) == {True}
    box.uncheck()
    assert set(traces(page, "plain")) == {"legendonly"}
    # A name with a tag is text, and its box finds its line.
    page.locator(f"#degradation .lines input[value='shortcut {HOSTILE}']").uncheck()
    assert set(traces(page, f"shortcut {HOSTILE}")) == {"legendonly"}
    assert "x.example" in page.locator("#degradation .legend").text_content()
    assert page.locator(".chart a[*|href*='x.example']").count() == 0


def test_a_table_is_sorted_by_number_and_turned(page):
    titles = page.locator("table.sortable >> nth=0 >> th")
    names = [text.strip() for text in titles.all_text_contents()]

    def column(name):
        number = names.index(name) + 1
        return page.locator(f"table.sortable >> nth=0 >> tbody tr td:nth-child({number})").all_inner_texts()

    def sort_by(name):
        titles.nth(names.index(name)).locator("button").click()
        return column(name)

    parameters = sort_by("parameters")
    assert parameters == sorted(parameters, key=lambda text: int(text.replace(",", "")))
    assert parameters[0] == "8,000"  # as a text it is after 110,000
    assert sort_by("parameters")[0] == "110,000"
    assert sort_by("variant") == sorted(column("variant"), key=str.lower)
    assert sort_by("setting")[0] == "depth 8"
    errors = [float(text.split()[0]) for text in sort_by("training error (%)") if text[0].isdigit()]
    assert errors == sorted(errors)


def test_a_link_to_a_run_opens_it(page):
    details = page.locator("details.run", has_text="A-14-0").first
    assert not details.is_visible()
    page.get_by_role("link", name="A-14-0", exact=True).click()
    page.wait_for_function("() => document.getElementById('A-14-0').open")
    assert "normres train" in details.inner_text()
    page.get_by_role("link", name=HOSTILE, exact=True).click()
    page.wait_for_function("(name) => document.getElementById(name).open", arg=HOSTILE)


@pytest.mark.parametrize("axis", ["xaxis", "yaxis"])
def test_an_axis_is_logarithmic_and_back(page, axis):
    box = page.locator(f"#degradation .axes input[value={axis}]")
    kind = f"() => document.querySelector('#degradation .chart')._fullLayout.{axis}2.type"
    before = page.evaluate(kind)
    assert box.is_checked() == (before == "log")
    box.click()
    assert {before, page.evaluate(kind)} == {"log", "linear"}
    box.click()
    assert page.evaluate(kind) == before


def test_dark_and_light(page):
    colour = {"light": "rgb(26, 26, 26)", "dark": "rgb(230, 230, 230)"}
    other = {"light": "dark", "dark": "light"}[page.scheme]
    for scheme in (page.scheme, other):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(200)
        assert page.evaluate("() => getComputedStyle(document.body).color") == colour[scheme]
        tick = "() => getComputedStyle(document.querySelector('#degradation .xtick text')).fill"
        assert page.evaluate(tick) == colour[scheme]
