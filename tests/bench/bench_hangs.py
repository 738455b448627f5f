"""Forks, limits on threads and descriptors, closed streams: each small program ends by itself, with an answer or an error of ours.

    python tests/bench/bench_hangs.py [--seconds 60]

``hung``: programs that were still running after so many seconds; ``foreign``: those that ended by a signal or a traceback that is none of
an OnnxFerryError. Both are 0, or the exit code is 1. A limit on processes does not hold for root: those programs say so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

OPENED = """
import os, resource, sys, threading, time
import numpy as np
from onnxferry.runtime import load, errors, Batcher
image = np.zeros((1, 28, 28, 1), np.uint8)
"""

FORKED = """
model = load("digits", device="cpu", threads=2)
batcher = Batcher(model.engine)
batcher.run({"image": image})
child = os.fork()
if child == 0:
    code = 0
    try:
        CALL
    except errors.OnnxFerryError:
        pass
    except BaseException:
        code = 9
    sys.exit(code)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

LIMITED = """
LIMIT
try:
    CALL
except errors.OnnxFerryError as error:
    print(error)
"""

CALLS = {
    "run": 'model.engine.run({"image": image})',
    "run_into": 'model.engine.run_into({"image": image}, {"class_index": np.zeros(1, np.int64)})',
    "arun": '__import__("asyncio").run(model.engine.arun({"image": image}))',
    "batcher": 'batcher.run({"image": image})',
    "close": "model.close()",
    "batcher.close": "batcher.close()",
    "exit": "pass",
    "open": 'load("digits", device="cpu", threads=2).predict(image)',
    "isolated": 'load("digits", isolated=True).predict(image)',
    "timeout": 'model.run({"image": image}, timeout=5)',
}

LIMITS = {
    "processes 1": "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))",
    "processes 30": "resource.setrlimit(resource.RLIMIT_NPROC, (30, 30))",
    "descriptors 12": "resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))",
    "descriptors 64": "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
}

OPENS = {
    "load": 'load("digits", device="cpu").predict(image)',
    "load threads": 'load("digits", device="cpu", threads=8).predict(image)',
    "isolated": 'load("digits", isolated=True).predict(image)',
    "batcher": 'Batcher(load("digits", device="cpu").engine).run({"image": image})',
    "timeout": 'load("digits", device="cpu", timeout=20).run({"image": image}, timeout=20)',
}

COMMANDS = {
    "check": ["check", "digits"],
    "check --untrusted": ["check", "digits", "--untrusted"],
    "check --max-seconds": ["check", "digits", "--max-seconds", "20"],
    "doctor": ["doctor"],
    "tune": ["tune", "digits", "--seconds", "2"],
}

COMMAND = """
import resource, runpy, sys
LIMIT
sys.argv = ["onnxferry", *ARGUMENTS]
runpy.run_module("onnxferry", run_name="__main__")
"""

SHELL = {
    "no stdout": "{python} -m onnxferry models >&-",
    "no stderr": "{python} -m onnxferry check digits 2>&-",
    "no stdin": "{python} -m onnxferry predict digits - <&-",
    "no streams": "{python} -m onnxferry check digits <&- >&- 2>&-",
    "a reader that goes away": "{python} -m onnxferry models --json | head -c 1",
    "descriptors 10": "ulimit -n 10; {python} -m onnxferry check digits",
}


def programs() -> dict[str, list[str]]:
    made = {f"forked: {name}": [sys.executable, "-c", OPENED + FORKED.replace("CALL", call)] for name, call in CALLS.items()}
    for name, limit in LIMITS.items():
        made |= {
            f"{name}: {which}": [sys.executable, "-c", OPENED + LIMITED.replace("LIMIT", limit).replace("CALL", call)]
            for which, call in OPENS.items()
        }
        made |= {
            f"{name}: onnxferry {which}": [sys.executable, "-c", COMMAND.replace("LIMIT", limit).replace("ARGUMENTS", repr(arguments))]
            for which, arguments in COMMANDS.items()
        }
    return made | {f"shell: {name}": ["bash", "-c", line.format(python=sys.executable)] for name, line in SHELL.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="that each program may take")
    parser.add_argument("--count", type=int, help="only so many of the programs")
    asked = parser.parse_args()
    hung, foreign, done = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        for name, command in list(programs().items())[: asked.count]:
            log = Path(folder) / "log"
            with log.open("wb") as out:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
                try:
                    code = process.wait(asked.seconds)
                except subprocess.TimeoutExpired:
                    hung.append(name)
                    subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=False)
                    process.wait()
                    continue
            done += 1
            if code < 0 or code == 9 or "Traceback" in log.read_text(errors="replace"):
                foreign.append(f"{name}: exit code {code}: {(log.read_text(errors='replace').strip().splitlines() or [''])[-1][:200]}")
    print(json.dumps({"programs": done + len(hung), "hung": hung, "foreign": foreign}, indent=2))
    sys.exit(bool(hung or foreign))


if __name__ == "__main__":
    main()
