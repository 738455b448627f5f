"""``onnxferry optimize``: certified variants of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxferry.export.cli.plots import check_plot
from onnxferry.export.optimize.chart import save_chart
from onnxferry.export.optimize.optimize import Optimized, optimize
from onnxferry.export.optimize.resources import WITHIN
from onnxferry.export.optimize.samples import SCORED
from onnxferry.export.optimize.verdict import Verdict
from onnxferry.runtime.cli.console import (
    JsonOption,
    ModelArgument,
    command,
    new_app,
    new_table,
    plain,
    print_json,
    print_next,
    stderr,
    stdout,
)
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import write_json
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.machine.memory import peak_memory
from onnxferry.runtime.timing import clock

app = new_app()


@app.command()
def optimize_command(
    model: ModelArgument,
    goal: Annotated[str | None, typer.Option("--goal", help="faster or smaller; faster if not given.", show_default=False)] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help='How much worse a variant may be: "top1 -0.1pt", "map -0.5pt", "psnr 40", "nats +0.005", "rtol 1e-3", module:function.'
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="What is scored on: a named set, a folder of images, texts or pairs, an .npz, for text a file.", show_default=False
        ),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="What ranges are taken from; the data's training part if not given.", show_default=False)
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Batch sizes to time; repeat for more. 1 and 64; for the browser 1.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the variants, made if need be; the model's own if not given.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="The table as JSON; NAME.optimize.json beside the variants.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the speeds as a bar chart, .png or .svg.", show_default=False)] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples that are scored at most.")] = SCORED,
    device: Annotated[str, typer.Option(help="cpu or cuda: where all is scored and timed, and what the certificates hold for.")] = "cpu",
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="web", help="For the browser: the smallest download that is not slower there.", show_default=False
        ),
    ] = None,
    ort_web: Annotated[
        Path | None,
        typer.Option(
            "--ort-web",
            metavar="DIR",
            help="For --target web: an unpacked npm package onnxruntime-web; npm fetches it if not given.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Of timing, a candidate and batch size.")] = 1.0,
    within: Annotated[
        float, typer.Option(min=1, help="Seconds that all may take, about; candidates that do not fit are skipped.")
    ] = WITHIN,
    as_json: JsonOption = False,
) -> None:
    """Make a model faster or smaller, within an error budget that you set.

    Each candidate is scored on your data and timed in turns with the original on this machine. What is better and inside the budget is
    written beside the original, with its certificate; the table says why of every other. The candidates, those that the model has
    something for:

    ```
    slim             simplified by onnxslim
    ort              simplified by ONNX Runtime's offline optimizer
    exact            operators replaced by faster ones that compute the same
    int8 (between)   convolutions in 8 bits, and the operators between them
    int8 (conv)      convolutions in 8 bits, the rest in float32
    int8 (all)       convolutions and dense layers in 8 bits
    int8 (rest)      all of these but the first convolution
    int8 (inner)     all of these but the first and the last convolution
    int8 (last)      of a detector, all but the last convolution
    int8 (lstm)      LSTM in 8 bits, scaled as it runs
    int8             a text generator's weights in 8 bits
    int8 (step)      a translator's weights in 8 bits, those of a step
    int8 (text)      and those of what it computes once of its text
    bf16             on CPUs that multiply in it (AMX, AVX-512 BF16): bfloat16 on OpenVINO, which
                     then has to be installed
    float16          on CUDA: the network in float16 (plain, or after exact)
    float16-storage  for --goal smaller: weights stored in float16
    ```

    A kept int8 is also scored and timed on OpenVINO, if it is installed. Its certificate then holds for that version, and for CPUs with
    the same instruction sets.

    What is expected to be taken, time and memory, is said before, and what was taken after. A candidate that would need more memory than
    is free, or more time than is left of --within, is skipped; of many samples, as many are scored as there is time for.

    The columns × say how many times as fast as the original a candidate is, at that batch size, ± the noise of the measurement.

    ```
    onnxferry optimize digits --data mnist -o variants --plot speeds.png
    onnxferry optimize model.onnx --data samples.npz --budget "rtol 1e-2" --batch 1 --batch 16
    onnxferry optimize writer.onnx --data held-out.txt --goal smaller
    onnxferry optimize dates --data dates -o variants
    onnxferry optimize sentiment-zh --data reviews-zh -o variants
    onnxferry optimize digits --data mnist --device cuda -o variants
    onnxferry optimize digits --data mnist --target web -o variants
    ```

    --target web makes one variant for the browser, NAME.web.onnx: the smallest download (with gzip) that is inside the budget and not
    slower than the original in onnxruntime-web, where its golden samples are replayed too. It is timed in Node.js on one thread; where
    there is no Node.js or no package, it is not timed, a line says so, and what is known to be slow there is refused. `embed --lang web`
    takes it where it lies beside its original, and `demo --static` takes those of the included models with --variants.

    With --json: model, kind, goal, budget, data, batches, bytes, device, machine, onnxruntime, target, web, files, verdicts (tag, rung,
    what, kept, words, bytes, transferred, score, speed by batch size: ratio, noise, original, variant; rows_alone, file, seconds).
    """
    if report is not None and not report.parent.is_dir():
        raise InputError(f"the folder {report.parent} does not exist: make it, or give another --report")
    check_plot(plot)
    console = stderr()

    def tried(verdict: Verdict) -> None:
        if not as_json:  # a log without a terminal shows that it goes on, too
            console.print(f"{plain(verdict.name)}: {plain(_words(verdict))} ({verdict.seconds:.1f} s)", soft_wrap=True)

    def say(line: str) -> None:
        if not as_json:
            console.print(plain(line), soft_wrap=True)

    start = clock()

    with console.status("reading") as status:
        result = optimize(
            model,
            goal=goal,
            budget=budget,
            data=data,
            calibration=calibration,
            batches=tuple(batch) if batch else None,
            folder=out,
            seconds=seconds,
            samples=samples,
            device=device,
            target=target or "",
            ort_web=ort_web,
            progress=lambda tag: status.update(f"trying {tag}"),
            tried=tried,
            within=within,
            say=say,
        )
    most = peak_memory()
    say(f"took {clock() - start:.0f} s{f', and {human_bytes(most)} of memory at most' if most else ''}")
    folder = result.files[0].parent if result.files else out
    stem = result.model.removesuffix(".onnx")
    where = target or ("" if device == "cpu" else device)
    name = f"{stem}.optimize-{where}.json" if where else f"{stem}.optimize.json"
    place = report or (folder / name if folder is not None else None)
    if place is not None:
        write_json(place, result.to_json())
    if plot is not None:
        save_chart(result, plot)
    if as_json:
        print_json(result.to_json())
        return
    _print(result)
    if result.files:
        made = str(result.files[0])
        print_next(
            command("check", made), command("embed", made, "--lang", "web", "-o", f"{stem}-web") if target else command("tune", model)
        )
        return
    stdout().print(plain(f"nothing was kept{_nearest(result)}"), soft_wrap=True)


def _nearest(result: Optimized) -> str:
    """What the best candidate outside the budget would need; "" where none was outside in a number that a budget can have."""
    outside = [verdict for verdict in result.verdicts if verdict.score is not None and verdict.needs]
    if not outside:
        return ""
    best = min(outside, key=lambda verdict: verdict.needs_size)
    return f'; {best.name} needs --budget "{best.needs}"'


def _print(result: Optimized) -> None:
    speeds = tuple(f"× batch {batch}" for batch in result.batches)
    size = "with gzip" if result.target else "size"
    table = new_table("candidate", *speeds, size, "verdict", right=(*speeds, size), title=f"{plain(result.model)}: {result.goal}")
    for verdict in result.verdicts:
        count = verdict.transferred if result.target else verdict.bytes
        bytes_ = "" if count is None else human_bytes(count)
        table.add_row(plain(verdict.name), *(_ratio(verdict, batch) for batch in result.batches), bytes_, plain(_words(verdict)))
    console = stdout()
    console.print(table)
    console.print(plain(f"budget {result.budget}; {result.data}; {result.machine}, ONNX Runtime {result.onnxruntime}"), soft_wrap=True)
    if result.web:
        console.print(plain(result.web), soft_wrap=True)


def _ratio(verdict: Verdict, batch: int) -> str:
    speed = verdict.speed.get(batch)
    return "" if speed is None else f"{speed.ratio:.2f} ± {speed.noise:.2f}"


def _words(verdict: Verdict) -> str:
    return f"kept: {verdict.words}" if verdict.kept else verdict.words
