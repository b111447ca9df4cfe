// The page of `zoo export --target web` and of `zoo play`: a form generated from the ports in model.json, and the task's
// outputs below it.
//
//   index.html, style.css   structure and style
//   app.mjs                 this file: the form's fields (`FIELDS`), a call (`go`), its outputs (`give`), the golden cases
//   pictures.mjs            picture files and canvases to arrays and back
//   worker.mjs              loads the model and runs its graphs in a worker
//   ports.mjs               checks of inputs and comparisons, shared with Node (in the repository: hosts/javascript/)
//   runtime/                ONNX Runtime Web, pinned
//
// Ports are described by data in model.json: `field` is how the page asks for a value, `shown` how it shows one, `codec`
// the type of its arrays. What a model says about itself (names, classes, summaries) reaches the page only as textContent,
// never as HTML.

import { array, taskOf } from "./ports.mjs";
import { drawPicture, drawTokens, readPicture, repeat } from "./pictures.mjs";

const $ = (id) => document.getElementById(id);
const wanted = new URL(location.href).searchParams; // ?device=wasm|webgpu, ?report=PATH
let worker, model, task, fields = {}, last = {};

/** An element with properties and children; text is set as text. */
function make(tag, properties = {}, ...children) {
  const { data, ...plain } = properties;
  const element = Object.assign(document.createElement(tag), plain);
  for (const [name, value] of Object.entries(data ?? {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const words = (name) => name.replaceAll("_", " ");
const title = (name) => words(name).replace(/^./, (c) => c.toUpperCase());

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const fail = (error) => say(`Error: ${error.message}`, true);

// --- The worker -------------------------------------------------------------------------------------------------------

class Worked {
  #worker; #waiting = new Map(); #next = 0;

  constructor(device) {
    this.device = device;
    this.#worker = new Worker(new URL(`worker.mjs?device=${device}`, import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data: { id, result, error, ...news } }) => {
      const { resolve, reject, tell } = this.#waiting.get(id);
      if ("loaded" in news) return tell(news);
      this.#waiting.delete(id);
      if (error) reject(Object.assign(new Error(error.message), { name: error.name }));
      else resolve(result);
    };
    this.#worker.onerror = (event) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(event.message || "the runtime cannot be loaded"));
    };
  }

  ask(what, details = {}, tell = () => {}) {
    const id = this.#next++;
    this.#worker.postMessage({ id, what, ...details });
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject, tell }));
  }

  end() {
    this.#worker.terminate();
  }
}

async function open(device) {
  const opened = new Worked(device);
  $("progress").classList.add("on");
  try {
    const found = await opened.ask("open", {}, ({ loaded, total }) => {
      $("progress").value = loaded / total;
      say(`Loading ${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`);
    });
    return { opened, ...found };
  } catch (error) {
    opened.end();
    throw error;
  } finally {
    $("progress").classList.remove("on");
  }
}

/** A real GPU, or any GPU if the address requests one. */
async function gpuIsThere() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && (wanted.get("device") === "webgpu" || !(adapter.info?.isFallbackAdapter ?? false));
}

/**
 * WebGPU if it is available and gives the golden outputs of the task, else WebAssembly. The reason is kept for the page.
 */
async function choose(name, device) {
  if (device === "webgpu") {
    try {
      const { opened, model } = await open("webgpu");
      say("Comparing WebGPU with the golden cases");
      const off = (await opened.ask("verify", { task: name })).filter((row) => !row.same);
      if (!off.length) return { opened, model, why: "WebGPU: it gives the golden outputs" };
      opened.end();
      return { ...(await open("wasm")), why: `WebAssembly: WebGPU is off by ${off[0].worst} in ${off[0].port}` };
    } catch (error) {
      return { ...(await open("wasm")), why: `WebAssembly: WebGPU failed (${error.message})` };
    }
  }
  return { ...(await open("wasm")), why: "WebAssembly" };
}

async function start() {
  const gpu = await gpuIsThere();
  const devices = { wasm: "WebAssembly", ...(gpu && { webgpu: "WebGPU" }) };
  $("device").append(...Object.entries(devices).map(([value, text]) => make("option", { value, textContent: text })));
  // The manifest comes first: WebGPU is judged by the golden cases of a task.
  const manifest = await (await fetch("model.json")).json();
  const device = wanted.get("device") ?? (gpu ? "webgpu" : "wasm");
  await use(manifest.default_task, device);
  show();
}

