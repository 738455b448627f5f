"""``onnxferry doctor``: find out what this machine can run, and what to do about what it cannot."""

from __future__ import annotations

import dataclasses
from itertools import groupby

from rich.text import Text

from onnxferry.runtime.cli.console import JsonOption, command, new_app, new_table, plain, print_json, print_next, stdout
from onnxferry.runtime.engine.diagnosis import Diagnosis, diagnose

app = new_app()


_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


@app.command()
def doctor(as_json: JsonOption = False) -> int:
    """Find out what this machine can run, and how to fix what it cannot.

    Shows which ONNX Runtime is installed, which providers run a one-node model, which CUDA libraries are found, how many
    CPUs this process may use and which extras are installed; and what to do about each problem. Exit code 0 when models run
    on the CPU.

    ```
    onnxferry doctor
    ```

    With --json: cpu_works, problems (how many), findings (area, name, value, status: ok, note or problem, fix).
    """
    diagnosis = diagnose()
    if as_json:
        findings = [dataclasses.asdict(finding) for finding in diagnosis.findings]
        print_json({"cpu_works": diagnosis.cpu_works, "problems": len(diagnosis.problems), "findings": findings})
    else:
        _print(diagnosis)
    return 0 if diagnosis.cpu_works else 1


def _print(diagnosis: Diagnosis) -> None:
    console = stdout()
    table = new_table("", "", "")
    table.show_header = False
    for area, findings in groupby(diagnosis.findings, key=lambda finding: finding.area):
        if table.row_count:
            table.add_row("", "", "")
        table.add_row("", Text(area, "bold"), "")
        for finding in findings:
            mark = Text(finding.status, _STYLES[finding.status])
            value = Text(plain(finding.value))
            if finding.fix:
                value += Text(f"\nto do: {plain(finding.fix)}", _STYLES[finding.status])
            table.add_row(mark, plain(finding.name), value)
    console.print(table)
    count = len(diagnosis.problems)
    if not diagnosis.cpu_works:
        console.print(Text("No model can run here yet: see the problems above.", "bold red"))
    elif count:
        console.print(Text(f"Models run on the CPU. {count} {'problem' if count == 1 else 'problems'} to fix: see above.", "bold yellow"))
    else:
        console.print(Text("Models run here.", "bold green"))
    if diagnosis.cpu_works:
        print_next(command("models"))
