// Runs this folder's model on onnxruntime-node. From JavaScript: `import { run } from "./run.mjs"`.
//
//   node run.mjs TASK --port value … --out FILE     pictures in as PNG, PGM, PPM or .npy, out as PNG; sound as WAV or .npy;
//                                                   videos as .npy, out as animated PNG too; several values with
//                                                   commas; texts directly, each with its own --port, or @FILE, a text per line;
//                                                   FILE gets the first output that fits
//   node run.mjs verify [--out FOLDER]              runs the golden cases
//   node run.mjs [TASK] --help                      lists the tasks, what they take, and an example of each

import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { crc32, deflateSync, inflateSync } from "node:zlib";

import { array, compare, complete, count, fromBytes, taskOf, toBytes } from "./ports.mjs";

// Read when ONNX Runtime is loaded, which otherwise writes a device id into the home folder and sends usage data.
process.env.ORT_DISABLE_TELEMETRY ||= "1";

const here = (path) => new URL(path, import.meta.url);
const ort = createRequire(import.meta.url)("onnxruntime-node"); // require, not import: it also looks in NODE_PATH

export const model = JSON.parse(await readFile(here("model.json"), "utf8"));
const sessions = new Map();

/** One call of a task: ports in, arrays {dtype, shape, data} with the batch axis out. */
export async function run(task, ports = {}) {
  return call(task, complete(model, task, ports));
}

async function call(task, inputs) {
  const ports = taskOf(model, task).outputs;
  if (!sessions.has(task)) sessions.set(task, await open(task));
  const feeds = {};
  for (const [name, { dtype, shape, data }] of Object.entries(inputs)) feeds[name] = new ort.Tensor(dtype, data, shape);
  const results = await sessions.get(task).run(feeds);
  const outputs = {};
  for (const [name, { dtype }] of Object.entries(ports))
    outputs[name] = array(dtype, [...results[name].dims], results[name].data);
  return outputs;
}

async function open(task) {
  for (const [name, { sha256 }] of Object.entries(model.files)) {
    const found = createHash("sha256").update(await readFile(here(`model/${name}`))).digest("hex");
    if (found !== sha256) throw new RangeError(`model/${name} is damaged: copy the folder again`);
  }
  const { fileURLToPath } = await import("node:url");
  return ort.InferenceSession.create(fileURLToPath(here(`model/${task}.onnx`)));
}

const cases = async () => JSON.parse(await readFile(here("golden/cases.json"), "utf8"));

const readRaw = async ({ file, dtype, shape }) => fromBytes(dtype, shape, await readFile(here(`golden/${file}`)));

/** Runs the golden cases; throws if one is off by more than the model's tolerance. Keeps the outputs in `out`. */
export async function verify(out) {
  for (const { task, case: number, inputs, outputs } of await cases()) {
    const feeds = {};
    for (const [name, raw] of Object.entries(inputs)) feeds[name] = await readRaw(raw);
    const actual = await call(task, feeds);
    for (const [name, raw] of Object.entries(outputs)) {
      const { worst, equal, same } = compare(model, model.tasks[task].outputs[name], await readRaw(raw), actual[name]);
      console.log(`${task} ${number} ${name}: worst ${worst}, ${(100 * equal).toFixed(4)}% equal`);
      if (out) await writeFile(`${out}/${raw.file}`, toBytes(actual[name]));
      else if (!same) throw new Error("the outputs differ");
    }
  }
}

// --- The command line ------------------------------------------------------------------------------------------------

const COMMAND = "node run.mjs";

/** What --help prints: the inputs of these tasks with their ranges, and for each an example that works. */
async function usage(tasks) {
  const golden = await cases();
  const lines = [`${model.name} ${model.version}: ${model.summary}`, ""];
  lines.push(`usage: ${COMMAND} TASK --PORT VALUE ... [--out FILE.png, .wav or .npy]`, `       ${COMMAND} verify`);
  for (const name of tasks) {
    const task = taskOf(model, name);
    lines.push("", `${name}: ${task.summary}`);
    for (const [port, told] of Object.entries(task.inputs)) lines.push(`  --${port} ${takes(told)}`);
    lines.push(`  gives ${Object.keys(task.outputs).join(", ")}`);
    lines.push(`  example: ${example(name, task, golden.find((one) => one.task === name)?.inputs ?? {})}`);
  }
  return lines.map((line) => line.replace(/\p{C}|[\u2028\u2029]/gu, " ")).join("\n");
}

