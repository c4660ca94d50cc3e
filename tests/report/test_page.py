"""The page, its index, the comparison of two sets, and the command line that makes them."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from synthetic import ROOT, experiment, made, runs_of_sweep, write_run

from normres import cli
from normres.report import page, paper, tables
from normres.report.commands import experiment_of
from normres.report.experiment import of_unknown
from normres.runs.results import read_runs

degradation = experiment("degradation")
PLAIN = {"model.shortcut": "none"}
HOSTILE = '"><script>alert(1)</script><img src=http://x.example/ onerror="x">&$_^'


class Reader(HTMLParser):
    """Collects tags, ids, addresses, scripts, what the figures hold, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.addresses, self.scripts, self.figures, self.text = [], [], [], [], [], ""
        self.policy = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "data", "style"):
                self.addresses.append(value)
        named = dict(attributes)
        self.ids += filter(None, [named.get("id")])
        self.figures += map(json.loads, filter(None, [named.get("data-figure")]))
        self.policy += named.get("content", "") * ("http-equiv" in named)

    def handle_endtag(self, tag):
        self.tags.append("/" + tag)

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += data


def file_of(address):
    """Returns the path that a browser makes of a relative address."""
    return unquote(urlsplit(address).path)


def fill(root):
    """Writes plain and residual runs of two seeds, a diverged and a running one, and one with a hostile name."""
    for shortcut, depth, error in (("none", 14, 0.4), ("none", 56, 0.7), ("A", 14, 0.35), ("A", 56, 0.25)):
        for seed, offset in enumerate((-0.01, 0.01)):
            fields = {"model.shortcut": shortcut, "model.depth": depth}
            write_run(root, (error + offset, error + 0.1 + offset), seed=seed, change=fields)
    write_run(root, (0, 0), status="diverged", change=PLAIN | {"model.depth": 110})
    write_run(root, (0, 0), status="running", change={"model.depth": 110})
    hostile = {"dtype": "</style><b>", "warnings": [HOSTILE]}
    change = {"model.depth": 110, "data.path": HOSTILE, "model.norm": "<i>norm"}
    write_run(root, (0.2, 0.4), seed=1, name=HOSTILE, change=change, record=hostile)
    return read_runs(root)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Draws an experiment with every file."""
    root = tmp_path_factory.mktemp("report")
    runs = fill(root / "50% #1?")  # addresses of records have such letters quoted
    return degradation.draw(runs, root / "out"), root


@pytest.fixture(scope="module")
def reader(drawn):
    return Reader(drawn[0][-1].read_text())


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out the files for papers, which take most of the time."""
    monkeypatch.setattr(paper, "save", lambda chart, folder: [])


def test_files(drawn):
    paths, root = drawn
    figures = [f"{f}-{w}" for f in ("degradation", "curves") for w in ("column", "page")]
    names = [f"{figure}.{kind}" for figure in figures for kind in ("png", "pdf", "svg")]
    assert [path.name for path in paths] == [*names, "table.md", "table.tex", "table.csv", "index.html"]
    # Nothing else is left, temporary files for example.
    assert {path.name for path in (root / "out").iterdir()} == {path.name for path in paths}
    for path in paths[:12]:
        content = path.read_bytes()
        if path.suffix == ".png":
            assert content.startswith(b"\x89PNG")
        elif path.suffix == ".pdf":
            assert b"/FontFile2" in content  # TrueType; Type 3 fonts have no file
            assert b"/Type3" not in content
        else:
            assert not re.search(rb"<text\b|font-family|<image\b|<script\b", content)


