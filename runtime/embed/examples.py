"""The lines of a project's README that use its modules in a program of one's own, by language and kind of model."""

from __future__ import annotations

from onnxferry.runtime.artifact.describe import Description
from onnxferry.runtime.kinds import Kind


def use_of(kind: Kind, model: Description) -> str:
    """What the code of a project may do for a model: ``class``, ``latent``, ``text``, ``image``, ``boxes``, ``class of a text``,
    ``translation``; "" where it knows arrays only."""
    if kind.takes == "text" and kind.returns != "text":
        if not any(spec.name == "text" and spec.dtype == "uint8" for spec in model.summary.inputs):
            return ""  # ids, which a tokenizer makes
        return {"class": "class of a text", "translation": "translation"}.get(kind.returns, "")
    return kind.returns if kind.verb else ""  # a kind without a verb of its own runs on arrays


def argument_of(use: str, language: str) -> str:
    """What an example of the project's program is run on: IMAGE, WORDS, NOISE, or "" for a file of arrays."""
    if use in ("boxes", "class of a text", "translation") and language not in ("javascript", "web"):
        return ""
    return {"class": IMAGE, "latent": IMAGE, "boxes": IMAGE, "image": NOISE, "": ""}.get(use, WORDS)


IMAGE, WORDS, NOISE = "image", "words", "noise"


def example(use: str, language: str, file: str) -> str:
    """Code of ``language`` that opens ``file`` and uses it as :func:`use_of` says; "" for a language whose README has no such lines."""
    write = {"javascript": _javascript, "web": _javascript, "cpp": _cpp, "java": _java, "rust": _rust, "csharp": _csharp}.get(language)
    return "\n".join(write(use, file, language)) if write else ""


def _javascript(use: str, file: str, language: str) -> list[str]:
    node = language == "javascript"
    runtime = "onnxruntime-node" if node else "./ort/ort.wasm.min.mjs"
    read = f'await readFile("{file}")' if node else f'new Uint8Array(await (await fetch("{file}")).arrayBuffer())'
    lines = [f'import * as ort from "{runtime}";', 'import { openArtifact } from "./artifact.mjs";']
    lines += ['import { readFile } from "node:fs/promises";'] if node else []
    call = {
        "class": "const { classes, known } = await tasks.classify(artifact, { data, height, width, channels: 1 });",
        "latent": "const { image, score } = await tasks.reconstruct(artifact, { data, height, width, channels: 1 });",
        "text": 'for await (const piece of tasks.write(artifact, "To be", { seed: 0 })) show(piece);',
        "image": "const image = await tasks.sample(artifact, 1, [0], 0);",
        "boxes": "const objects = await tasks.detect(artifact, { data, height, width, channels: 1 });",
        "class of a text": 'const { classes } = await tasks.classifyText(artifact, "a text");',
        "translation": 'const { text } = await tasks.translate(artifact, "a text");',
    }.get(use, "const outputs = await artifact.run({ x: { dtype, shape, data } });")
    lines += ['import * as tasks from "./tasks.mjs";'] if "tasks." in call else []
    return [*lines, "", f"const artifact = await openArtifact(ort, {read});", call]


def _cpp(use: str, file: str, language: str) -> list[str]:
    call = {
        "class": "const Classified answer = classify(artifact, Image{height, width, 1, pixels});",
        "latent": "const Reconstructed answer = reconstruct(artifact, Image{height, width, 1, pixels});",
        "text": 'write(artifact, "To be", Writing{}, [](std::string_view piece) { std::cout << piece; });',
        "image": "const Image image = sample(artifact, 1, {0}, 0)[0];",
    }.get(use, 'const Arrays outputs = artifact.run({{"x", array_of<float>("float32", {2}, {1, 2.5})}});')
    lines = ['#include "tasks.hpp"', "", f'Artifact artifact("{file}");']
    return [*lines, 'if (!artifact.check().passed()) throw std::runtime_error("wrong answers on this machine");', call]


def _java(use: str, file: str, language: str) -> list[str]:
    call = {
        "class": "Tasks.Classes answer = Tasks.classify(artifact, new Image(height, width, 1, pixels));",
        "latent": "Tasks.Reconstruction answer = Tasks.reconstruct(artifact, new Image(height, width, 1, pixels));",
        "text": 'Tasks.write(artifact, "To be", Tasks.Writing.ofSeed(0), System.out::print);',
        "image": "Image image = Tasks.sample(artifact, 1, new long[] {0}, 0).get(0);",
    }.get(use, 'Map<String, Array> outputs = artifact.run(Map.of("x", Array.of(new float[] {1, 2.5f}, 2)));')
    return [
        f'try (Artifact artifact = new Artifact(Path.of("{file}"))) {{',
        "  List<Artifact.Row> rows = artifact.check();",
        "  if (rows.isEmpty() || !rows.stream().allMatch(Artifact.Row::passed)) {",
        '    throw new IllegalStateException("wrong answers on this machine");',
        "  }",
        f"  {call}",
        "}",
    ]


def _rust(use: str, file: str, language: str) -> list[str]:
    call = {
        "class": "let answer = tasks::classify(&mut artifact, Image { height, width, channels: 1, data: pixels })?;",
        "latent": "let answer = tasks::reconstruct(&mut artifact, Image { height, width, channels: 1, data: pixels })?;",
        "text": 'tasks::write(&mut artifact, "To be", &tasks::Writing::default(), |piece| print!("{piece}"))?;',
        "image": "let images = tasks::sample(&mut artifact, 1, &[0], 0)?;",
    }.get(use)
    call = call or 'let outputs = artifact.run(&Arrays::from([("x".to_owned(), Array::new(vec![2], Data::Float32(vec![1.0, 2.5]))?)]))?;'
    return [
        f'let mut artifact = Artifact::open("{file}")?;',
        "let rows = artifact.check()?;",
        'assert!(!rows.is_empty() && rows.iter().all(|row| row.problem.is_none()), "wrong answers on this machine");',
        call,
    ]


def _csharp(use: str, file: str, language: str) -> list[str]:
    call = {
        "class": "var classes = Tasks.Classify(artifact, new Image(height, width, 1, pixels), out var known);",
        "latent": "var image = Tasks.Reconstruct(artifact, new Image(height, width, 1, pixels), out var score, out var unusual);",
        "text": 'Tasks.Write(artifact, "To be", Console.Write);',
        "image": "var images = Tasks.Sample(artifact, 1, new long[] { 0 }, 0);",
    }.get(use)
    array = "new NDArray(new[] { 1f, 2.5f }, 2)"
    call = call or f'var outputs = artifact.Run(new Dictionary<string, NDArray> {{ ["x"] = {array} }});'
    return [
        f'using (var artifact = new Artifact("{file}"))',
        "{",
        "    var rows = artifact.Check();",
        '    if (rows.Count == 0 || rows.Any(row => row.Problem != null)) throw new Exception("wrong answers on this machine");',
        f"    {call}",
        "}",
    ]