function takes({ codec, dtype, shape, classes = [], ...port }) {
  const array = `${dtype} [${shape.join(", ")}]`;
  if (codec === "bytes") return `TEXT or @FILE, a text per line${typeof shape.at(-1) === "number" ? `: at most ${shape.at(-1)} bytes of UTF-8` : ""}`;
  if (codec === "pixels" && port.frame_rate === undefined) {
    const limits = port.minimum_size === undefined ? [] : [`at least ${port.minimum_size} pixels per side`];
    if (port.maximum_pixels !== undefined) limits.push(`at most ${port.maximum_pixels} in all`);
    return `FILE (PNG, PGM, PPM or .npy): ${array}${limits.length ? `; ${limits.join(", ")}` : ""}`;
  }
  const more = classes.length > 20 ? `, ... (${classes.length} classes)` : "";
  const known = classes.length ? `, or a class: ${classes.slice(0, 20).join(", ")}${more}` : "";
  const preset = port.default === undefined ? "" : `; default ${port.default}`;
  const bounded = port.minimum !== undefined || port.maximum !== undefined;
  const bounds = bounded ? `, ${port.minimum ?? "any"} .. ${port.maximum ?? "any"}` : "";
  const files = port.sample_rate === undefined ? "FILE.npy" : "FILE (WAV or .npy)";
  return `${shape.length < 2 ? "VALUE" : files}: ${array}${bounds}${known}${preset}`;
}

function example(name, { inputs, outputs }, golden) {
  const words = [COMMAND, name];
  for (const [port, told] of Object.entries(inputs)) {
    const single = told.repeats || told.codec === "bytes" || !golden[port];
    if (told.default === undefined || (told.codec === "bytes" && told.sample)) words.push(`--${port}`, single ? told.sample : `golden/${golden[port].file}`);
  }
  const shown = Object.keys(outputs).find((port) => outputs[port].codec === "pixels" && outputs[port].shape.length === 4);
  return [...words, "--out", shown ? `${shown}.png` : `${Object.keys(outputs)[0]}.npy`].join(" ");
}

async function main([task, ...words]) {
  if ([undefined, "--help", "-h"].includes(task)) return console.log(await usage(Object.keys(model.tasks)));
  const options = {};
  if (words.some((word, i) => i % 2 === 0 && ["--help", "-h"].includes(word)))
    return console.log(await usage(task === "verify" ? Object.keys(model.tasks) : [task]));
  if (words.length % 2 || words.some((word, i) => i % 2 === 0 && !word.startsWith("--")))
    throw new TypeError(`after the task come --PORT VALUE and --out FILE; tasks: ${Object.keys(model.tasks).join(", ")}`);
  for (let i = 0; i < words.length; i += 2) (options[words[i].replace(/^--/, "")] ??= []).push(words[i + 1]);
  let { out: files = [], ...given } = options, out = files.at(-1);
  if (task === "verify") return verify(out);
  if (out !== undefined && !/\.(png|wav|npy)$/.test(out)) throw new TypeError(`${out} must end in .png, .wav or .npy`);
  const { inputs: ports, outputs } = taskOf(model, task);
  for (const name of Object.keys(given)) if (Object.hasOwn(ports, name)) given[name] = await readValue(name, ports[name], given[name]);
  for (const [name, result] of Object.entries(await run(task, given))) {
    const bytes = out && encode(out, outputs[name], result);
    if (bytes) {
      await writeFile(out, bytes);
      out = undefined;
    } else console.log(JSON.stringify({ [name]: { shape: result.shape, data: Array.from(result.data, Number) } }));
  }
}