def test_the_page_is_self_contained(drawn, reader):
    assert len(reader.scripts) == 2
    assert not {"iframe", "object", "img", "b", "i"} & set(reader.tags)
    for address in reader.addresses:
        if address.startswith("#"):
            assert unquote(address[1:]) in reader.ids, address
        elif address != "data:,":
            assert (drawn[0][-1].parent / file_of(address)).resolve().is_file(), address
    assert sum(address.endswith("record.json") for address in reader.addresses) == 11
    assert not any(word in page._asset("page.css") for word in ("url(", "@import"))
    sums = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in reader.scripts]
    policy = dict(part.split(" ", 1) for part in reader.policy.split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == " ".join(f"'sha256-{one}'" for one in sums)


def test_hostile_names_are_text(drawn, reader):
    paths, root = drawn
    assert HOSTILE in reader.text
    assert HOSTILE in reader.ids
    assert "</style><b>" in reader.text
    assert len(re.findall("<script", paths[-1].read_text().replace(reader.scripts[0], ""))) == 2
    # Plotly reads some tags in names and texts: here there are none but its own line breaks.
    texts = [str(trace.get("text")) + trace["name"] for data in reader.figures for trace in data["data"]]
    assert any("&lt;i&gt;norm" in one for one in texts)
    assert not any("<" in one for one in texts)
    assert str(root) not in paths[-1].read_text()


def test_the_page_says_what_matters(reader):
    for part in (
        "count at the error of guessing, 90 %: 1 of 1 run of plain, depth 110",
        "Rule: a comparison is decided by the confidence interval",
        "if all true differences were equal to their limits, fewer than 5% of such pages",
        "cifar10 (embedded), 2,560 training and 640 test images, SHA-256 abababababab…",
        "width 8 here, 16 there",
        "Plain-110 stays above 60 % error",
        "11 min 0 s in 11 runs",
        "diverged at step 100",
        "normres train --config=base:demo",
        "@software{",
        "@misc{",
        r"\toprule",
    ):
        assert part in reader.text, part


def test_the_software_is_cited_with_every_commit():
    attempts = [made((0.1, 0.2)).attempt, made((0.1, 0.2)).attempt | {"commit": "f" * 40}]
    said = page.bibtex(
        [made((0.1, 0.2), record={"attempts": attempts}), made((0.1, 0.2), attempt={"commit": "e" * 40})]
    )
    assert f"commit 0123456789abcdef, {'f' * 40}, {'e' * 40}" in said
    assert said.count("@software{normres,") == 1


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "experiments").glob("[a-z]*.py")))
def test_every_experiment_has_a_page(name, undrawn, tmp_path):
    declared = experiment(name)
    corrupted = dict.fromkeys(("contrast", "brightness", "color_cast", "gaussian_blur", "gaussian_noise"), [0.5] * 5)
    runs = runs_of_sweep(name, "demo", lambda *_: (0.2, 0.3), seeds=2, record=lambda *_: {"corrupted": corrupted})
    text = Reader(declared.draw(runs, tmp_path)[-1].read_text()).text
    assert "No run of" not in text or name == "signals"  # test_probes.py has records of what that reads
    # With one variant only, with runs that are not finished, and with none.
    status = {(variant, place): "running" for variant in declared.variants for place in range(200)}
    running = runs_of_sweep(name, "demo", lambda *_: (0, 0), seeds=1, status=status)
    for few in (runs[:1], running):
        arms = declared.arms(few)
        assert declared.charts(few, arms)
        assert ("not finished" in tables.markdown(declared.table(arms))) == (few is running)


# --- runs without an experiment


def test_unknown_runs_have_a_page(undrawn, tmp_path):
    runs = [
        made((e, e + rate), seed=s, change={"model.norm": norm, "optim.learning_rate": rate, "model.depth": depth})
        for s, e in enumerate((0.2, 0.3))
        for norm in ("batch", "group")
        for rate in (0.1, 0.2)
        for depth in (14, 56)
    ]
    made_of = of_unknown(runs)
    assert made_of.source == (
        "Fields that differ: model.norm (batch, group), model.depth (14, 56), optim.learning_rate (0.1, 0.2)."
    )
    figures = made_of.charts(runs, made_of.arms(runs))
    assert [(chart.name, chart.x) for chart in figures] == [
        ("error", "depth (layers)"),
        ("error-over-optim.learning_rate", "learning rate"),
        ("seeds", "error (%)"),
        ("curves", "training step"),
    ]
    assert figures[1].labels == [
        "batch norm, depth 14",
        "group norm, depth 14",
        "batch norm, depth 56",
        "group norm, depth 56",
    ]
    line = figures[1].panels[1].series[0]
    assert (line.x, line.y) == ([0.1, 0.2], pytest.approx([35, 45]))
    # Where another field changes with the rate, a figure over the rate would have single points.
    changes = [{"optim.learning_rate": rate, "optim.warmup_steps": int(100 * rate)} for rate in (0.1, 0.2)]
    together = [made((0.2, 0.3), change=change | {"model.depth": depth}) for change in changes for depth in (14, 56)]
    made_of_them = of_unknown(together)
    assert made_of_them.alone
    assert [chart.name for chart in made_of_them.charts(together, made_of_them.arms(together))] == ["error", "curves"]
    modules = [made((0.1, 0.2), change={"model.module": f"net.py:{name}"}) for name in "AB"]
    assert [arm.setting.name for arm in of_unknown(modules).arms(modules)] == ["steps 320"] * 2  # and not a depth
    reader = Reader(made_of.draw(runs, tmp_path)[-1].read_text())
    assert len(set(reader.ids)) == len(reader.ids)  # although the runs have four names here, as copies of runs do
    assert "16 runs" in reader.text
    assert "Verdict" not in reader.text
    assert of_unknown(runs[:1]).draw(runs[:1], tmp_path)[-1].is_file()  # one run differs in nothing


