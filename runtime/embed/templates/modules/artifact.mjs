// An onnxferry artifact: its contract, its golden samples and its defaults, and a session that runs it.
//
//     import * as ort from "onnxruntime-node";            // or onnxruntime-web
//     const artifact = await openArtifact(ort, bytes);
//     const report = await artifact.check();              // the golden samples, replayed on this machine
//     const outputs = await artifact.run({ image });      // inputs that are left out have the contract's defaults
//
// An array is { dtype, shape, data }: dtype as in the contract ("float32", "uint8", "int64", …), shape a list of numbers, data a typed
// array in C order (BigInt64Array for int64), or a list of strings for "str".

const NEWEST_SCHEMA = 2;

// Of a certified variant: how much further it may be from the expected output than where it was certified.
const VARIANT_FACTOR = 4.0;
const VARIANT_SHARE = 0.01;

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array, // the bits
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
};
const FLOATS = new Set(["float16", "float32", "float64"]);

/** The model's metadata_props, text to text: field 14 of ModelProto (onnx.proto), each an entry of key 1 and value 2. */
export function readMetadata(bytes) {
  const metadata = {};
  for (const [field, entry] of fields(bytes)) {
    if (field !== 14) continue;
    const pair = {};
    for (const [part, text] of fields(entry)) pair[part] = new TextDecoder().decode(text);
    if (pair[1] !== undefined) metadata[pair[1]] = pair[2] ?? "";
  }
  return metadata;
}

/** The length-delimited fields of a protobuf message, in order: [number, bytes]. Throws for what is cut off. */
export function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (at >= bytes.length || scale > 2 ** 63) throw new Error("the model file is cut off or damaged");
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const wire = key % 8;
    if (wire === 0) varint();
    else if (wire === 1) at += 8;
    else if (wire === 5) at += 4;
    else if (wire === 2) {
      const length = varint();
      if (at + length > bytes.length) throw new Error("the model file is cut off or damaged");
      yield [Math.floor(key / 8), bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error("the file is not an ONNX model");
  }
  if (at > bytes.length) throw new Error("the model file is cut off or damaged");
}

/** The contract in a model's bytes. Throws for a file without one, or with a newer one. */
export function readContract(bytes) {
  const metadata = readMetadata(bytes);
  const json = (key, otherwise) => (metadata[key] === undefined ? otherwise : JSON.parse(metadata[key]));
  if (metadata["onnxferry.schema"] === undefined) throw new Error("the model has no onnxferry contract: export it with onnxferry");
  const schema = Number(metadata["onnxferry.schema"]);
  if (schema > NEWEST_SCHEMA) throw new Error(`the model's contract has schema ${schema}, this code reads up to ${NEWEST_SCHEMA}`);
  const decodeAll = (arrays) => Object.fromEntries(Object.entries(arrays).map(([name, value]) => [name, decode(value)]));
  const about = json("onnxferry.contract", {});
  return {
    kind: about.kind,
    name: about.name,
    description: metadata.description ?? "",
    labels: about.labels ?? [],
    options: about.options ?? {},
    tolerances: about.tolerances ?? {},
    certificate: json("onnxferry.certificate", {}),
    defaults: decodeAll(json("onnxferry.defaults", {})),
    goldens: json("onnxferry.goldens", []).map(({ inputs, outputs }) => ({ inputs: decodeAll(inputs), outputs: decodeAll(outputs) })),
  };
}

/** An array as a contract has it, its data in base64. */
export function decode({ dtype, shape, data }) {
  if (dtype === "str") return { dtype, shape, data };
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return { dtype, shape, data: new ARRAYS[dtype](bytes.buffer) }; // little-endian, as every machine that runs JavaScript today
}

/**
 * Opens an artifact. ort: the module onnxruntime-node or onnxruntime-web. bytes: the file, a Uint8Array. options: of
 * InferenceSession.create. source: what the session is created from if not the bytes, such as a path beside which weights lie.
 */
export async function openArtifact(ort, bytes, options = {}, source = bytes) {
  const contract = readContract(bytes);
  return new Artifact(ort, contract, await ort.InferenceSession.create(source, options));
}

export class Artifact {
  constructor(ort, contract, session) {
    this.ort = ort;
    this.contract = contract;
    this.session = session;
  }

  /** Runs once: arrays by input name to arrays by output name. Inputs that are left out have the contract's defaults. */
  async run(inputs) {
    const complete = { ...this.contract.defaults, ...inputs };
    const feeds = {};
    for (const name of this.session.inputNames) {
      if (complete[name] === undefined) throw new Error(`the input ${name} is missing`);
      feeds[name] = this.#tensor(complete[name]);
    }
    for (const name of Object.keys(complete)) {
      if (!this.session.inputNames.includes(name)) throw new Error(`the model has no input ${name}`);
    }
    const results = await this.session.run(feeds);
    const outputs = {};
    for (const name of this.session.outputNames) {
      const { type, dims, data } = results[name];
      outputs[name] = { dtype: type === "string" ? "str" : type, shape: dims.map(Number), data };
    }
    return outputs;
  }

