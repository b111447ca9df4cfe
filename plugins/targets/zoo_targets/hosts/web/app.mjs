// The page of `zoo export --target web` and of `zoo play`: a form generated from the ports in model.json, and the task's
// outputs beside it.
//
//   index.html, style.css   structure and style
//   app.mjs                 this file: the worker, tasks, examples, a call (`go`), live calls, the address, the golden cases
//   live.mjs                one live call at a time, the newest
//   fields.mjs              the form's fields, by the `field` of a port
//   outputs.mjs             outputs, by the `shown` of a port
//   pictures.mjs            picture files and canvases to arrays and back
//   videos.mjs              the same for videos, which it plays
//   files.mjs, dom.mjs      the folder's files and .npy; elements
//   worker.mjs              loads the model and runs its graphs in a worker
//   ports.mjs               checks of inputs and comparisons, shared with Node (in the repository: hosts/javascript/)
//   runtime/                ONNX Runtime Web, pinned
//
// Ports are described by data in model.json: `field` is how the page asks for a value, `shown` how it shows one, `codec`
// the type of its arrays. What a model says about itself (names, classes, summaries) reaches the page only as textContent,
// never as HTML.

import { make, title } from "./dom.mjs";
import { fieldOf } from "./fields.mjs";
import { readAll, readJson } from "./files.mjs";
import { Newest } from "./live.mjs";
import { redraw, show, tilesOf, widthOf } from "./outputs.mjs";
import { pick, refit, repeat } from "./pictures.mjs";
import { count, taskOf } from "./ports.mjs";

const $ = (id) => document.getElementById(id);
const wanted = new URL(location.href).searchParams; // ?device=wasm|webgpu, ?report=PATH
const NAMES = { wasm: "WebAssembly", webgpu: "WebGPU" };
const golden = {}; // the golden cases of each task
const pace = {}; // seconds per unit of work of each task, measured here
let model, worker, task, fields = {}, running, fresh; // fresh: a task whose form and result nobody has used yet

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const fail = (error) => say(`Error: ${error.message}`, true);

const names = () => Object.keys(model.tasks).filter((name) => !model.tasks[name].part_of);

// --- The worker -------------------------------------------------------------------------------------------------------

class Worked {
  #worker; #waiting = new Map(); #next = 0;

  constructor(device) {
    this.device = device; // once open, also `threads`
    this.#worker = new Worker(new URL(`worker.mjs?device=${device}`, import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data: { id, result, error, news } }) => {
      const { resolve, reject, tell } = this.#waiting.get(id);
      if (news) return tell(news);
      this.#waiting.delete(id);
      if (error) reject(Object.assign(new Error(error.message), { name: error.name }));
      else resolve(result);
    };
    this.#worker.onerror = (event) => this.#rejectAll(new Error(event.message || "the runtime cannot be loaded"));
  }

  ask(what, details = {}, tell = () => {}) {
    const id = this.#next++;
    this.#worker.postMessage({ id, what, ...details });
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject, tell }));
  }

  /** Ends the worker, and what it computes. */
  end() {
    this.#worker.terminate();
    this.#rejectAll(new DOMException("ended", "AbortError"));
  }

  #rejectAll(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

let kept; // the model's files, for workers after the first one

async function open(device) {
  const opened = new Worked(device);
  $("progress").classList.add("on");
  try {
    ({ files: kept, threads: opened.threads } = await opened.ask("open", { kept }, ({ loaded, total }) => {
      $("progress").value = loaded / total;
      say(`Loading ${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`);
    }));
    return opened;
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
      const opened = await open("webgpu");
      say("Comparing WebGPU with the golden cases");
      const off = (await opened.ask("verify", { task: name })).filter((row) => !row.same);
      if (!off.length) return { opened, why: "WebGPU: it gives the golden outputs" };
      opened.end();
      return { opened: await open("wasm"), why: `WebAssembly: WebGPU is off by ${off[0].worst} in ${off[0].port}` };
    } catch (error) {
      return { opened: await open("wasm"), why: `WebAssembly: WebGPU failed (${error.message})` };
    }
  }
  return { opened: await open("wasm"), why: "WebAssembly" };
}

let loaded = false, replaced; // a promise, while a worker replaces one that was ended