/** The bytes of an output as a file with this ending; undefined if the ending does not fit. */
function encode(path, { codec, frame_rate: frameRate, sample_rate: sampleRate }, result) {
  if (path.endsWith(".npy")) return npy(result);
  if (path.endsWith(".png") && codec === "pixels" && result.shape.length >= 4) return png(result, frameRate);
  if (path.endsWith(".wav") && sampleRate) return wav(result, sampleRate);
}

/** The value of an option: of the last word that was given for it, or of all if they are texts. */
async function readValue(name, port, words) {
  const text = words.at(-1);
  if (text.endsWith(".npy")) return readNpy(await readFile(text));
  for (const { inputs } of text.startsWith("golden/") ? await cases() : []) {
    const raw = Object.values(inputs).find(({ file }) => text === `golden/${file}`);
    if (raw) return readRaw(raw);
  }
  if (port.codec === "bytes") {
    const texts = (await Promise.all(words.map((word) => readTexts(name, word)))).flat();
    return texts.length > 1 ? texts : texts[0];
  }
  if (port.frame_rate !== undefined) throw new TypeError(`${text} must be a .npy file: uint8 [${port.shape.join(", ")}]`);
  if (port.sample_rate !== undefined) return readWav(port, text, await readFile(text));
  if (port.codec === "pixels") {
    const bytes = await readFile(text);
    return toChannels(port, text, PNG.equals(bytes.subarray(0, 8)) ? readPng(port, text, bytes) : readPnm(text, bytes));
  }
  const known = port.classes?.some((name) => name.toLowerCase() === text.toLowerCase());
  const values = (known ? [text] : text.split(",")).map((v) => (v.trim() && Number.isFinite(Number(v)) && !known ? Number(v) : v));
  return values.length > 1 ? values : values[0];
}

/** The texts that a word stands for: itself; @FILE: the file's lines; @@…: a text that begins with an at sign. */
async function readTexts(name, word) {
  if (word.includes("\ufffd")) throw new TypeError(`${name} is not UTF-8`); // Node has put this character in place of such bytes
  if (!word.startsWith("@") || word.startsWith("@@")) return [word.replace(/^@@/, "@")];
  const path = word.slice(1), bytes = await readFile(path);
  let whole;
  try {
    whole = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new TypeError(`${path} is not UTF-8`);
  }
  const lines = whole.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!lines.length) throw new TypeError(`${path} contains no text`);
  return lines;
}

/** The sound in a WAV file, float32 [1, samples, channels]: 16 bits, with the port's sample rate and channels. */
function readWav({ sample_rate: rate, shape: [, , channels] }, path, bytes) {
  if (bytes.toString("latin1", 0, 4) !== "RIFF" || bytes.toString("latin1", 8, 12) !== "WAVE") throw new TypeError(`${path} is not a WAV file`);
  let found = "", data;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const name = bytes.toString("latin1", at, at + 4), length = bytes.readUInt32LE(at + 4), body = bytes.subarray(at + 8, at + 8 + length);
    if (body.length < length) throw new TypeError(`${path} is cut short`);
    if (name === "fmt " && length >= 16) found = [body.readUInt16LE(0), body.readUInt16LE(14), body.readUInt32LE(4), body.readUInt16LE(2)].join();
    if (name === "data") data ??= body;
    at += 8 + length + (length % 2);
  }
  if (found !== [1, 16, rate, channels].join() || !data) throw new TypeError(`${path} must have 16 bits, ${rate} Hz and ${channels} channel${channels > 1 ? "s" : ""}`);
  const samples = Math.floor(data.length / (2 * channels));
  return array("float32", [1, samples, channels], Float32Array.from({ length: samples * channels }, (_, i) => data.readInt16LE(2 * i) / 32768));
}

