"""The lines of a project's README that use its modules in a program of one's own, by language and kind of model."""

from __future__ import annotations

from onnxferry.runtime.kinds import Kind


def example(kind: Kind, language: str, file: str) -> str:
    """Code of ``language`` that opens ``file`` and does what ``kind`` is for; "" for a language whose README has no such lines."""
    write = {"javascript": _javascript, "web": _javascript, "cpp": _cpp, "java": _java, "rust": _rust, "csharp": _csharp}.get(language)
    returns = kind.returns if kind.verb else ""  # a kind without a verb of its own runs on arrays
    return "\n".join(write(returns, file, language)) if write else ""


def _javascript(returns: str, file: str, language: str) -> list[str]:
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
    }.get(returns, "const outputs = await artifact.run({ x: { dtype, shape, data } });")
    lines += ['import * as tasks from "./tasks.mjs";'] if "tasks." in call else []
    return [*lines, "", f"const artifact = await openArtifact(ort, {read});", call]


def _cpp(returns: str, file: str, language: str) -> list[str]:
    call = {
        "class": "const Classified answer = classify(artifact, Image{height, width, 1, pixels});",
        "latent": "const Reconstructed answer = reconstruct(artifact, Image{height, width, 1, pixels});",
        "text": 'write(artifact, "To be", Writing{}, [](std::string_view piece) { std::cout << piece; });',
        "image": "const Image image = sample(artifact, 1, {0}, 0)[0];",
    }.get(returns, 'const Arrays outputs = artifact.run({{"x", array_of<float>("float32", {2}, {1, 2.5})}});')
    lines = ['#include "tasks.hpp"', "", f'Artifact artifact("{file}");']
    return [*lines, 'if (!artifact.check().passed()) throw std::runtime_error("wrong answers on this machine");', call]


def _java(returns: str, file: str, language: str) -> list[str]:
    call = {
        "class": "Tasks.Classes answer = Tasks.classify(artifact, new Image(height, width, 1, pixels));",
        "latent": "Tasks.Reconstruction answer = Tasks.reconstruct(artifact, new Image(height, width, 1, pixels));",
        "text": 'Tasks.write(artifact, "To be", Tasks.Writing.ofSeed(0), System.out::print);',
        "image": "Image image = Tasks.sample(artifact, 1, new long[] {0}, 0).get(0);",
    }.get(returns, 'Map<String, Array> outputs = artifact.run(Map.of("x", Array.of(new float[] {1, 2.5f}, 2)));')
    return [
        f'try (Artifact artifact = new Artifact(Path.of("{file}"))) {{',
        "  List<Artifact.Row> rows = artifact.check();",
        "  if (rows.isEmpty() || !rows.stream().allMatch(Artifact.Row::passed)) {",
        '    throw new IllegalStateException("wrong answers on this machine");',
        "  }",
        f"  {call}",
        "}",
    ]


def _rust(returns: str, file: str, language: str) -> list[str]:
    call = {
        "class": "let answer = tasks::classify(&mut artifact, Image { height, width, channels: 1, data: pixels })?;",
        "latent": "let answer = tasks::reconstruct(&mut artifact, Image { height, width, channels: 1, data: pixels })?;",
        "text": 'tasks::write(&mut artifact, "To be", &tasks::Writing::default(), |piece| print!("{piece}"))?;',
        "image": "let images = tasks::sample(&mut artifact, 1, &[0], 0)?;",
    }.get(returns)
    call = call or 'let outputs = artifact.run(&Arrays::from([("x".to_owned(), Array::new(vec![2], Data::Float32(vec![1.0, 2.5]))?)]))?;'
    return [
        f'let mut artifact = Artifact::open("{file}")?;',
        "let rows = artifact.check()?;",
        'assert!(!rows.is_empty() && rows.iter().all(|row| row.problem.is_none()), "wrong answers on this machine");',
        call,
    ]


def _csharp(returns: str, file: str, language: str) -> list[str]:
    call = {
        "class": "var classes = Tasks.Classify(artifact, new Image(height, width, 1, pixels), out var known);",
        "latent": "var image = Tasks.Reconstruct(artifact, new Image(height, width, 1, pixels), out var score, out var unusual);",
        "text": 'Tasks.Write(artifact, "To be", Console.Write);',
        "image": "var images = Tasks.Sample(artifact, 1, new long[] { 0 }, 0);",
    }.get(returns)
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
