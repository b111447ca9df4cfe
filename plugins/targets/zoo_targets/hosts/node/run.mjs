// Runs this folder's model on onnxruntime-node. From JavaScript: `import { run } from "./run.mjs"`.
//
//   node run.mjs TASK --port value … --out FILE     pictures in as PGM, PPM or .npy, out as PNG; several values with commas;
//                                                   text directly, or @FILE; FILE gets the first output that fits
//   node run.mjs verify [--out FOLDER]              runs the golden cases

import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { crc32, deflateSync } from "node:zlib";

import { array, compare, complete, fromBytes, taskOf, toBytes } from "./ports.mjs";

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

/** Runs the golden cases; throws if one is off by more than the model's tolerance. Keeps the outputs in `out`. */
export async function verify(out) {
  const read = async (raw) => fromBytes(raw.dtype, raw.shape, await readFile(here(`golden/${raw.file}`)));
  for (const { task, case: number, inputs, outputs } of JSON.parse(await readFile(here("golden/cases.json"), "utf8"))) {
    const feeds = {};
    for (const [name, raw] of Object.entries(inputs)) feeds[name] = await read(raw);
    const actual = await call(task, feeds);
    for (const [name, raw] of Object.entries(outputs)) {
      const { worst, equal, same } = compare(model, model.tasks[task].outputs[name], await read(raw), actual[name]);
      console.log(`${task} ${number} ${name}: worst ${worst}, ${(100 * equal).toFixed(4)}% equal`);
      if (out) await writeFile(`${out}/${raw.file}`, toBytes(actual[name]));
      else if (!same) throw new Error("the outputs differ");
    }
  }
}

// --- The command line ------------------------------------------------------------------------------------------------

async function main([task, ...words]) {
  const options = {};
  for (let i = 0; i < words.length; i += 2) options[words[i].replace(/^--/, "")] = words[i + 1];
  let { out, ...given } = options;
  if (task === "verify") return verify(out);
  const { inputs: ports, outputs } = taskOf(model, task);
  for (const name of Object.keys(given)) if (Object.hasOwn(ports, name)) given[name] = await readValue(ports[name], given[name]);
  for (const [name, result] of Object.entries(await run(task, given))) {
    const picture = out?.endsWith(".png") && outputs[name].codec === "pixels" && result.shape.length === 4;
    if (picture || out?.endsWith(".npy")) {
      await writeFile(out, picture ? png(result) : npy(result));
      out = undefined;
    } else console.log(JSON.stringify({ [name]: { shape: result.shape, data: Array.from(result.data, Number) } }));
  }
}

async function readValue(port, text) {
  if (text.endsWith(".npy")) return readNpy(await readFile(text));
  if (port.codec === "bytes") return text.startsWith("@") ? new Uint8Array(await readFile(text.slice(1))) : text;
  if (port.codec === "pixels") {
    const bytes = await readFile(text); // P5 or P6, width and height, 255, pixels
    const [head, magic, width, height] = /^(P5|P6)\n(\d+) (\d+)\n255\n/.exec(bytes.toString("latin1", 0, 40)) ?? [];
    if (!head) throw new TypeError(`${text} is not an 8-bit PGM or PPM`);
    const shape = [1, Number(height), Number(width), magic === "P5" ? 1 : 3];
    return array("uint8", shape, new Uint8Array(bytes.subarray(head.length)));
  }
  const known = port.classes?.some((name) => name.toLowerCase() === text.toLowerCase());
  const values = (known ? [text] : text.split(",")).map((v) => (v.trim() && Number.isFinite(Number(v)) && !known ? Number(v) : v));
  return values.length > 1 ? values : values[0];
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

/** uint8 [batch, height, width, 1 or 3] as one PNG, the pictures one below the other. */
function png({ shape: [batch, height, width, channels], data }) {
  const rows = Buffer.alloc(batch * height * (width * channels + 1));
  for (let y = 0; y < batch * height; y++) rows.set(data.subarray(y * width * channels, (y + 1) * width * channels), y * (width * channels + 1) + 1);
  const chunk = (name, body) => {
    const whole = Buffer.alloc(12 + body.length);
    whole.writeUInt32BE(body.length);
    whole.write(name, 4, "latin1");
    whole.set(body, 8);
    whole.writeUInt32BE(crc32(whole.subarray(4, -4)), whole.length - 4);
    return whole;
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width);
  head.writeUInt32BE(batch * height, 4);
  head.set([8, { 1: 0, 3: 2 }[channels], 0, 0, 0], 8);
  const magic = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");
  return Buffer.concat([magic, chunk("IHDR", head), chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0))]);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(`Error: ${String(error.message).split("\n")[0]}`);
    process.exitCode = 1;
  });
}
