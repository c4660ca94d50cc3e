"""Charts for the page: plotly draws them in the browser, with zoom, hover and a legend that hides lines."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from plotly.subplots import make_subplots

from normres.report.charts import Chart, Panel, Series, named_ticks
from normres.report.paper import look, wrapped

MARKERS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down"}
MARKERS |= {"P": "cross", "X": "x"}
PANEL_HEIGHT, ROW_HEIGHT = 330, 26  # pixels
LETTERS = 100  # of the titles in a row of panels


def figure(chart: Chart) -> dict[str, Any]:
    """Returns the data and layout that plotly draws."""
    columns = min(chart.columns or 3, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    titles = [wrapped(panel.title, LETTERS / columns) for panel in chart.panels]
    made = make_subplots(
        rows,
        columns,
        subplot_titles=[escape(title, False).replace("\n", "<br>") for title in titles],
        horizontal_spacing=0.25 / columns / 2,
        vertical_spacing=0.3 / rows,
    )
    shown, first = set[str](), ""
    for number, panel in enumerate(chart.panels):
        row, column = number // columns + 1, number % columns + 1
        for one in panel.series:
            made.add_trace(_trace(chart, panel, one, one.label not in shown), row=row, col=column)
            shown.add(one.label)
        x, y = _axes(chart, panel, column == 1, number + columns >= len(chart.panels))
        if not panel.own_scale:
            (x if chart.rows else y).update({"matches": first} if first else {})
            first = first or f"{'x' if chart.rows else 'y'}{number + 1 if number else ''}"
        made.update_xaxes(x, row=row, col=column)
        made.update_yaxes(y, row=row, col=column)
    height = ROW_HEIGHT * len(chart.rows) + 150 if chart.rows else PANEL_HEIGHT
    made.update_layout(
        template="none",
        height=height * rows + 80,
        margin={"l": 70, "r": 20, "t": 80, "b": 60},
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    content: dict[str, Any] = json.loads(made.to_json())
    return content


def _axes(chart: Chart, panel: Panel, leftmost: bool, lowest: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the axes of a panel."""
    x: dict[str, Any] = {
        "title": chart.x if lowest else "",
        "showgrid": False,
        "ticks": "outside",
        "type": "log" if chart.log_x else None,
    }
    if chart.rows:
        names = [escape(row, False) for row in chart.rows]
        y = {"categoryorder": "array", "categoryarray": names[::-1], "range": [-0.6, len(names) - 0.4]}
        return x, y | {"showticklabels": leftmost, "automargin": True}
    if chart.ticks:
        named = named_ticks(chart.places(panel), chart.log_x)
        x |= {"tickvals": named, "ticktext": [f"{tick:g}" for tick in named], "tickangle": 0}
    y = {"title": chart.y if leftmost else "", "ticks": "outside"}
    y["rangemode"] = "tozero" if chart.unit == "%" else "normal"
    if chart.log_y:
        y |= {"type": "log", "exponentformat": "power"}
    if chart.largest:
        y["range"] = [0, chart.largest]
    return x, y


def _trace(chart: Chart, panel: Panel, series: Series, in_legend: bool) -> Mapping[str, Any]:
    """Returns a series as a trace."""
    own = look(chart, series.label)
    marker = MARKERS[own.marker]
    symbol = {"color": own.colour, "size": 8, "symbol": f"{marker}-open" if series.hollow else marker}
    dashes = "solid" if own.dashes == "-" else ",".join(f"{2 * length}px" for length in own.dashes[1])
    line = {"color": own.colour, "width": 2, "dash": dashes}
    value, place = ("x", "y") if chart.rows else ("y", "x")
    shown = f"%{{{value}:.2f}} %" if chart.unit == "%" else f"%{{{value}:.3g}} {chart.unit}".rstrip()
    edge = chart.edge(panel)
    x, y = ([edge if value is None else value for value in values] for values in (series.x, series.y))
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": escape(series.label, False),
        "legendgroup": series.label,  # as it is: the boxes below the figure know a line by it
        "showlegend": in_legend,
        "x": x,
        "y": [escape(str(row), False) for row in y] if chart.rows else y,
        "text": [escape(text, False) for text in series.texts],
        "hovertemplate": "%{text}<extra></extra>"
        if series.texts
        else f"%{{{place}}}: {shown}<extra>%{{fullData.name}}</extra>",
        "marker": symbol,
        "meta": [own.colour, own.dark],
    }
    if series.kind == "line":
        trace |= {"mode": "markers" if chart.rows else "lines+markers", "line": line}
        if any(series.bars):
            bars = {"array": list(series.bars), "color": own.colour, "thickness": 1}
            trace["error_x" if chart.rows else "error_y"] = bars
    elif series.kind == "points":
        trace |= {"mode": "markers", "marker": symbol if series.hollow else symbol | {"size": 5, "opacity": 0.5}}
    elif series.kind == "curve":
        trace |= {"mode": "lines+markers", "line": line | {"dash": "solid"}, "marker": symbol | {"size": 5}}
    elif series.kind == "thin":
        trace |= {"mode": "lines", "line": {"color": own.colour, "width": 1}}
    else:
        cross = {"color": own.colour, "size": 10, "symbol": "x-thin-open", "line": {"width": 2}}
        trace |= {"mode": "markers", "marker": cross}
    return trace