async function use(name, device) {
  loaded = false;
  ready();
  await replaced;
  worker?.end();
  const { opened, why } = await choose(name, device);
  worker = opened;
  loaded = true;
  $("device").value = worker.device;
  $("device").title = why;
  document.documentElement.dataset.device = worker.device;
  facts(why);
  ready();
}

/** Lets the user draw if the worker is there and this page knows the task's codecs. */
function ready() {
  $("go").disabled = $("again").disabled = true;
  if (!loaded) return;
  try {
    taskOf(model, task);
  } catch (error) {
    return fail(error);
  }
  $("go").disabled = $("again").disabled = false;
  say(`Ready, on ${NAMES[worker.device]}`);
}

function facts(why) {
  const weights = Object.entries(model.files).filter(([name]) => name.endsWith(".safetensors") && name !== "golden.safetensors");
  const rows = {
    Model: `${model.name}, version ${model.version}`, "Licence of the weights": model.license, "Runs on": why,
    Weights: `${(weights.reduce((sum, [, { size }]) => sum + size, 0) / 1e6).toFixed(1)} MB, ${model.export.precision ?? "float32"}`,
    Runtime: "ONNX Runtime Web, from this folder",
  };
  $("facts").replaceChildren(...Object.entries(rows).flatMap(([k, v]) => [make("dt", { textContent: k }), make("dd", { textContent: v })]));
}

// --- The first look ---------------------------------------------------------------------------------------------------

async function start() {
  model = await readJson("model.json");
  for (const { task: name, inputs, outputs } of await readJson("golden/cases.json")) (golden[name] ??= []).push({ inputs, outputs });
  document.title = $("name").textContent = model.name;
  $("summary").textContent = model.summary;
  $("tasks").replaceChildren(...names().map((name) => make("button", {
    type: "button", textContent: title(name), title: model.tasks[name].summary, onclick: () => select(name).catch(fail), id: `task-${name}`,
    data: { role: "tab", "aria-controls": "panel" },
  })));
  $("tasks").onkeydown = (event) => { // arrow keys move between tabs
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = names(), next = all[(all.indexOf(task) + step + all.length) % all.length];
    select(next).catch(fail);
    $(`task-${next}`).focus();
  };
  const gpu = await gpuIsThere();
  $("device").append(...Object.keys(NAMES).filter((name) => name === "wasm" || gpu).map((value) => make("option", { value, textContent: NAMES[value] })));
  const linked = read();
  await select([linked.get("task"), model.default_task].find((name) => names().includes(name)) ?? names()[0]);
  await use(task, wanted.get("device") ?? (gpu ? "webgpu" : "wasm"));
  await follow(linked);
}