def test_an_index_of_all(undrawn, tmp_path, capsys):
    fill(tmp_path / "w" / "degradation-short")
    write_run(tmp_path / "w" / "mine #1", (0.1, 0.2))
    (tmp_path / "w" / "empty").mkdir()
    write_run(tmp_path / "w" / "robustness-1", (0.1, 0.2), change={"data.corruptions": [], "model.norm_groups": 8})
    write_run(tmp_path / "w" / "noted", (0.1, 0.2))
    note = "    normres sweep --config={}:demo --workdir=x\n"
    for config, declared in {"base": None, "degradation": degradation}.items():  # a note says more than the name
        (tmp_path / "w" / "robustness-1" / "README.md").write_text(note.format(config))
        assert experiment_of(tmp_path / "w" / "robustness-1") is declared
    (tmp_path / "w" / "robustness-1" / "README.md").rename(tmp_path / "w" / "noted" / "README.md")
    assert experiment_of(tmp_path / "w" / "noted") is degradation
    for _ in range(2):  # a report that is there is no folder of runs
        assert cli.main(["report", "--all", str(tmp_path / "w")]) == 0
    said = capsys.readouterr()
    assert "data.corruptions is empty" in said.err
    assert said.err.endswith("robustness-1 left out\n")
    *pages, index = [Path(line) for line in said.out.splitlines()][-4:]
    assert index == tmp_path / "w/report/index.html"
    assert [path.parent.name for path in pages] == ["degradation-short", "mine #1", "noted"]
    reader = Reader(index.read_text())
    assert [file_of(address) for address in reader.addresses[1:]] == [
        f"{path.parent.name}/index.html" for path in pages
    ]
    assert all((index.parent / file_of(address)).is_file() for address in reader.addresses[1:])
    words = " ".join(reader.text.split())
    assert re.search(rf"{degradation.title} ?cannot be judged yet ?11", words)
    assert re.search(r"mine #1 ?no claim ?1", words)


# --- no jax


def test_reports_need_no_jax_and_are_the_same_again(drawn, tmp_path):
    paths, root = drawn
    # In another process, with another hash seed, where an import of jax fails.
    code = (
        "import sys; from pathlib import Path\n"
        "for name in ('jax', 'flax', 'pandas'): sys.modules[name] = None\n"
        "from normres import cli, files; from normres.report import collect, paper\n"
        "from normres.runs import results; assert results.read_runs(Path('results/groups-demo'))\n"
        "for name in files.names('experiments'): assert files.load(name, 'experiments').EXPERIMENT.draw\n"
        "save = paper.save\n"
        "paper.save = lambda chart, folder: save(chart, folder, ['column'])\n"
        "assert cli.main(['report', sys.argv[1], '--output', sys.argv[2], '--experiment', 'degradation']) == 0\n"
        "paper.save = lambda chart, folder: []\n"
        "assert cli.main(['report', sys.argv[1], '--output', sys.argv[2] + '/any']) == 0\n"
        "assert not {'normres.training', 'normres.models', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, root / "50% #1?", root / "out2"],
        cwd=ROOT,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)},
    )
    again = [path for path in paths if (root / "out2" / path.name).is_file()]
    assert len(again) == 10
    for path in again:
        assert (root / "out2" / path.name).read_bytes() == path.read_bytes(), path.name
