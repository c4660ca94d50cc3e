"""The note of a run: its command makes the same run again, and it cites what the config uses."""

import dataclasses
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from normres import norms
from normres.configs import base
from normres.errors import UserError
from normres.models.variants import RESIDUAL_SCALES
from normres.norms import kernels
from normres.runs import config as configs
from normres.runs import papers, provenance, results, sweep
from normres.runs.fields import declared, digest, flatten
from normres.runs.note import note, repeat_command

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = sorted({path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "base", "sizes"})
COMMIT = "3b23187c3fd664c1ac0fe7fd655224e9b6424751"
ORIGIN = {"commit": COMMIT, "diff": None, "versions": {"normres": "0.1.0", "jax": "0.12.0"}}


def load(command):
    """Returns the config that the command line would load."""
    assert command[:2] == ["normres", "train"]
    values = dict(argument.removeprefix("--").split("=", 1) for argument in command[2:])
    del values["workdir"]
    return configs.load(values.pop("config"), {name.removeprefix("config."): value for name, value in values.items()})


@pytest.mark.parametrize("size", ["demo", "short", "paper"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_command_of_every_arm_makes_the_same_run(family, size):
    for arm in sweep.expand(f"{family}:{size}", {}, 1):
        plain = configs.to_dict(arm.config)  # as a run directory has it
        again = load(repeat_command(plain, Path("runs/again")))
        assert flatten(again) == flatten(arm.config)
        assert digest(again) == digest(plain)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"recipe": "short", "optim.boundaries": "()", "train.log_every": "7"},
        {"data.path": "my images/it's here, (all)=1", "data.source": "binary"},
        {"optim.boundaries": "5", "model.auxiliary": "1", "optim.auxiliary_weights": "0.25", "optim.nesterov": "true"},
        {"data.corruptions": "contrast,brightness", "model.norm_epsilon": "1e-7", "model.gate_bias": "-5"},
        {"recipe": "demo", "model.zero_last_scale": "true", "data.verify": "false", "model.module": "mine.py:Net"},
    ],
)
def test_every_kind_of_value_survives_the_shell(overrides):
    config = configs.load("base", overrides)
    text = note(repeat_command(config, Path("a b")), [config], ORIGIN)
    line = next(line for line in text.splitlines() if line.startswith("normres train"))
    assert flatten(load(shlex.split(line))) == flatten(config)


def test_only_what_differs_from_the_recipe_is_named():
    config = configs.load("base:demo", {"model.depth": "8", "optim.nesterov": "true"})
    differs = "--config.model.depth=8 --config.optim.nesterov=true"
    assert shlex.join(repeat_command(config, Path("w"))) == f"normres train --config=base:demo {differs} --workdir=w"


def test_old_runs_are_repeated_with_what_they_had():
    for run in results.read_runs(ROOT / "results"):
        # Where the source needs a path, the command says that one is to be named: published records have none.
        assert digest(load(repeat_command(run.config, Path("w")))) == run.record["config_digest"]


def test_a_run_that_is_older_than_a_field_is_repeated_with_what_it_had(monkeypatch):
    old = configs.to_dict(base.get_config())
    del old["optim"]["optimizer"]
    # As if the field's value had changed since; runs without the field had sgd.
    changed = dataclasses.replace(base.FIELDS["optim.optimizer"], value="adamw")
    monkeypatch.setitem(base.FIELDS, "optim.optimizer", changed)
    assert "--config.optim.optimizer=sgd" in repeat_command(old, Path("w"))


def test_a_run_of_a_newer_program_is_refused_and_not_cut():
    config = configs.to_dict(base.get_config()) | {"model": {"depth": 8, "of_tomorrow": 3}}
    with pytest.raises(UserError, match="of_tomorrow is not a field"):
        load(repeat_command(config, Path("w")))


def test_the_note_says_all(tmp_path):
    config = configs.load("base:demo", {"model.norm": "group", "model.order": "pre"})
    command = "normres train --config=base:demo '--workdir=a b'"
    text = note(["normres", "train", "--config=base:demo", "--workdir=a b"], [config], ORIGIN)
    assert f"git checkout {COMMIT}\n{command}\n" in text
    assert "jax 0.12.0" in text
    assert "not committed" not in text
    assert 15 <= len(text.splitlines()) <= 35
    cited = " ".join(re.findall(r"^@\w+\{(\w+),", text, re.M))
    assert cited == "normres he2015deep he2016identity wu2018group loshchilov2016sgdr krizhevsky2009learning"
    assert text == note(command, [configs.to_dict(config)], ORIGIN)
    assert "not committed (12ab34cd)" in note("x", [config], ORIGIN | {"diff": "12ab34cd"})
    unknown = note("x", [config], ORIGIN | {"commit": None})
    assert "commit is not known" in unknown
    assert "git checkout" not in unknown


def test_the_note_of_a_sweep_has_every_arm_s_papers():
    arms = [arm.config for arm in sweep.expand("robustness:demo", {}, 2)]
    text = note("normres sweep", arms, ORIGIN)
    assert "A sweep of 10 runs" in text
    for key in ("ioffe2015batch", "ulyanov2016instance", "ba2016layer", "nam2018batch", "hendrycks2019benchmarking"):
        assert text.count(f"@misc{{{key},") == 1


def test_a_module_of_the_user_s_cites_no_network():
    config = configs.load("base", {"model.module": "mine.py:Net"})
    (only,) = papers.cited([config])
    assert only.startswith("@misc{krizhevsky2009learning,")


def test_the_papers_are_those_of_the_code():
    """Each norm, kernel norm and residual scale names its paper where it is defined."""
    cited = {tuple(setting): paper for paper, settings in papers.papers().items() for setting in settings}
    for field, named in {
        "model.norm": {name: spec.about.paper for name, spec in norms.TABLE.items()},
        "model.weights": {name: row.paper for name, row in kernels.TABLE.items()},
        "model.residual_scale": {name: row.paper for name, row in RESIDUAL_SCALES.items()},
    }.items():
        for name, words in named.items():
            if number := re.search(r"\d{4}\.\d{4,5}", words):
                for part in (f"eprint = {{{number[0]}}}", *words.partition(" 20")[0].split(", ")):
                    assert part in cited[field, name]


def test_every_paper_has_a_name_and_is_cited_for_values_that_there_are():
    for paper, settings in papers.papers().items():
        year, title, number = re.search(r"title = \{\{(\w+).* year = \{(\d+)\}, \w+ = \{(\d*)", paper).group(2, 1, 3)
        first = re.search(r"author = \{(\w+),", paper)[1]
        assert paper.startswith(f"@misc{{{first}{year}{title},".lower())
        assert number[:2] == year[2:] or not re.match(r"\d{4}\.", number)
        assert settings
        for name, value in settings:
            field = declared()[name]
            choices = norms.TABLE if name == "model.norm" else field.names()
            assert value == papers.CHANGED or not choices or value in choices
    names = [paper.partition(",")[0] for paper in papers.papers()]
    assert len(set(names)) == len(names) > 30


def test_the_software_is_cited_as_the_citation_file_says():
    file = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    of_file = {"title": file["title"], "author": file["authors"][0]["name"], "year": file["date-released"][:4]}
    assert of_file == papers.SOFTWARE


def test_what_a_new_file_holds_changes_the_hash_of_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init"], ["commit", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "normres").mkdir()
    hashes = []
    for text in ("one", "other"):
        (tmp_path / "normres/new.py").write_text(text)
        hashes.append(provenance._of_this_process.__wrapped__()["diff"])
    assert hashes[0] != hashes[1]
