"""Runs a set of results/ again and says whether it agrees: python scripts/reproduce.py RESULT [DATA] [SEEDS].

RESULT is a folder of results/, such as degradation-short; DATA the official CIFAR-10, which is downloaded without it.
"""

import sys
from pathlib import Path

from normres import cli, signals
from normres.errors import UserError, nearest
from normres.report import pairs
from normres.report.commands import experiment_of, load_experiment
from normres.runs import results

ROOT = Path(__file__).parent.parent


def main(result: str = "", data: str = "", seeds: str = "1") -> int:
    """Returns the exit status: 0 all arms agree, 1 one differs, 3 some cannot be judged; 2: something failed."""
    known = [folder.name for folder in (ROOT / "results").iterdir() if folder.is_dir()]
    if result not in known:
        raise UserError(f"RESULT={result!r} is no folder of results/; {nearest(result, sorted(known))}")
    workdir, options = ROOT / "runs/reproduce" / result, list[str]()
    if not result.endswith("demo"):
        if not data:
            data = str(ROOT / "runs/data")
            prepared = (ROOT / "runs/data/cifar10").is_dir()
            if not prepared and cli.main(["data", "prepare", "cifar10", "--to", data]):
                print("reproduce: DATA=FILE_OR_DIR is what --from is there", file=sys.stderr)
                return 2
        options = ["--config.data.source=auto", f"--config.data.path={data}"]
    config = f"--config={result.replace('-', ':')}"
    ours = ROOT / "results" / result
    if cli.main(["sweep", config, f"--again={ours}", f"--seeds={seeds}", f"--workdir={workdir}", *options]):
        return 2
    runs = [results.read_runs(folder) for folder in (ours, workdir)]
    text, status = pairs.certificate(experiment_of(ours) or load_experiment(result), *runs)
    (workdir / "certificate.md").write_text(text + "\n")
    print(text)
    return status


if __name__ == "__main__":
    signals.catch()
    try:
        sys.exit(main(*sys.argv[1:4]))
    except UserError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        sys.exit(2)