/** Shows a task: its form, and its golden cases as examples. */
async function select(name) {
  if (running) cancel();
  live.forget();
  task = name;
  fresh = true;
  for (const tab of $("tasks").children) {
    const chosen = tab.id === `task-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  $("panel").setAttribute("aria-labelledby", `task-${name}`);
  const { inputs, summary } = model.tasks[name];
  $("task-summary").textContent = summary;
  fields = {};
  for (const [port, declared] of Object.entries(inputs)) fields[port] = fieldOf(port, declared, { changed, fail, example: () => example().catch(fail) });
  $("ports").replaceChildren(...Object.values(fields).map(({ element }) => element));
  const draws = Object.values(inputs).some((port) => port.field === "seed");
  $("live").checked = following ?? isFast(inputs);
  if (following === undefined && $("live").checked) for (const one of Object.values(fields)) one.grid?.(4);
  $("go").textContent = draws ? "Draw" : "Run";
  $("again").hidden = !draws;
  give("Examples", "");
  ready();
  const tiles = await examples(name);
  if (task !== name) return; // another task was chosen in the meantime
  if (tiles.length && fresh) {
    filling = true;
    fill(tiles[0], false);
    filling = false;
    give("Examples", "The model's golden cases: random inputs, many of them unusual, and the outputs that it must give.",
      show(tiles, { declared: model.tasks[name], pairs: true, actions: actions(name, true), file: `${model.name}-${name}-example` }));
  }
}

/** Some elements of a task's golden cases: first those with large pictures of things, not of patterns, and usual numbers. */
async function examples(name) {
  const declared = model.tasks[name], tiles = [];
  for (const one of golden[name] ?? []) {
    one.call ??= { inputs: await readAll(one.inputs), outputs: await readAll(one.outputs) };
    tiles.push(...tilesOf(one.call, declared));
  }
  const size = ({ call }) => Math.max(...Object.values(call.inputs).map(({ shape }) => count(shape.slice(1))));
  const odd = ({ call, index }) => Object.entries(declared.inputs).reduce((sum, [port, { field, default: usual, shape }]) => {
    if (field !== "number" || !(usual > 0)) return sum;
    const value = Number(call.inputs[port].data[shape.length ? index : 0]);
    return sum + Math.abs(Math.log((value + usual / 10) / (1.1 * usual)));
  }, 0);
  // Most of a thing's picture is its background; patterns, which golden cases have too, have none.
  const pattern = ({ call, index }) => Object.keys(declared.inputs).some((port) => {
    if (declared.inputs[port].field !== "picture") return false;
    const { data } = pick(call.inputs[port], index);
    return data.filter((value) => value === data[0]).length < data.length / 3;
  });
  return tiles.sort((a, b) => size(b) - size(a) || pattern(a) - pattern(b) || odd(a) - odd(b)).slice(0, widthOf(declared) > 1 ? 6 : 8);
}

/** Fills the form with a tile's inputs: with `all`, numbers, classes and seeds too. */
function fill({ call: { inputs }, index }, all) {
  const order = Object.keys(fields).sort((a, b) => Number("under" in fields[a]) - Number("under" in fields[b])); // a picture clears its mask
  for (const port of order)
    if (all || fields[port].needs) fields[port].take(model.tasks[task].inputs[port].shape[0] === "batch" ? pick(inputs[port], index) : inputs[port]);
}

async function example() {
  const [first] = await examples(task);
  if (!first) throw new RangeError("this model has no example of the task");
  fill(first, false);
  for (const one of Object.values(fields)) one.reason?.("the model's own example");
}

/** A new picture or file: what was painted on the one before and what came from it do not belong to it. */
function changed(field) {
  fresh = false;
  if (field.paintable) for (const other of Object.values(fields)) other.under?.(field.held());
  give("Result", `Nothing computed from this yet: press ${$("go").textContent}.`);
  update();
  if ($("status").classList.contains("bad")) ready();
}

function give(heading, note, ...shown) {
  $("result-title").textContent = heading;
  $("result-note").textContent = note;
  $("outputs").replaceChildren(...shown);
  $("link").hidden = true;
}

/** What can be done with a tile: its pictures go to every task that takes such pictures, other outputs by their names. */
const actions = (name, example) => (tile) => {
  const { call, index } = tile, declared = model.tasks[name], onward = [];
  for (const other of names()) {
    const { inputs, summary } = model.tasks[other], taken = {};
    for (const [port, value] of Object.entries(call.outputs)) {
      const { shown, dtype, shape } = declared.outputs[port];
      const same = inputs[port]?.field === "data" && inputs[port].dtype === dtype;
      const takes = { pictures: "picture", video: "video" }[shown];
      const to = same ? port : takes && Object.keys(inputs).find((input) => inputs[input].field === takes && inputs[input].shape.at(-1) === shape.at(-1));
      if (to) taken[to] ??= shape[0] === "batch" ? pick(value, index) : value;
    }
    if (Object.keys(taken).length) onward.push({ text: title(other), title: summary, act: () => send(other, taken).catch(fail) });
  }
  const use = { text: "Use its inputs", title: "Fills the form with them", act: () => { fill(tile, true); say(`The form has the inputs of the example: press ${$("go").textContent}`); } };
  return { onward, more: example ? [use] : [] };
};

/** Goes on to a task with the given inputs. */
async function send(name, inputs) {
  await select(name);
  if (task !== name) return;
  for (const [port, value] of Object.entries(inputs)) {
    const declared = model.tasks[name].inputs[port];
    let reason = "taken from the earlier result";
    fields[port].take(declared.field === "picture" ? refit(value, declared, (text) => { reason += `, ${text}`; }) : value);
    fields[port].reason(reason);
  }
  $(`task-${name}`).focus();
  say(`The result is the input of ${title(name)}: press ${$("go").textContent}`);
}

// --- A call -----------------------------------------------------------------------------------------------------------

async function go() {
  if (running || $("go").disabled) return;
  const name = task, declared = model.tasks[name], before = [$("result-title").textContent, $("result-note").textContent, ...$("outputs").childNodes];
  const once = running = { preview: undefined };
  fresh = false;
  try {
    const { ports, pictures } = filled(declared);
    busy(true);
    const clock = progress();
    try {
      await live.stop();
      await replaced;
      const call = await worker.ask("run", { task: name, ports, watched: true, pace: pace[name] }, (news) => {
        kept = news.files ?? kept;
        clock.tell(news);
        if (news.outputs && once === running) preview(once, name, news);
      });
      pace[name] = call.pace;
      const total = pictures > 1 ? `${pictures} in ` : "";
      give("Result", `${total}${call.seconds.toFixed(2)} s on ${NAMES[worker.device]}`,
        show(tilesOf(call, declared), { declared, pairs: pictures === 1, actions: actions(name, false), file: `${model.name}-${name}` }));
      write();
      say(`Done: ${total}${call.seconds.toFixed(2)} s on ${NAMES[worker.device]}`);
      document.documentElement.dataset.drawn = String(Number(document.documentElement.dataset.drawn ?? 0) + 1);
    } finally {
      clock.end();
    }
  } catch (error) {
    if (once.preview) give(...before);
    if (error.name !== "AbortError") fail(error);
  } finally {
    if (running === once) running = undefined;
    busy(false);
  }
}

/** The form's values: one per port, and how many pictures they are for. Throws what a field throws. */
function filled(declared) {
  const ports = {}, pictures = Math.max(1, ...Object.values(fields).map((one) => one.many?.() ?? 1));
  for (const [port, one] of Object.entries(fields)) {
    const value = one.value();
    ports[port] = value.shape?.[0] === 1 && declared.inputs[port].shape[0] === "batch" && pictures > 1 ? repeat(value, pictures) : value;
  }
  return { ports, pictures };
}

/** Shows the picture that a sampler predicts before it is done. */
function preview(once, name, call) {
  const declared = model.tasks[name];
  if (once.preview && redraw(once.preview, declared, call.outputs)) return;
  once.preview = show(tilesOf(call, declared), { declared, pairs: false, actions: () => ({}), file: `${model.name}-${name}` });
  once.preview.classList.add("preview");
  give("Drawing", "What the model expects to get, step by step", once.preview);
}

/** The bar and the line under it. */
function progress() {
  const start = performance.now(), seconds = () => (performance.now() - start) / 1000;
  let line = () => `Opening the model, ${seconds().toFixed(1)} s`, from = 0;
  const bar = $("progress");
  bar.classList.add("on");
  bar.removeAttribute("value");
  let expected;
  const timer = setInterval(() => {
    $("clock").textContent = line();
    if (expected) bar.value = Math.min(.97, (seconds() - from) / expected);
  }, 100);
  return {
    tell: (news) => {
      if (news.steps) {
        bar.value = news.step / news.steps;
        line = () => `Step ${news.step} of ${news.steps}, ${seconds().toFixed(1)} s`;
      } else if (news.expected) {
        ({ expected } = news);
        from = seconds();
        line = () => `${(seconds() - from).toFixed(1)} s of about ${expected.toFixed(expected < 10 ? 1 : 0)} s`;
      }
      $("clock").textContent = line();
    },
    end: () => {
      clearInterval(timer);
      bar.classList.remove("on");
      bar.value = 0;
      $("clock").textContent = "";
    },
  };
}

/** Cancel takes the place of the button that started a call, and its focus. */
function busy(on) {
  const focused = [$("go"), $("again"), $("cancel")].includes(document.activeElement);
  $("go").hidden = on;
  $("cancel").hidden = !on;
  $("again").disabled = on || $("go").disabled;
  $("result").setAttribute("aria-busy", on);
  if (focused) (on ? $("cancel") : $("go")).focus();
  if (!on) return;
  say("Drawing");
  if ($("result").getBoundingClientRect().top < 0) $("result").scrollIntoView();
}

/** Ends the call that runs; a graph cannot be interrupted, so its worker is replaced, with the files that it had. */
function cancel() {
  if (!running && !live.busy) return;
  running = undefined;
  live.forget();
  const { device } = worker;
  worker.end();
  replaced = open(device).then((opened) => { worker = opened; });
  replaced.catch(fail);
  say("Cancelled");
}

// --- Live calls -------------------------------------------------------------------------------------------------------
//
// Every change of the form asks for a call; the page reads the form when the call begins, so that it is the newest.

let following; // what the user chose; undefined: whether the task is fast
let filling = false; // with an example that nobody has asked for

/** Whether a task says itself that it draws in a few steps: live calls are on for it from the start. */
const isFast = (inputs) => Object.values(inputs).some(({ field, codec, shape, default: usual }) => field === "number" && codec === "integers" && !shape.length && usual <= 4);

const live = new Newest(async () => {
  const name = task, declared = model.tasks[name];
  fresh = false;
  try {
    const { ports, pictures } = filled(declared);
    await replaced;
    const call = await worker.ask("run", { task: name, ports, watched: false }, (news) => { kept = news.files ?? kept; });
    if (task !== name || running) return;
    const first = Array.from($("outputs").querySelectorAll(".tile")).findIndex((tile) => tile.getAttribute("aria-checked") === "true");
    const threads = worker.device === "wasm" ? `, ${worker.threads} thread${worker.threads > 1 ? "s" : ""}` : "";
    give("Live", `${pictures > 1 ? `${pictures} pictures in ` : ""}${Math.round(1000 * call.seconds)} ms on ${NAMES[worker.device]}${threads}`,
      show(tilesOf(call, declared), { declared, pairs: pictures === 1, actions: actions(name, false), file: `${model.name}-${name}`, first: Math.max(0, first) }));
    if ($("status").classList.contains("bad")) ready();
    document.documentElement.dataset.live = String(Number(document.documentElement.dataset.live ?? 0) + 1);
    if (!live.wanted) write(); // browsers limit how often an address changes
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  }
});

/** After a change of the form. */
function update() {
  if ($("live").checked && loaded && !filling && !running && !$("go").disabled) live.ask();
}

// --- The address ------------------------------------------------------------------------------------------------------
//
// #task=generate&seed=7-10&label=7&steps=20: what a result was drawn from. Whoever opens it gets the same pictures.

const read = () => new URLSearchParams(location.hash.slice(1));

function write() {
  const kept = new URLSearchParams({ task });
  for (const [port, one] of Object.entries(fields)) if (one.text) kept.set(port, one.text());
  history.replaceState(null, "", `#${kept}`);
  $("link").hidden = !navigator.clipboard || !Object.values(fields).some((one) => one.text);
}

/** Fills the form from the address, and draws if nothing else is needed. */
async function follow(linked) {
  const name = linked.get("task");
  if (!names().includes(name)) return;
  if (task !== name) await select(name);
  let found = 0;
  for (const [port, one] of Object.entries(fields)) {
    if (!one.read || !linked.has(port)) continue;
    one.read(linked.get(port));
    found++;
  }
  if (found && Object.values(fields).every((one) => one.read)) await go();
}

// --- Golden cases -----------------------------------------------------------------------------------------------------

async function check(keep = false) {
  say("Running the golden cases");
  await replaced;
  const rows = await worker.ask("verify", { keep });
  $("checked").querySelector("tbody").replaceChildren(...rows.map((row) => make("tr", {}, ...[
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
$("again").onclick = () => { for (const one of Object.values(fields)) one.again?.(); ($("live").checked ? update : go)(); };
$("cancel").onclick = cancel;
$("ports").addEventListener("input", update);
$("live").onchange = () => { following = $("live").checked; update(); };
$("link").onclick = () => navigator.clipboard.writeText(location.href).then(() => say("The link is copied: it draws the same pictures"), fail);
$("check").onclick = () => check().catch(fail);
$("device").onchange = () => use(task, $("device").value).catch(fail);
addEventListener("keydown", (event) => { if (event.key === "Escape") cancel(); });
addEventListener("hashchange", () => follow(read()).catch(fail));

start().then(() => {
  document.documentElement.dataset.ready = "yes";
  if (wanted.get("report")) return report(wanted.get("report"));
}).catch((error) => {
  fail(error);
  if (wanted.get("report")) fetch(`${wanted.get("report")}/failed`, { method: "POST", body: error.message });
});