  #tensor({ dtype, shape, data }) {
    return new this.ort.Tensor(dtype === "str" ? "string" : dtype, data, shape);
  }

  /** Replays the golden samples: a row { sample, output, difference, passed, problem } for each output of each. */
  async check() {
    const { goldens, tolerances, certificate } = this.contract;
    const limits = rmsLimits(certificate);
    const rows = [];
    const off = {}; // by output: sums of squares of the differences and of the expected values
    for (const [sample, golden] of goldens.entries()) {
      const outputs = await this.run(golden.inputs);
      for (const [output, expected] of Object.entries(golden.outputs)) {
        const row = { sample, output, ...compare(outputs[output], expected, output in limits ? ANY_NUMBER : tolerances[output]) };
        if (row.squares) off[output] = [0, 1].map((i) => (off[output]?.[i] ?? 0) + row.squares[i]);
        delete row.squares;
        rows.push(row);
      }
    }
    for (const [output, allowed] of Object.entries(limits)) {
      if (!off[output]) continue;
      const found = Math.sqrt(off[output][1] ? off[output][0] / off[output][1] : off[output][0]);
      if (found <= allowed) continue;
      const problem = `${percent(found)} off (root mean square), its certificate allows ${percent(allowed)}`;
      for (const row of rows) if (row.output === output && row.passed) Object.assign(row, { passed: false, problem });
    }
    return { rows, passed: rows.length > 0 && rows.every((row) => row.passed) };
  }
}

/** By output, how far a certified variant may be off as a whole: one pixel of an 8-bit image may be far off, but not all of them. */
function rmsLimits(certificate) {
  const limits = Object.entries(certificate.rms ?? {}).map(([output, share]) => [output, VARIANT_FACTOR * share + VARIANT_SHARE]);
  return Object.fromEntries(limits.filter(([, limit]) => limit < 1));
}

const ANY_NUMBER = [0, Infinity];

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** As "Verify a file in another language" in onnxferry's documentation says. */
function compare(actual, expected, tolerance) {
  const failed = (problem) => ({ difference: NaN, passed: false, problem });
  if (actual === undefined) return failed("the model has no such output");
  if (actual.dtype !== expected.dtype) return failed(`${actual.dtype}, expected ${expected.dtype}`);
  if (String(actual.shape) !== String(expected.shape)) return failed(`shape [${actual.shape}], expected [${expected.shape}]`);
  if (expected.dtype === "str") {
    const same = expected.data.every((text, i) => text === actual.data[i]);
    return { difference: same ? 0 : NaN, passed: same, problem: same ? "" : "other text" };
  }
  const [rtol, atol] = tolerance ?? (FLOATS.has(expected.dtype) ? [1e-4, 1e-5] : [0, 0]);
  const exact = rtol === 0 && atol === 0;
  const number = expected.dtype === "float16" ? halfToNumber : Number;
  let difference = 0;
  let wrong = 0;
  const squares = [0, 0];
  for (let i = 0; i < expected.data.length; i++) {
    const a = actual.data instanceof expected.data.constructor ? number(actual.data[i]) : Number(actual.data[i]);
    const e = number(expected.data[i]);
    const equal = exact ? actual.data[i] === expected.data[i] : a === e;
    const distance = equal ? 0 : Math.abs(a - e);
    const allowed = Number.isFinite(e) ? atol + rtol * Math.abs(e) : 0;
    if (!(distance <= allowed) && !equal) wrong += 1;
    if (!(distance <= difference)) difference = distance; // not a number is kept
    squares[0] += distance * distance;
    squares[1] += e * e;
  }
  const problem = wrong ? `${wrong} of ${expected.data.length} numbers differ by up to ${difference}` : "";
  return { difference, passed: wrong === 0, problem, squares };
}

/** Arrays from parsed JSON, by name: { dtype, shape, data: a list of numbers or strings }. */
export function fromJson(arrays) {
  const typed = ({ dtype, shape, data }) => {
    if (dtype === "str") return { dtype, shape, data };
    if (!ARRAYS[dtype] || dtype === "float16") throw new Error(`${dtype} is not read from JSON`);
    return { dtype, shape, data: dtype.endsWith("int64") ? ARRAYS[dtype].from(data, BigInt) : ARRAYS[dtype].from(data) };
  };
  return Object.fromEntries(Object.entries(arrays).map(([name, array]) => [name, typed(array)]));
}

/** Arrays as JSON.stringify takes them: plain lists. Whole numbers of 64 bits beyond 2^53 are rounded. */
export function toJson(arrays) {
  const plain = ({ dtype, shape, data }) => ({ dtype, shape, data: Array.from(data, (value) => (typeof value === "bigint" ? Number(value) : value)) });
  return Object.fromEntries(Object.entries(arrays).map(([name, array]) => [name, plain(array)]));
}

function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}