/** float32 [batch, samples, channels] as WAV of 16 bits, one sound after the other. */
function wav({ shape: [, , channels], data }, rate) {
  const head = Buffer.from("RIFF....WAVEfmt ....................data....", "latin1"), body = Buffer.alloc(2 * data.length);
  for (const [at, value] of [[4, 36 + body.length], [16, 16], [24, rate], [28, 2 * channels * rate], [40, body.length]]) head.writeUInt32LE(value, at);
  for (const [at, value] of [[20, 1], [22, channels], [32, 2 * channels], [34, 16]]) head.writeUInt16LE(value, at);
  data.forEach((value, i) => body.writeInt16LE(Math.max(-32768, Math.min(32767, Math.round(value * 32768))), 2 * i));
  return Buffer.concat([head, body]);
}

const PNG = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");

function readPnm(path, bytes) { // P5 or P6, width and height, 255, pixels
  const [head, magic, width, height] = /^(P5|P6)\n(\d+) (\d+)\n255\n/.exec(bytes.toString("latin1", 0, 40)) ?? [];
  if (!head) throw new TypeError(`${path} is not a PNG, an 8-bit PGM or PPM, or a .npy file`);
  return array("uint8", [1, Number(height), Number(width), magic === "P5" ? 1 : 3], new Uint8Array(bytes.subarray(head.length)));
}

/** The pixels, uint8 [1, height, width, 1 or 3]. Reads 8-bit grey and RGB; an alpha channel must be opaque. */
function readPng(port, path, bytes) {
  const damaged = () => new TypeError(`${path} is damaged`);
  const chunks = [];
  for (let at = 8, end; at + 12 <= bytes.length && chunks.at(-1)?.name !== "IEND"; at = end + 4) {
    end = at + 8 + bytes.readUInt32BE(at);
    if (end + 4 > bytes.length || crc32(bytes.subarray(at + 4, end)) !== bytes.readUInt32BE(end)) throw damaged();
    chunks.push({ name: bytes.toString("latin1", at + 4, at + 8), body: bytes.subarray(at + 8, end) });
  }
  const head = chunks[0]?.body;
  if (chunks[0]?.name !== "IHDR" || head.length !== 13 || chunks.at(-1).name !== "IEND") throw damaged();
  const width = head.readUInt32BE(0), height = head.readUInt32BE(4), [depth, colours, , , interlaced] = head.subarray(8);
  const channels = { 0: 1, 2: 3, 4: 2, 6: 4 }[colours], most = port.maximum_pixels ?? 4e7;
  if (depth !== 8 || !channels || interlaced)
    throw new TypeError(`${path} must be a PNG with 8 bits per channel, grey or RGB, not interlaced`);
  if (!(width * height > 0 && width * height <= most)) // before memory is taken for them
    throw new RangeError(`${path} is ${width}x${height}; at most ${most} pixels in all`);
  const length = width * channels, size = height * (1 + length);
  const compressed = Buffer.concat(chunks.filter(({ name }) => name === "IDAT").map(({ body }) => body));
  let rows;
  try {
    rows = inflateSync(compressed, { maxOutputLength: size });
  } catch {
    throw damaged();
  }
  if (rows.length !== size) throw damaged();
  // Each byte is the difference to the pixel on its left, the one above or both (PNG specification, 9).
  const pixels = new Uint8Array(height * length);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (1 + length)];
    if (filter > 4) throw damaged();
    for (let x = 0; x < length; x++) {
      const at = y * length + x;
      const left = x < channels ? 0 : pixels[at - channels], up = y ? pixels[at - length] : 0;
      const corner = y && x >= channels ? pixels[at - length - channels] : 0;
      const near = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
      pixels[at] = rows[y * (1 + length) + 1 + x] + near;
    }
  }
  if (channels === 1 || channels === 3) {
    if (!chunks.some(({ name }) => name === "tRNS")) return array("uint8", [1, height, width, channels], pixels);
  } else if (pixels.every((value, i) => i % channels < channels - 1 || value === 255)) {
    return array("uint8", [1, height, width, channels - 1], pixels.filter((_, i) => i % channels < channels - 1));
  }
  throw new TypeError(`${path} is partly transparent: save it without transparency`);
}

