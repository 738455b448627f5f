"""Every shipped file in every runtime at hand: the largest difference on its golden samples, and the time of one run.

    python tests/bench/table_runtimes.py                 # prints the table
    python tests/bench/table_runtimes.py --write         # and writes it into docs/*/how-to/other-languages.md

Needs node, npm and chromium on PATH and a package index: environments with other versions are made in a temporary folder. A runtime
that cannot be had has a line with the reason. Times are medians of five runs of the first golden sample, on one machine, in one go.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "runtime" / "zoo"
FILES = sorted(ZOO.rglob("*.onnx"))
MODULES = ROOT / "runtime" / "embed" / "templates" / "modules"
NODE, WEB = "onnxruntime-node@1.30.0", "onnxruntime-web@1.30.0"
MARK = "<!-- made by tests/bench/table_runtimes.py -->"

LIMIT = 60
"""Seconds for each file of a process."""

Result = dict[str, dict[str, object]]  # by file: passed, difference, ms, or why not

# What each Python runtime does; opened(path) returns run(feeds) -> outputs by name.
PYTHON = """
import base64, json, statistics, sys, time
import numpy as np
how, *paths = sys.argv[1:]

def metadata(path):
    if how == "onnxruntime":
        return None
    import onnx
    return {p.key: p.value for p in onnx.load(path).metadata_props}

def opened(path):
    if how == "onnxruntime":
        import onnxruntime
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        return session.get_modelmeta().custom_metadata_map, lambda feeds: dict(zip(names, session.run(names, feeds)))
    if how == "openvino":
        import openvino
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        request = compiled.create_infer_request()
        import onnx
        names = [o.name for o in onnx.load(path).graph.output]  # in OpenVINO a tensor may have several names
        def run(feeds):
            found = request.infer(feeds)
            return {name: np.array(found[i]) for i, name in enumerate(names)}
        return metadata(path), run
    from onnx.reference import ReferenceEvaluator
    session = ReferenceEvaluator(path)
    return metadata(path), lambda feeds: dict(zip(session.output_names, session.run(None, feeds)))

