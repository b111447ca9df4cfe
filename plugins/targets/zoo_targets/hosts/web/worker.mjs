// Runs the graphs in a worker, so that the page stays responsive while they compute, and can end them.
//
// For {id, what, …} it answers {id, result} or {id, error: {name, message}}, and before that {id, news}.

import { array, compare, complete, count, taskOf, toBytes } from "./ports.mjs";
import { read, readAll, readJson, readRaw } from "./files.mjs";

const device = new URL(import.meta.url).searchParams.get("device"); // wasm or webgpu
const sessions = new Map();
let model, files, weights, ort;

const answers = {
  /**
   * Loads runtime, manifest and weights; gives the manifest and the files.
   *
   * `kept` are the files that an earlier worker gave: a Blob is shared, so a worker that replaces another does not load again.
   */
  async open({ kept = {}, tell }) {
    files = kept;
    model = await readJson("model.json");
    ort = await import(device === "webgpu" ? "./runtime/ort.webgpu.min.mjs" : "./runtime/ort.wasm.min.mjs");
    ort.env.wasm.wasmPaths = new URL("runtime/", import.meta.url).href;
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
    return { model, files, threads: ort.env.wasm.numThreads, device };
  },

  /** Opens a task's graph. */
  async load({ task }) {
    taskOf(model, task);
    if (sessions.has(task)) return;
    const graph = await readModelFile(`${task}.onnx`);
    sessions.set(task, await ort.InferenceSession.create(graph, { executionProviders: [device], externalData: weights }));
  },

  /**
   * One call: ports in; arrays of all ports, seconds, and `pace` out, which is the seconds per unit of work.
   *
   * With `watched` it tells its progress: {step, steps, inputs, outputs} where the model has the parts of the loop, else
   * {expected}, in seconds, by `pace` or, without one, by a golden case that is not larger than the call. It also tells the
   * files that it read.
   */
  async run({ task, ports, watched, pace, tell }) {
    const inputs = complete(model, task, ports), parts = watched && partsOf(task), work = workOf(task, inputs);
    for (const name of parts || [task]) await answers.load({ task: name });
    tell({ files });
    if (watched && !parts) tell({ expected: work * (pace ?? await measure(task, work)) });
    const start = performance.now();
    const outputs = await (parts ? steps(parts, inputs, tell) : call(task, inputs));
    const seconds = (performance.now() - start) / 1000;
    return { inputs, outputs, seconds, pace: seconds / work };
  },

  /** The golden cases of one task, or of all; with `keep`, also the bytes of their outputs. */
  async verify({ task, keep }) {
    const rows = [];
    for (const golden of await readJson("golden/cases.json")) {
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
};

async function call(task, inputs) {
  const { inputs: taken, outputs: ports } = taskOf(model, task);
  const feeds = {};
  for (const name of Object.keys(taken)) feeds[name] = new ort.Tensor(inputs[name].dtype, inputs[name].data, inputs[name].shape);
  const results = await sessions.get(task).run(feeds);
  const outputs = {};
  for (const [name, { dtype }] of Object.entries(ports))
    outputs[name] = array(dtype, [...results[name].dims], (await results[name].getData()).slice());
  return outputs;
}

// --- Progress ---------------------------------------------------------------------------------------------------------

/** The graphs `begin`, `step` and `end` of a task, if the model has them (the repository's docs/decisions/0006-host-loop.md). */
function partsOf(task) {
  const names = ["begin", "step", "end"].map((part) => `${task}_${part}`);
  return names.every((name) => model.tasks[name]?.part_of === task) && names;
}

/** A sampler's loop, one step after the other; the picture that each step predicts is told now and then. */
async function steps([begin, step, end], inputs, tell) {
  const begun = await call(begin, inputs);
  let { x, previous_x0, plan } = begun;
  const width = plan.shape[1], rows = [];
  for (let at = 0; at < plan.data.length && plan.data.subarray(at, at + width).some(Boolean); at += width)
    rows.push(array("float32", [width], plan.data.slice(at, at + width)));
  const start = performance.now();
  let shown = 0; // the share of time for pictures in between stays below a tenth
  for (const [i, row] of rows.entries()) {
    const index = array("int64", [], BigInt64Array.of(BigInt(i)));
    ({ next_x: x, x0: previous_x0 } = await call(step, { ...begun, ...inputs, x, previous_x0, row, index }));
    const now = performance.now(), news = { step: i + 1, steps: rows.length };
    if (10 * shown < now - start) {
      Object.assign(news, { inputs, outputs: await call(end, { x: predicted(previous_x0, x) }) });
      shown += performance.now() - now;
    }
    tell(news);
  }
  return call(end, { x });
}

/** The image that a step predicts: the first channels of what it hands on, where some samplers remember more. */
function predicted(memory, x) {
  const size = count(x.shape.slice(1)), all = count(memory.shape.slice(1));
  const data = new Float32Array(count(x.shape));
  for (let i = 0; i < x.shape[0]; i++) data.set(memory.data.subarray(i * all, i * all + size), i * size);
  return array("float32", x.shape, data);
}

/** How much a call computes, relative to other calls of its task: its largest input, as often as whole numbers say. */
function workOf(task, inputs) {
  let work = Math.max(...Object.values(inputs).map(({ shape }) => count(shape)));
  for (const [name, port] of Object.entries(model.tasks[task].inputs))
    if (port.field === "number" && port.codec === "integers" && !port.shape.length) work *= Number(inputs[name].data[0]);
  return work;
}

/** Seconds per unit of work, by the largest golden case of the task within `most` units; else the smallest. */
async function measure(task, most) {
  const cases = [];
  for (const golden of await readJson("golden/cases.json"))
    if (golden.task === task) {
      const inputs = await readAll(golden.inputs);
      cases.push({ inputs, work: workOf(task, inputs) });
    }
  cases.sort((a, b) => a.work - b.work);
  const { inputs, work } = cases.findLast((one) => one.work <= most) ?? cases[0];
  const start = performance.now();
  await call(task, inputs);
  return (performance.now() - start) / 1000 / work;
}

// --- Files ------------------------------------------------------------------------------------------------------------

/** A file of model/, whole: its size and, where the browser can, its SHA-256 are what the manifest says. */
async function readModelFile(name, tell) {
  if (files[name]) return new Uint8Array(await files[name].arrayBuffer());
  const bytes = await read(`model/${name}`, tell), { size, sha256 } = model.files[name];
  if (bytes.length !== size) throw new RangeError(`model/${name} has ${bytes.length} bytes of ${size}: copy the folder again`);
  if (self.crypto?.subtle) { // not available over plain http, except on localhost
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== sha256) throw new RangeError(`model/${name} is damaged: copy the folder again`);
  }
  files[name] = new Blob([bytes]);
  return bytes;
}

self.onmessage = async ({ data: { id, what, ...details } }) => {
  try {
    self.postMessage({ id, result: await answers[what]({ ...details, tell: (news) => self.postMessage({ id, news }) }) });
  } catch (error) {
    self.postMessage({ id, error: { name: error?.name ?? "Error", message: String(error?.message ?? error).split("\n")[0] } });
  }
};