async function use(name, device) {
  worker?.end();
  const chosen = await choose(name, device), { why } = chosen;
  ({ opened: worker, model } = chosen);
  $("device").value = worker.device;
  $("device").title = why;
  document.documentElement.dataset.device = worker.device;
  facts(why);
}

function facts(why) {
  const rows = {
    Model: `${model.name}, version ${model.version}`, "Licence of the weights": model.license, "Runs on": why,
    Weights: `${(Object.entries(model.files).filter(([n]) => n.endsWith(".safetensors") && n !== "golden.safetensors").reduce((s, [, f]) => s + f.size, 0) / 1e6).toFixed(1)} MB, ${model.export.precision ?? "float32"}`,
    Runtime: "ONNX Runtime Web, from this folder",
  };
  $("facts").replaceChildren(...Object.entries(rows).flatMap(([k, v]) => [make("dt", { textContent: k }), make("dd", { textContent: v })]));
}

// --- Tasks and their forms --------------------------------------------------------------------------------------------

function show() {
  document.title = model.name;
  $("name").textContent = model.name;
  $("summary").textContent = model.summary;
  const names = Object.keys(model.tasks).filter((name) => !model.tasks[name].part_of);
  $("tasks").replaceChildren(...names.map((name) => make("button", {
    type: "button", textContent: title(name), onclick: () => select(name), id: `task-${name}`,
    data: { role: "tab", "aria-controls": "form" },
  })));
  $("tasks").onkeydown = (event) => { // arrow keys move between tabs
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = names[(names.indexOf(task) + step + names.length) % names.length];
    select(next);
    $(`task-${next}`).focus();
  };
  select(names.includes(model.default_task) ? model.default_task : names[0]);
}

