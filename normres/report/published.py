"""What papers have printed, beside our numbers of the same variants and settings."""

from collections.abc import Mapping, Sequence

from normres.report import tables
from normres.report.arms import Arm, Setting
from normres.report.clauses import Grid
from normres.report.labels import joined

# Test errors of variants in a setting, in percent, or a text in place of a number.
Published = Mapping[Setting, Mapping[str, float | str]]


def printed(published: Published, error: float | str | None) -> str:
    """Returns a paper's number with as many decimals as the papers print."""
    numbers = [str(one) for errors in published.values() for one in errors.values() if isinstance(one, float)]
    places = max((len(one.partition(".")[2]) for one in numbers), default=0)
    return tables.NOTHING if error is None else error if isinstance(error, str) else f"{error:.{places}f}"


def table(published: Published, grids: Mapping[str, Grid], places: int) -> tables.Table | None:
    """Returns every number that the papers have, and ours of the same settings; None if they have none."""
    rows = []
    for setting, errors in published.items():
        for name, error in errors.items():
            ours = [grid.get((name, setting)) for grid in grids.values()]
            here = [tables.error_cell(arm, "test_error", places) if arm else "not run" for arm in ours]
            rows.append((name, setting.name, printed(published, error), *here))
    header = ("variant", "setting", "paper (%)", *(f"{joined('here', context)} (%)" for context in grids))
    return tables.Table(header, rows, "Test error in the paper, and here.", 2) if rows else None


def several_blocks(published: Published, arms: Sequence[Arm]) -> bool:
    """Returns whether the arms, or the papers' networks on the same data, have several kinds of block."""
    data = {arm.setting.data for arm in arms}
    settings = [*(arm.setting for arm in arms), *(setting for setting in published if setting.data in data)]
    return len({setting.block for setting in settings}) > 1


def lines(published: Published, arms: Sequence[Arm]) -> tuple[dict[str, dict[float, float]], str]:
    """Returns the papers' errors by line and place, and of what data they are if none are of the arms' data.

    Another data set's errors would only stretch the axis, but are better than none.
    """
    shown = {arm.setting.data for arm in arms} & {setting.data for setting in published}
    errors_of, several = dict[str, dict[float, float]](), several_blocks(published, arms)
    for setting, errors in published.items():
        for variant, error in errors.items():
            if (setting.data in shown or not shown) and not isinstance(error, str):
                block = setting.block if several and setting.block != "basic" else ""
                label = joined(variant, block, setting.data_title) if shown else variant
                errors_of.setdefault(label, {})[setting.at] = error
    return errors_of, "" if shown else joined(*sorted({setting.data_title for setting in published}))
