"""An installed wheel has the configs, the experiments and the templates of pages, and finds them by name."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_it_brings_no_other_top_level_package(installed):
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"normres"}
    assert (installed / "normres/runs/papers.bib").is_file()


def test_the_templates_of_pages_are_in_it(installed):
    def names(root):
        return {path.name for path in (root / "normres/report/templates").iterdir()}

    assert names(installed) == names(ROOT)
    assert "page.html" in names(installed)


def test_configs_and_experiments_are_there_by_name(installed, tmp_path):
    commands = [["sweep", "--config=degradation:demo", "--list"]]
    commands += [["report", f"--experiment={name}"] for name in ("degradatoin", "degradation")]
    # One process for all commands.
    code = f"from normres import cli\nfor command in {commands}: cli.main([*command, '--workdir={tmp_path}'])"
    environment = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.count("to do") == 4, done.stderr
    assert "did you mean 'degradation'?" in done.stderr
    assert "no runs here" in done.stderr