/** The neighbour that is closest to left + up - corner. */
function paeth(left, up, corner) {
  const a = Math.abs(up - corner), b = Math.abs(left - corner), c = Math.abs(left + up - 2 * corner);
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

/** Grey as RGB where the port takes RGB, and RGB as grey if it contains nothing else. */
function toChannels({ shape: wanted }, path, { shape, data }) {
  const [from, to] = [shape.at(-1), wanted.at(-1)], changed = [...shape.slice(0, -1), to];
  if (from === 1 && to === 3) return array("uint8", changed, new Uint8Array(count(changed)).map((_, i) => data[Math.floor(i / 3)]));
  if (from !== 3 || to !== 1) return array("uint8", shape, data);
  if (data.some((value, i) => value !== data[i - (i % 3)])) throw new TypeError(`${path} is in colour; this task takes grey pictures`);
  return array("uint8", changed, data.filter((_, i) => i % 3 === 0));
}

const NPY = { "|u1": "uint8", "<i8": "int64", "<f4": "float32" };

function readNpy(bytes) {
  const end = 10 + bytes.readUInt16LE(8), head = bytes.toString("latin1", 10, end);
  const dtype = NPY[/'descr': '(.*?)'/.exec(head)?.[1]], shape = /'shape': \((.*?)\)/.exec(head)?.[1];
  if (!dtype || shape === undefined || head.includes("True"))
    throw new TypeError("the .npy file must be a C-ordered array of uint8, int64 or float32");
  return fromBytes(dtype, shape.split(",").filter((n) => n.trim()).map(Number), new Uint8Array(bytes.subarray(end)));
}

function npy({ dtype, shape, data }) {
  const descr = Object.keys(NPY).find((key) => NPY[key] === dtype);
  const head = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
  const padded = head.padEnd(Math.ceil((head.length + 11) / 64) * 64 - 11) + "\n";
  const size = Buffer.alloc(2);
  size.writeUInt16LE(padded.length);
  return Buffer.concat([Buffer.from("\x93NUMPY\x01\x00", "latin1"), size, Buffer.from(padded), toBytes({ data })]);
}

/** uint8 [batch, height, width, 1 or 3] as one PNG, or [batch, frames, …] as an animated one; one below the other. */
function png({ shape, data }, rate = 1) {
  const [batch, frames, height, width, channels] = shape.length === 5 ? shape : [shape[0], 1, ...shape.slice(1)];
  const chunk = (name, body) => {
    const whole = Buffer.alloc(12 + body.length);
    whole.writeUInt32BE(body.length);
    whole.write(name, 4, "latin1");
    whole.set(body, 8);
    whole.writeUInt32BE(crc32(whole.subarray(4, -4)), whole.length - 4);
    return whole;
  };
  const words = (...numbers) => Buffer.concat(numbers.map((n) => { const word = Buffer.alloc(4); word.writeUInt32BE(n); return word; }));
  const length = width * channels, chunks = [chunk("IHDR", Buffer.concat([words(width, batch * height), Buffer.from([8, { 1: 0, 3: 2 }[channels], 0, 0, 0])]))];
  if (frames > 1) chunks.push(chunk("acTL", words(frames, 0)));
  for (let frame = 0; frame < frames; frame++) { // fcTL and fdAT count up together
    if (frames > 1) chunks.push(chunk("fcTL", Buffer.concat([words(Math.max(0, 2 * frame - 1), width, batch * height, 0, 0), Buffer.from([0, 1, rate >> 8, rate & 255, 0, 0])])));
    const rows = Buffer.alloc(batch * height * (length + 1));
    for (let y = 0; y < batch * height; y++) {
      const from = ((Math.floor(y / height) * frames + frame) * height + (y % height)) * length;
      rows.set(data.subarray(from, from + length), y * (length + 1) + 1);
    }
    chunks.push(frame ? chunk("fdAT", Buffer.concat([words(2 * frame), deflateSync(rows)])) : chunk("IDAT", deflateSync(rows)));
  }
  return Buffer.concat([PNG, ...chunks, chunk("IEND", Buffer.alloc(0))]);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(`Error: ${String(error.message).split("\n")[0]}`);
    process.exitCode = 1;
  });
}