def array(value):
    little = np.dtype(value["dtype"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(value["data"]), little).reshape(value["shape"]).astype(value["dtype"])

for path in paths:
    try:
        about, run = opened(path)
        read = lambda key: json.loads(about.get("onnxferry." + key, "{}"))
        defaults = {name: array(value) for name, value in read("defaults").items()}
        tolerances, rms = read("contract")["tolerances"], read("certificate").get("rms", {})
        largest, passed, off = 0.0, True, {}
        for sample in read("goldens"):
            feeds = {**defaults, **{name: array(value) for name, value in sample["inputs"].items()}}
            found = run(feeds)
            for name, value in sample["outputs"].items():
                expected, actual = array(value).astype(np.float64), np.asarray(found[name]).astype(np.float64)
                rtol, atol = tolerances.get(name, [1e-4, 1e-5] if value["dtype"].startswith("float") else [0, 0])
                if actual.shape != expected.shape:
                    raise ValueError(f"{name} has the shape {actual.shape}, expected {expected.shape}")
                difference = np.where(actual == expected, 0.0, np.abs(actual - expected))
                largest = max(largest, float(np.max(difference, initial=0.0)))
                passed &= name in rms or bool((difference <= atol + rtol * np.abs(expected)).all())
                off[name] = off.get(name, 0) + np.array([np.square(difference).sum(), np.square(expected).sum()])
        for name, share in rms.items():
            passed &= bool(np.sqrt(off[name][0] / (off[name][1] or 1)) <= 4 * share + 0.01)
        times = []
        first = read("goldens")[0]["inputs"]
        feeds = {**defaults, **{name: array(value) for name, value in first.items()}}
        for _ in range(5):
            start = time.perf_counter()
            run(feeds)
            times.append(1000 * (time.perf_counter() - start))
        answer = {"passed": passed, "difference": largest, "ms": statistics.median(times)}
    except Exception as error:
        answer = {"why": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"}
    print(json.dumps({path: answer}), flush=True)
"""

MEASURE = """
import { openArtifact } from "./artifact.mjs";
export async function measure(ort, bytes) {
  try {
    const artifact = await openArtifact(ort, bytes);
    const { rows, passed } = await artifact.check();
    const times = [];
    for (let i = 0; i < 5; i++) {
      const start = performance.now();
      await artifact.run(artifact.contract.goldens[0].inputs);
      times.push(performance.now() - start);
    }
    times.sort((a, b) => a - b);
    return { passed, difference: Math.max(...rows.map((row) => row.difference)), ms: times[2] };
  } catch (error) {
    return { why: String(error.message ?? error).split("\\n")[0].slice(0, 200) };
  }
}
"""

IN_NODE = """
import * as ort from "%s";
import { readFile } from "node:fs/promises";
import { measure } from "./measure.mjs";
for (const path of process.argv.slice(2)) console.log(JSON.stringify({ [path]: await measure(ort, await readFile(path)) }));
"""

PAGE = """<!doctype html><meta charset="utf-8"><title>table</title><link rel="icon" href="data:,"><script type="module">
import * as ort from "./ort/ort.wasm.min.mjs";
import { measure } from "./measure.mjs";
ort.env.wasm.numThreads = Number(new URLSearchParams(location.search).get("threads"));
window.measured = async (name) => measure(ort, new Uint8Array(await (await fetch(`files/${name}`)).arrayBuffer()));
window.ready = true;
</script>"""


def lines_of(command: list[str], cwd: Path) -> Result:
    seconds = LIMIT * sum(word.endswith(".onnx") for word in command)
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False)
    found: Result = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    why = (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
    return found or {str(path): {"why": why} for path in FILES}


def here(how: str) -> Callable[[Path], Result]:
    """Each file in a process of its own: the reference evaluator is written to be read, and may take very long."""

    def run(folder: Path) -> Result:
        found: Result = {}
        for path in FILES:
            try:
                found |= lines_of([sys.executable, "-c", PYTHON, how, str(path)], folder)
            except subprocess.TimeoutExpired:
                found[str(path)] = {"why": f"no answer within {LIMIT} s"}
        return found

    return run


def in_venv(how: str, *packages: str) -> Callable[[Path], Result]:
    def run(folder: Path) -> Result:
        place = folder / f"venv-{re.sub(r'[^a-z0-9]+', '-', packages[0])}"
        venv.create(place, with_pip=True)
        python = str(place / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, timeout=600)
        return lines_of([python, "-c", PYTHON, how, *map(str, FILES)], folder)

    return run


def in_node(package: str) -> Callable[[Path], Result]:
    def run(folder: Path) -> Result:
        (folder / "node.mjs").write_text(IN_NODE % package)
        return lines_of(["node", "node.mjs", *map(str, FILES)], folder)

    return run


def in_chromium(threads: int) -> Callable[[Path], Result]:
    def run(folder: Path) -> Result:
        from playwright.sync_api import sync_playwright

        process = subprocess.Popen(["node", "serve.mjs", "0"], cwd=folder, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        found: Result = {}
        try:
            with sync_playwright() as playwright:
                flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
                for path in FILES:
                    page = browser.new_page()
                    page.goto(f"{url}table.html?threads={threads}")
                    page.wait_for_function("window.ready")
                    found[str(path)] = page.evaluate("(name) => window.measured(name)", path.name)
                    page.close()
                browser.close()
        finally:
            process.kill()
        return found

    return run


RUNTIMES: Mapping[str, Callable[[Path], Result]] = {
    "ONNX Runtime, here": here("onnxruntime"),
    "ONNX Runtime 1.20": in_venv("onnxruntime", "onnxruntime==1.20.*", "numpy<3"),
    "Node.js": in_node("onnxruntime-node"),
    "web in Node.js": in_node("onnxruntime-web"),
    "Chromium, 1 thread": in_chromium(1),
    "Chromium, 2 threads": in_chromium(2),
    "OpenVINO": in_venv("openvino", "openvino", "onnx", "numpy<3"),
    "onnx reference": here("reference"),
}


def prepare(folder: Path) -> None:
    """The modules and packages that Node.js and the page use."""
    subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", NODE, WEB], cwd=folder, check=True)
    for module in MODULES.iterdir():
        shutil.copy(module, folder)
    (folder / "measure.mjs").write_text(MEASURE)
    (folder / "table.html").write_text(PAGE)
    for script in ("serve.mjs", "copy-ort.mjs"):
        shutil.copy(MODULES.parent / "web" / script, folder)
    subprocess.run(["node", "copy-ort.mjs"], cwd=folder, check=True)
    (folder / "files").mkdir()
    for path in FILES:
        shutil.copy(path, folder / "files")


def cell(result: Mapping[str, object]) -> str:
    if "why" in result:
        return f"no: {str(result['why']).replace('|', '/')}"
    difference = float(str(result["difference"])) if result["difference"] is not None else math.nan
    return f"{'' if result['passed'] else '**wrong** '}{difference:.2g}, {float(str(result['ms'])):.3g} ms"


def table(results: Mapping[str, Result]) -> str:
    notes: dict[str, int] = {}
    rows = []
    for path in FILES:
        cells = [cell(found.get(str(path), {"why": "no answer"})) for found in results.values()]
        for i, text in enumerate(cells):
            if text.startswith("no: "):
                cells[i] = f"no ({notes.setdefault(text[4:], len(notes) + 1)})"
        rows.append(f"| `{path.stem}` | {' | '.join(cells)} |")
    head = [f"| | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    return "\n".join([*head, *rows, "", *(f"{number}. {' '.join(text.split())}" for text, number in notes.items())]).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into the documentation")
    parser.add_argument("--only", default="", help="the runtimes whose names contain this")
    given = parser.parse_args()
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for runtime, run in RUNTIMES.items():
            if given.only not in runtime:
                continue
            print(f"{runtime} …", file=sys.stderr, flush=True)
            try:
                results[runtime] = run(folder)
            except (OSError, subprocess.SubprocessError, ImportError) as error:
                results[runtime] = {str(path): {"why": str(error).splitlines()[0][:200]} for path in FILES}
    made = table(results)
    print(made)
    if given.write:
        for page in ROOT.glob("docs/*/how-to/other-languages.md"):
            text = page.read_text(encoding="utf-8")
            before, _, rest = text.partition(MARK)
            _, _, after = rest.partition(MARK)
            page.write_text(f"{before}{MARK}\n\n{made}\n\n{MARK}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
