"""A parity report as one self-contained HTML page with an error plot for every output."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from onnxferry.export.parity.report import OutputParity, ParityReport

WIDTH, HEIGHT, MARGIN = 520, 300, 48


# Equal values have no place on a logarithmic axis: they are drawn on its lower edge.
SMALLEST = 1e-12


STYLE = """
:root { --ink: #1c2430; --soft: #5d6b7c; --line: #d5dce5; --paper: #fff; --good: #157f4a; --bad: #b3261e; --dot: #2f6fd0 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf2; --soft: #9aa8ba; --line: #37424f; --paper: #161b22; --good: #4cc38a; --bad: #ff6b60; --dot: #7db0ff }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70em;
  margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
.passed { color: var(--good) } .failed { color: var(--bad) }
table { border-collapse: collapse } th, td { text-align: left; padding: .25em .9em .25em 0; border-bottom: 1px solid var(--line) }
td.number { text-align: right; font-variant-numeric: tabular-nums } .scroll { overflow-x: auto }
svg { max-width: 100%; height: auto } svg text { fill: var(--soft); font-size: 11px } code { font-size: .95em }
"""


def html_page(report: ParityReport, *, title: str = "") -> str:
    """The page, self-contained: it loads nothing."""
    verdict = "passed" if report.passed else "failed"
    untraced = sum(not case.traced for case in report.compared)
    parts = [
        f"<h1>Parity of {escape(title or 'a model')}: <span class={verdict}>{verdict}</span></h1>",
        f"<p>{len(report.compared)} inputs compared, {untraced} of them at sizes never traced; {len(report.dropped)} probes left out, "
        f"which the model itself cannot take. Captured by: {escape(report.strategy or 'nothing')}.</p>",
    ]
    if report.failures:
        parts.append("<h2>Why it was refused</h2>" + _list(failure.message for failure in report.failures))
    if report.located:
        names = {"node": "First difference", "cause": "Likely cause", "try": "Try"}
        parts.append(_table(("", ""), [(names[key], report.located[key]) for key in names if key in report.located]))
    parts.append("<h2>Outputs</h2>" + _outputs(report))
    parts += [_plot(output) for output in report.outputs.values() if output.points]
    for heading, lines in (
        ("Fixed", report.fixes),
        ("Tried before, and refused", [f"{name}: {why}" for name, why in report.refused]),
        ("Notes", report.notes),
    ):
        if lines:
            parts.append(f"<h2>{heading}</h2>" + _list(lines))
    parts.append("<h2>Inputs</h2>" + _cases(report))
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Parity of {escape(title or 'a model')}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _outputs(report: ParityReport) -> str:
    rows = []
    for o in report.outputs.values():
        worst = (
            "" if o.worst is None or o.max_abs == 0 else f"{list(o.worst.index)} of {o.worst.case}: {o.worst.source!r} / {o.worst.file!r}"
        )
        exact = "" if o.float64_source is None or o.float64_file is None else f"{o.float64_source:.3g} / {o.float64_file:.3g}"
        allowed = "equal" if o.rtol == o.atol == 0 else f"{o.atol:.3g} + {o.rtol:.3g} |value|"
        decisions = f"{o.decisions_changed} of {o.decisions}" + (f", {o.ties} ties" if o.ties else "") if o.decisions else ""
        rows.append(
            (
                o.name,
                o.dtype,
                o.elements,
                f"{o.max_abs:.3g}",
                f"{o.p99_abs:.3g}",
                f"{o.max_rel:.3g}",
                o.max_ulp,
                allowed,
                worst,
                decisions,
                exact,
            )
        )
    heads = (
        "output", "dtype", "elements", "largest difference", "99th percentile", "relative", "ulp", "allowed",
        "worst: model / file", "decisions changed", "off from float64: model / file",
    )  # fmt: skip
    reasons = _list(f"{o.name}: {o.reason}" for o in report.outputs.values())
    return _table(heads, rows) + "<p>Why these tolerances:</p>" + reasons


def _cases(report: ParityReport) -> str:
    rows = [
        (
            case.name,
            ", ".join(f"{name} {list(shape)}" for name, shape in case.shapes.items()),
            "as traced" if case.traced else "untraced",
            "compared" if case.compared else f"left out: {case.why_dropped}",
        )
        for case in report.cases
    ]
    return _table(("case", "shapes", "sizes", ""), rows)


def _plot(output: OutputParity) -> str:
    """|difference| over |value|, both logarithmic, with the line that is allowed."""
    points = [(max(value, SMALLEST), max(difference, SMALLEST)) for value, difference in output.points]
    left, right = _decades([x for x, _ in points])
    allowed = [max(output.atol + output.rtol * x, SMALLEST) for x in (10.0**left, 10.0**right)]
    bottom, top = _decades([y for _, y in points] + allowed)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            MARGIN + (math.log10(x) - left) / (right - left) * (WIDTH - 2 * MARGIN),
            HEIGHT - MARGIN - (math.log10(y) - bottom) / (top - bottom) * (HEIGHT - 2 * MARGIN),
        )

    marks = []
    for decade in range(left, right + 1, max(1, (right - left) // 6)):
        x, _ = place(10.0**decade, 10.0**bottom)
        marks.append(f'<text x="{x:.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">1e{decade}</text>')
    for decade in range(bottom, top + 1, max(1, (top - bottom) // 6)):
        _, y = place(10.0**left, 10.0**decade)
        marks.append(f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">1e{decade}</text>')
        marks.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
    dots = []
    for x, y in points:
        px, py = place(x, y)
        color = "--bad" if y > output.atol + output.rtol * x else "--dot"
        dots.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.5" fill="var({color})" fill-opacity=".6"/>')
    # The allowance bends on logarithmic axes: drawn through some points of it.
    steps = [left + (right - left) * i / 24 for i in range(25)]
    bend = " ".join("{:.1f},{:.1f}".format(*place(10.0**s, max(output.atol + output.rtol * 10.0**s, 10.0**bottom))) for s in steps)
    return (
        f"<h2>Error of <code>{escape(output.name)}</code></h2>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="error plot of {escape(output.name, quote=True)}">'
        f"{''.join(marks)}{''.join(dots)}"
        f'<polyline points="{bend}" fill="none" stroke="var(--bad)" stroke-dasharray="5 4"/>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">size of the value</text>'
        f'<text x="{MARGIN}" y="{MARGIN - 14}">size of the difference; dashed: allowed; on the lower edge: equal</text></svg>'
    )


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _cell(value: object) -> str:
    number = isinstance(value, int) or (isinstance(value, str) and value[:1].isdigit() and " " not in value)
    return f"<td{' class=number' if number else ''}>{escape(str(value))}</td>"
