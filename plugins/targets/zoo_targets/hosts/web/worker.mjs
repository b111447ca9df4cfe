// Runs the graphs in a worker, so that the page stays responsive while they compute.
//
// For {id, what, …} it answers {id, result} or {id, error: {name, message}}; while loading, {id, loaded, total} in bytes.

import { array, compare, complete, count, fromBytes, taskOf, toBytes } from "./ports.mjs";

const place = (path) => new URL(path, import.meta.url);
const device = new URL(import.meta.url).searchParams.get("device"); // wasm or webgpu
const sessions = new Map();
let model, weights, ort;

const answers = {
  /** Loads runtime, manifest and weights; the manifest. */
  async open({ tell }) {
    model = JSON.parse(new TextDecoder().decode(await read("model.json")));
    ort = await import(device === "webgpu" ? "./runtime/ort.webgpu.min.mjs" : "./runtime/ort.wasm.min.mjs");
    ort.env.wasm.wasmPaths = place("runtime/").href;
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    ort.env.logLevel = "error";
    const names = Object.keys(model.files).filter((name) => name.endsWith(".safetensors") && name !== "golden.safetensors");
    const total = names.reduce((sum, name) => sum + model.files[name].size, 0);
    let before = 0;
    weights = [];
    for (const path of names) {
      weights.push({ path, data: await readModelFile(path, (loaded) => tell({ loaded: before + loaded, total })) });
      before += model.files[path].size;
    }
    return { model, threads: ort.env.wasm.numThreads, device };
  },

  /** Opens a task's graph. */
  async load({ task }) {
    taskOf(model, task);
    if (sessions.has(task)) return;
    const graph = await readModelFile(`${task}.onnx`);
    sessions.set(task, await ort.InferenceSession.create(graph, { executionProviders: [device], externalData: weights }));
  },

  /** One call: ports in, arrays and the seconds that it took out. */
  async run({ task, ports }) {
    const inputs = complete(model, task, ports);
    await answers.load({ task });
    const start = performance.now();
    return { outputs: await call(task, inputs), seconds: (performance.now() - start) / 1000 };
  },

  /** The golden cases of one task, or of all; with `keep`, also the bytes of their outputs. */
  async verify({ task, keep }) {
    const rows = [];
    for (const golden of JSON.parse(new TextDecoder().decode(await read("golden/cases.json")))) {
      if (task && golden.task !== task) continue;
      await answers.load({ task: golden.task });
      const actual = await call(golden.task, await readAll(golden.inputs));
      for (const [port, raw] of Object.entries(golden.outputs)) {
        const row = { task: golden.task, case: golden.case, port, file: raw.file };
        rows.push({ ...row, ...compare(model, model.tasks[golden.task].outputs[port], await readRaw(raw), actual[port]), bytes: keep && toBytes(actual[port]) });
      }
    }
    return rows;
  },

  /** The first picture's inputs of the golden case with the largest ones: an example of what a task takes. */
  async example({ task }) {
    const cases = JSON.parse(new TextDecoder().decode(await read("golden/cases.json"))).filter((one) => one.task === task);
    const size = ({ inputs }) => Math.max(...Object.values(inputs).map(({ shape }) => count(shape.slice(1))));
    const ports = model.tasks[task].inputs, example = {};
    for (const [name, { dtype, shape, data }] of Object.entries(await readAll(cases.sort((a, b) => size(b) - size(a))[0].inputs))) {
      const one = ports[name].shape[0] === "batch" ? [1, ...shape.slice(1)] : shape;
      example[name] = array(dtype, one, data.slice(0, count(one)));
    }
    return example;
  },
};

async function call(task, inputs) {
  const ports = taskOf(model, task).outputs;
  const feeds = {};
  for (const [name, { dtype, shape, data }] of Object.entries(inputs)) feeds[name] = new ort.Tensor(dtype, data, shape);
  const results = await sessions.get(task).run(feeds);
  const outputs = {};
  for (const [name, { dtype }] of Object.entries(ports))
    outputs[name] = array(dtype, [...results[name].dims], (await results[name].getData()).slice());
  return outputs;
}

async function readAll(raws) {
  const arrays = {};
  for (const [name, raw] of Object.entries(raws)) arrays[name] = await readRaw(raw);
  return arrays;
}

const readRaw = async (raw) => fromBytes(raw.dtype, raw.shape, await read(`golden/${raw.file}`));

/** A file of model/, whole: its size and, where the browser can, its SHA-256 are what the manifest says. */
async function readModelFile(name, tell) {
  const bytes = await read(`model/${name}`, tell), { size, sha256 } = model.files[name];
  if (bytes.length !== size) throw new RangeError(`model/${name} has ${bytes.length} bytes of ${size}: copy the folder again`);
  if (self.crypto?.subtle) { // not available over plain http, except on localhost
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== sha256) throw new RangeError(`model/${name} is damaged: copy the folder again`);
  }
  return bytes;
}

async function read(path, tell = () => {}) {
  const response = await fetch(place(path));
  if (!response.ok) throw new Error(`${path} cannot be read: ${response.status} ${response.statusText}`);
  const parts = [], reader = response.body.getReader();
  let loaded = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    tell(loaded += value.length);
  }
  const whole = new Uint8Array(loaded);
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.length; }
  return whole;
}

self.onmessage = async ({ data: { id, what, ...details } }) => {
  try {
    self.postMessage({ id, result: await answers[what]({ ...details, tell: (news) => self.postMessage({ id, ...news }) }) });
  } catch (error) {
    self.postMessage({ id, error: { name: error?.name ?? "Error", message: String(error?.message ?? error).split("\n")[0] } });
  }
};