function select(name) {
  task = name;
  for (const tab of $("tasks").children) {
    const chosen = tab.id === `task-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  const { inputs, outputs, summary } = model.tasks[name];
  $("task-summary").textContent = summary;
  fields = {};
  const shown = [];
  for (const [port, declared] of Object.entries(inputs)) {
    fields[port] = (FIELDS[declared.field] ?? dataField)(port, declared);
    shown.push(fields[port].element);
  }
  $("ports").replaceChildren(...shown);
  const draws = Object.values(outputs).some((port) => port.shown === "pictures");
  $("go").textContent = draws ? "Draw" : "Go";
  $("go").disabled = false;
  $("again").hidden = !Object.values(inputs).some((port) => port.field === "seed");
  $("outputs").replaceChildren(make("p", { className: "empty", textContent: "The model's outputs appear here." }));
  for (const [port, value] of Object.entries(last)) // tokens from `encode` are passed to `decode`
    if (fields[port]?.take && inputs[port].field !== "picture") fields[port].take(value);
  try {
    taskOf(model, name);
  } catch (error) {
    $("go").disabled = true;
    return fail(error);
  }
  say(`Ready, on ${worker.device === "webgpu" ? "WebGPU" : "WebAssembly"}`);
}

/** A port's place in the form: {element, value()}; `take(array)` fills it, `many()` is how many pictures it makes. */
function field(port, declared, control, more = {}) {
  const id = `port-${port}`;
  control.id ||= id;
  const hint = [declared.summary, more.hint].filter(Boolean).join("; ");
  const element = make("div", { className: "port" },
    make("label", { htmlFor: control.id, textContent: title(port) }), more.around ?? control,
    make("p", { className: "hint", id: `${id}-hint`, textContent: hint }));
  control.setAttribute("aria-describedby", `${id}-hint`);
  return { element, ...more.field };
}

function choiceField(port, declared) {
  const control = make("select", { id: `port-${port}` });
  const low = declared.minimum ?? 0, high = declared.maximum ?? low;
  for (let number = low; number <= high; number++) {
    const name = number < 0 ? "anything" : declared.classes?.[number] ?? String(number);
    control.append(make("option", { value: number, textContent: name }));
  }
  control.value = declared.default ?? Math.max(0, low);
  return field(port, declared, control, { field: { value: () => Number(control.value) } });
}

function seedField(port, declared) {
  const seed = make("input", { type: "number", id: `port-${port}`, min: declared.minimum, max: declared.maximum, step: 1, value: draw(), required: true });
  const many = make("select", { title: "How many pictures", id: `port-${port}-many`, data: { "aria-label": "How many pictures" } },
    ...[1, 4, 9, 16].map((n) => make("option", { value: n, textContent: n === 1 ? "1 picture" : `${n} pictures` })));
  many.style.flex = "0 0 8.5rem";
  many.style.width = "8.5rem";
  const first = () => {
    if (seed.value === "" || !Number.isSafeInteger(Number(seed.value))) throw new TypeError(`${port} '${seed.value}' is not an integer up to 2^53 - 1`);
    return Number(seed.value);
  };
  return field(port, declared, seed, {
    around: make("div", { className: "row" }, seed, many), hint: "the same seed gives the same picture everywhere",
    field: {
      value: () => Array.from({ length: Number(many.value) }, (_, i) => first() + i),
      many: () => Number(many.value),
      again: () => { seed.value = draw(); },
    },
  });
}

const draw = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;

function numberField(port, declared) {
  const whole = declared.codec === "integers", low = declared.minimum ?? 0, high = declared.maximum ?? (whole ? 100 : 10);
  const step = whole ? 1 : "any";
  const number = make("input", { type: "number", className: "beside", id: `port-${port}`, min: low, max: high, step, required: true, value: declared.default ?? low });
  // A slider up to a thousand steps is useless: it covers the usual range, and the number next to it the port's range.
  const far = whole ? Math.min(high, Math.max(50, 2 * (declared.default ?? 0))) : high;
  const slider = make("input", { type: "range", min: low, max: far, step: whole ? 1 : (far - low) / 200, value: number.value, tabIndex: -1, data: { "aria-hidden": "true" } });
  slider.oninput = () => { number.value = whole ? slider.value : Number(Number(slider.value).toFixed(3)); };
  number.oninput = () => { slider.value = number.value; };
  return field(port, declared, number, {
    around: make("div", { className: "row" }, slider, number), hint: `${low} to ${high}`,
    field: {
      value: () => {
        if (number.value === "") throw new TypeError(`${port} '${number.value}' is not a number`);
        return Number(number.value);
      },
    },
  });
}

function textField(port, declared) {
  const control = make("textarea", { id: `port-${port}`, rows: 3 });
  return field(port, declared, control, { field: { value: () => control.value } });
}

/** A file by button, by drag and drop, or from the model's own example. */
function dropField(port, declared, { accept, read, preview, hint }) {
  let held;
  const input = make("input", { type: "file", accept, id: `port-${port}`, className: "button", style: "width: 100%" });
  const note = make("p", { className: "hint", textContent: "" });
  const drop = make("div", { className: "drop" }, preview, input, make("p", { className: "hint", textContent: "or drop a file here, or " },
    make("button", { type: "button", textContent: "Use the example", onclick: async () => {
      try {
        const example = await worker.ask("example", { task });
        for (const [name, value] of Object.entries(example)) fields[name]?.take?.(value);
        note.textContent = "the model's own example";
      } catch (error) { fail(error); }
    } })), note);
  const take = (value) => { held = value; preview.hidden = false; made.changed?.(value); };
  const readFile = async (file) => {
    note.textContent = "";
    try { take(await read(file, (text) => { note.textContent = text; })); say(""); }
    catch (error) { held = undefined; preview.hidden = true; fail(error); }
  };
  input.onchange = () => input.files[0] && readFile(input.files[0]);
  drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files[0]) readFile(event.dataTransfer.files[0]);
  };
  preview.hidden = true;
  const made = field(port, declared, input, { around: drop, hint, field: { take } });
  made.value = () => {
    if (!held) throw new TypeError(`${port} is missing: choose a file, or the example`);
    return held;
  };
  return made;
}

function pictureField(port, declared) {
  const preview = make("canvas", { data: { role: "img", "aria-label": `The chosen ${words(port)}` } });
  const made = dropField(port, declared, { accept: "image/*", preview, read: (file, tell) => readPicture(file, declared, tell) });
  made.changed = (value) => {
    drawPicture(preview, value);
    for (const other of Object.values(fields)) other.under?.(value);
  };
  return made;
}

/** A brush over the picture: white is redrawn. With the keyboard: arrows move, space paints, e erases. */
function brushField(port, declared) {
  let mask, under, at = [0, 0], erasing = false;
  const canvas = make("canvas", { id: `port-${port}`, className: "brush", tabIndex: 0, style: "width: 100%; max-width: 18rem",
    data: { role: "img", "aria-label": "Mask: paint what to redraw. Arrow keys move the brush, space paints, e erases." } });
  const size = make("input", { type: "range", min: 1, max: 12, value: 3, title: "Brush size", data: { "aria-label": "Brush size" } });
  const erase = make("button", { type: "button", textContent: "Erase", data: { "aria-pressed": "false" } });
  const clear = make("button", { type: "button", textContent: "Clear" });
  const paint = () => {
    if (!mask) return;
    const [, height, width] = mask.shape;
    if (under) drawPicture(canvas, under);
    else { canvas.width = width; canvas.height = height; }
    const pen = canvas.getContext("2d");
    pen.fillStyle = "rgb(235 80 60 / .65)";
    for (let i = 0; i < width * height; i++) if (mask.data[i] >= 128) pen.fillRect(i % width, Math.floor(i / width), 1, 1);
    if (document.activeElement === canvas) { pen.strokeStyle = "#2f80ed"; pen.strokeRect(at[0] - .5, at[1] - .5, 2, 2); }
  };
  const dab = (x, y, level) => {
    if (!mask) return;
    const [, height, width] = mask.shape, radius = Number(size.value) / 2;
    for (let i = Math.floor(y - radius); i <= y + radius; i++)
      for (let j = Math.floor(x - radius); j <= x + radius; j++)
        if (i >= 0 && j >= 0 && i < height && j < width && Math.hypot(i + .5 - y, j + .5 - x) <= Math.max(radius, .71)) mask.data[i * width + j] = level;
    paint();
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
  };
  canvas.onpointerdown = (event) => { canvas.setPointerCapture(event.pointerId); at = place(event).map(Math.floor); dab(...place(event), erasing ? 0 : 255); };
  canvas.onpointermove = (event) => { if (event.buttons) dab(...place(event), erasing ? 0 : 255); };
  canvas.onfocus = canvas.onblur = paint;
  canvas.onkeydown = (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (move) at = at.map((v, i) => Math.min([canvas.width, canvas.height][i] - 1, Math.max(0, v + move[i])));
    else if (event.key === " ") dab(at[0] + .5, at[1] + .5, 255);
    else if (event.key === "e") dab(at[0] + .5, at[1] + .5, 0);
    else return;
    event.preventDefault();
    paint();
  };
  erase.onclick = () => { erasing = !erasing; erase.setAttribute("aria-pressed", erasing); erase.textContent = erasing ? "Erasing" : "Erase"; };
  clear.onclick = () => { mask?.data.fill(0); paint(); };
  const made = field(port, declared, canvas, {
    around: make("div", {}, canvas, make("div", { className: "row" }, size, erase, clear)),
    hint: "choose a picture, then paint what to redraw",
    field: {
      under: (picture) => {
        under = picture;
        const [batch, height, width] = picture.shape;
        if (mask?.shape[1] !== height || mask.shape[2] !== width) mask = array("uint8", [1, height, width, 1]);
        at = [Math.floor(width / 2), Math.floor(height / 2)];
        void batch;
        paint();
      },
      take: (value) => { mask = array("uint8", [1, ...value.shape.slice(1)], value.data.slice(0, value.data.length / value.shape[0])); paint(); },
      value: () => {
        if (!mask) throw new TypeError(`${port} is missing: choose a picture and paint on it`);
        return mask;
      },
    },
  });
  return made;
}

/** Anything else: from the task before, a file, or the example. */
function dataField(port, declared) {
  const bytes = declared.codec === "bytes";
  const preview = make("canvas", { data: { role: "img", "aria-label": words(port) } });
  const text = make("pre");
  const made = dropField(port, declared, {
    accept: bytes ? "" : ".npy", preview: make("div", {}, preview, text), hint: bytes ? "a file" : "a .npy file",
    read: async (file) => {
      const data = new Uint8Array(await file.arrayBuffer());
      return bytes && !file.name.endsWith(".npy") ? array("uint8", [data.length], data) : readNpy(port, declared, data);
    },
  });
  made.changed = (value) => {
    preview.hidden = declared.shown !== "codes";
    if (declared.shown === "codes") drawTokens(preview, value);
    text.textContent = `${value.dtype} [${value.shape.join(", ")}]${value.data.length <= 8 ? `: ${Array.from(value.data).join(", ")}` : ""}`;
  };
  return made;
}

const FIELDS = {
  picture: pictureField, brush: brushField, choice: choiceField, seed: seedField, number: numberField, text: textField,
  data: dataField,
};

const NPY = { "|u1": ["uint8", Uint8Array], "<i8": ["int64", BigInt64Array], "<f4": ["float32", Float32Array] };

function readNpy(port, declared, bytes) {
  const view = new DataView(bytes.buffer), magic = bytes[0] === 0x93 && bytes.length > 10, end = magic ? 10 + view.getUint16(8, true) : 0;
  const head = new TextDecoder("latin1").decode(bytes.subarray(10, end));
  const [dtype, Type] = NPY[/'descr': '(.*?)'/.exec(head)?.[1]] ?? [];
  const shape = /'shape': \((.*?)\)/.exec(head)?.[1]?.split(",").filter((n) => n.trim()).map(Number);
  if (dtype !== declared.dtype || !shape || head.includes("True"))
    throw new TypeError(`${port} must be a C-ordered .npy array of ${declared.dtype}`);
  const data = bytes.slice(end);
  if (data.length !== shape.reduce((a, b) => a * b, 1) * Type.BYTES_PER_ELEMENT) throw new RangeError(`the .npy file is cut short`);
  return array(dtype, shape, new Type(data.buffer));
}

// --- A call -----------------------------------------------------------------------------------------------------------

async function go() {
  const started = performance.now(), name = task;
  $("go").disabled = $("again").disabled = true;
  const clock = setInterval(() => say(`Drawing, ${((performance.now() - started) / 1000).toFixed(1)} s`), 100);
  try {
    const ports = {}, pictures = Math.max(1, ...Object.values(fields).map((f) => f.many?.() ?? 1));
    for (const [port, one] of Object.entries(fields)) {
      const value = one.value();
      ports[port] = value.shape?.[0] === 1 && model.tasks[name].inputs[port].shape[0] === "batch" && pictures > 1 ? repeat(value, pictures) : value;
    }
    const { outputs, seconds } = await worker.ask("run", { task: name, ports });
    if (name !== task) return; // another task was chosen in the meantime
    for (const [port, value] of Object.entries(outputs)) last[port] = value;
    give(outputs);
    clearInterval(clock);
    say(`${seconds.toFixed(2)} s on ${worker.device === "webgpu" ? "WebGPU" : "WebAssembly"}`);
    document.documentElement.dataset.drawn = String(Number(document.documentElement.dataset.drawn ?? 0) + 1);
  } catch (error) {
    clearInterval(clock);
    fail(error);
  } finally {
    clearInterval(clock);
    $("go").disabled = $("again").disabled = false;
  }
}

function give(outputs) {
  const shown = [];
  for (const [port, value] of Object.entries(outputs)) {
    const declared = model.tasks[task].outputs[port];
    const shares = declared.codec === "floats" && declared.minimum === 0 && declared.maximum === 1 && value.shape.length === 2;
    if (declared.shown === "pictures") shown.push(pictures(port, value));
    else if (declared.shown === "codes") shown.push(codes(port, value));
    else if (shares && value.shape[1] <= 100) shown.push(bars(port, value, outputs));
    else shown.push(make("figure", {}, make("figcaption", { textContent: title(port) }), make("pre", { textContent: line(declared, value) })));
  }
  $("outputs").replaceChildren(...shown);
}

function line(declared, value) {
  const numbers = Array.from(value.data.slice(0, 200), Number);
  const named = declared.shown === "names" ? numbers.map((n) => declared.classes?.[n] ?? n) : numbers.map((n) => Number(n.toPrecision(6)));
  return named.join(", ") + (value.data.length > 200 ? ", …" : "");
}

function pictures(port, value) {
  const canvases = Array.from({ length: value.shape[0] }, (_, i) => {
    const canvas = make("canvas", { data: { role: "img", "aria-label": `${title(port)} ${i + 1} of ${value.shape[0]}`, "data-port": port } });
    drawPicture(canvas, value, i);
    return canvas;
  });
  const save = make("button", { type: "button", textContent: "Save as PNG", onclick: () => {
    for (const [i, canvas] of canvases.entries()) canvas.toBlob((blob) => download(blob, `${model.name}-${task}${canvases.length > 1 ? `-${i}` : ""}.png`));
  } });
  return make("figure", {}, make("div", { className: value.shape[0] === 1 ? "pictures one" : "pictures" }, ...canvases), make("p", {}, save));
}

function codes(port, value) {
  const canvas = make("canvas", { style: "width: min(16rem, 100%)", data: { role: "img", "aria-label": title(port), "data-port": port } });
  drawTokens(canvas, value);
  const save = make("button", { type: "button", textContent: "Save as .npy", onclick: () => download(new Blob([npy(value)]), `${model.name}-${port}.npy`) });
  const decode = Object.keys(model.tasks).find((name) => model.tasks[name].inputs[port]);
  const onward = decode && make("button", { type: "button", textContent: title(decode), onclick: () => select(decode) });
  return make("figure", {}, canvas, make("figcaption", { textContent: `${value.shape[1]}x${value.shape[2]} ${words(port)}, one colour each` }),
    make("p", { className: "actions", style: "justify-content: center" }, ...(onward ? [onward] : []), save));
}

function bars(port, value, outputs) {
  const label = Object.keys(outputs).find((name) => model.tasks[task].outputs[name].shown === "names");
  const names = label ? model.tasks[task].outputs[label].classes ?? [] : [];
  const rows = Array.from(value.data.slice(0, value.shape[1]), (v, i) => [names[i] ?? String(i), v]).sort((a, b) => b[1] - a[1]).slice(0, 20);
  const bar = ([name, v]) => {
    const fill = make("i");
    fill.style.width = `${100 * Math.min(1, Math.max(0, v))}%`;
    return make("li", {}, fill, make("span", { textContent: name }), make("span", { textContent: v.toFixed(3) }));
  };
  return make("figure", {}, make("figcaption", { textContent: title(port) }), make("ul", { className: "bars" }, ...rows.map(bar)));
}

function npy({ dtype, shape, data }) {
  const descr = Object.keys(NPY).find((key) => NPY[key][0] === dtype);
  const head = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
  const text = `\x93NUMPY\x01\x00..${head.padEnd(Math.ceil((head.length + 11) / 64) * 64 - 11)}\n`;
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  new DataView(bytes.buffer).setUint16(8, bytes.length - 10, true);
  const whole = new Uint8Array(bytes.length + data.byteLength);
  whole.set(bytes);
  whole.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), bytes.length);
  return whole;
}

function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// --- Golden cases -----------------------------------------------------------------------------------------------------

async function check(keep = false) {
  say("Running the golden cases");
  const rows = await worker.ask("verify", { keep });
  $("checked").tBodies[0].replaceChildren(...rows.map((row) => make("tr", {}, ...[
    `${row.task} ${row.case}`, row.port, String(Number(row.worst.toPrecision(3))), `${Math.floor(row.equal * 10000) / 100} %`,
    row.worst === 0 ? "identical" : row.same ? "within tolerance" : "differs",
  ].map((text) => make("td", { textContent: text })))));
  $("checked").hidden = false;
  const off = rows.filter((row) => !row.same).length;
  say(off ? `${off} of ${rows.length} golden outputs differ here` : `All ${rows.length} golden outputs come out the same here`, off > 0);
  return rows;
}

/** For `zoo verify --run-host`: the golden cases' outputs, sent back to the server that serves this page. */
async function report(path) {
  const send = (name, body) => fetch(`${path}/${name}`, { method: "POST", body });
  try {
    for (const row of await check(true)) await send(row.file, row.bytes);
    await send("done", worker.device);
  } catch (error) {
    await send("failed", `${error.name}: ${error.message}`);
  }
}

$("form").onsubmit = (event) => { event.preventDefault(); go(); };
$("again").onclick = () => { for (const one of Object.values(fields)) one.again?.(); go(); };
$("check").onclick = () => check().catch(fail);
$("device").onchange = () => use(task, $("device").value).then(() => select(task)).catch(fail);

start().then(() => {
  document.documentElement.dataset.ready = "yes";
  if (wanted.get("report")) return report(wanted.get("report"));
}).catch((error) => {
  fail(error);
  if (wanted.get("report")) fetch(`${wanted.get("report")}/failed`, { method: "POST", body: error.message });
});
