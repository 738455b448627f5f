// {{NAME}}: verifies the model on this machine, then runs it on what the command line names.
//
//     npm install --onnxruntime-node-install=skip
//     node main.mjs{{ARGUMENT}}

import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import * as ort from "onnxruntime-node";

import { fromJson, openArtifact, toJson } from "./artifact.mjs";
import * as tasks from "./tasks.mjs";

const path = fileURLToPath(new URL("./{{FILE}}", import.meta.url));
const [input, ...rest] = process.argv.slice(2);

try {
  const artifact = await openArtifact(ort, await readFile(path), {}, path);
  await verify(artifact);
  await answer(artifact);
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}

async function verify(artifact) {
  const { rows, passed } = await artifact.check();
  const failed = rows.filter((row) => !row.passed);
  for (const row of failed) console.error(`sample ${row.sample}, ${row.output}: ${row.problem}`);
  if (!rows.length) throw new Error("the model has no golden samples, so it cannot be verified");
  if (!passed) throw new Error(`the model does not give what it should on this machine: ${failed.length} of ${rows.length} outputs failed`);
  console.log(`verified: ${rows.length} of ${rows.length} outputs of the golden samples are as expected`);
}

async function answer(artifact) {
  const { kind, labels } = artifact.contract;
  if (kind === "recogniser") {
    const { classes, known } = await tasks.classify(artifact, await readImage(artifact, input));
    for (const { label, probability } of classes.slice(0, 3)) console.log(`${label}  ${(100 * probability).toFixed(1)} %`);
    if (!known) console.log("probably none of its classes");
  } else if (kind === "detector") {
    for (const { label, score, box } of await tasks.detect(artifact, await readImage(artifact, input))) {
      const [left, top, right, bottom] = [box.left, box.top, box.right, box.bottom].map((edge) => edge.toFixed(1));
      console.log(`${label}  ${(100 * score).toFixed(1)} %  left ${left} top ${top} right ${right} bottom ${bottom}`);
    }
  } else if (kind === "text-classifier" && tasks.readsText(artifact)) {
    const { classes } = await tasks.classifyText(artifact, input ?? "");
    for (const { label, probability } of classes.slice(0, 3)) console.log(`${label}  ${(100 * probability).toFixed(1)} %`);
  } else if (kind === "translator" && tasks.readsText(artifact)) {
    console.log((await tasks.translate(artifact, input ?? "")).text);
  } else if (kind === "text-generator") {
    const seed = Number(rest[0] ?? 0);
    for await (const piece of tasks.write(artifact, input ?? "", { seed })) process.stdout.write(piece);
    process.stdout.write("\n");
  } else if (kind === "image-generator") {
    const wanted = input ?? labels[0] ?? "0";
    const label = labels.length ? labels.indexOf(wanted) : Number(wanted);
    if (!(label >= 0)) throw new Error(`no class ${wanted}; expected one of ${labels.join(", ")}`);
    await writeImage(await tasks.sample(artifact, 1, [label], Number(rest[0] ?? 0)), "sample.png");
  } else if (kind === "encoder") {
    const { image, score, unusual } = await tasks.reconstruct(artifact, await readImage(artifact, input));
    console.log(`anomaly score ${score.toFixed(5)}${unusual ? ", unusual" : ""}`);
    await writeImage(image, "reconstruction.png");
  } else {
    if (!input) throw new Error("give a JSON file of the inputs: { name: { dtype, shape, data } }, data a list of numbers");
    const outputs = await artifact.run(fromJson(JSON.parse(await readFile(input, "utf8"))));
    console.log(JSON.stringify(toJson(outputs), null, 1));
  }
}

async function readImage(artifact, file) {
  if (!file) throw new Error("give an image file: node main.mjs image.png");
  const { default: sharp } = await import("sharp");
  // Pixels as they are in the file: turned as its EXIF orientation says, with an alpha channel.
  const { data, info } = await sharp(file).rotate().toColourspace("srgb").ensureAlpha().raw().toBuffer({ resolveWithObject: true });
  return tasks.imageFromRgba(data, info.width, info.height, artifact.contract.options.channels ?? 3);
}

async function writeImage(image, file) {
  const { default: sharp } = await import("sharp");
  const { rgba, width, height } = tasks.rgbaFromImage(image);
  await writeFile(file, await sharp(rgba, { raw: { width, height, channels: 4 } }).png().toBuffer());
  console.log(file);
}
