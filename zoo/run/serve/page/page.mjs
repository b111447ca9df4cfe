// The page of `zoo serve`: a form for each task, made from /openapi.json, and what the server answers, step by step.
//
// What a model says about itself reaches the page only as textContent. The key is in this variable and nowhere else.

const $ = (id) => document.getElementById(id);
let key = "", paths = {}, current = "", fields = {}, running;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** An answer of the server; throws what it refuses. */
async function ask(path, how = {}) {
  const headers = { ...how.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { ...how, headers, redirect: "error" });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, said.error ?? `the server answers ${answer.status}`);
}

// --- Models and tasks -------------------------------------------------------------------------------------------------

async function start() {
  try {
    const listed = await (await ask("openapi.json")).json();
    paths = Object.fromEntries(Object.entries(listed.paths)
      .filter(([path, { post }]) => path.includes("/tasks/") && !post["x-part-of"]).map(([path, { post }]) => [path, post]));
  } catch (error) {
    if (error.status !== 401) throw error;
    $("ask").hidden = false;
    say(key ? "The server does not know this key" : "", Boolean(key));
    $("key").focus();
    return;
  }
  $("ask").hidden = true;
  const models = Map.groupBy(Object.entries(paths), ([path]) => partsOf(path).model);
  $("models").replaceChildren(...Array.from(models, ([model, tasks]) => make("section", {},
    make("h2", { textContent: model }),
    ...tasks.map(([path, { summary }]) => make("a", { href: `#${path}`, textContent: partsOf(path).task, title: summary })))));
  select();
}

function partsOf(path) {
  const [model, task] = path.split("/").slice(3).filter((part) => part !== "tasks").map(decodeURIComponent);
  return { model, task };
}

/** Shows the task of the address, or the first one. */
function select() {
  running?.abort();
  const wanted = decodeURI(location.hash.slice(1));
  current = wanted in paths ? wanted : Object.keys(paths)[0];
  if (!current) return say("No model is loaded", true);
  const { summary, requestBody } = paths[current], { model, task } = partsOf(current);
  const schema = requestBody.content["application/json"].schema;
  document.title = `${model} ${task}`;
  $("title").textContent = `${model} ${task}`;
  $("summary").textContent = summary;
  fields = Object.fromEntries(Object.entries(schema.properties).map(([name, one]) => [name, field(name, one, schema.required.includes(name))]));
  $("inputs").replaceChildren(...Object.values(fields).map(({ element }) => element));
  for (const link of $("models").querySelectorAll("a"))
    link.ariaCurrent = link.getAttribute("href") === `#${current}` ? "page" : null;
  $("outputs").replaceChildren();
  $("form").hidden = false;
  say("Ready");
  document.documentElement.dataset.ready = "yes";
}

/** An input's element, and a function that reads its value; undefined: it is left out. */
function field(name, schema, required) {
  const kinds = schema.oneOf ?? [schema], classes = kinds.find((one) => one.enum)?.enum;
  const has = (type) => kinds.some((one) => one.type === type);
  let input, read = () => input.value || undefined;
  if (classes) {
    input = make("select", {}, ...(required ? [] : [make("option", { value: "", textContent: "(default)" })]),
      ...classes.map((one) => make("option", { value: one, textContent: one })));
  } else if (kinds.some((one) => one.contentEncoding === "base64")) {
    input = make("input", { type: "file", multiple: true });
    read = async () => input.files.length ? Promise.all(Array.from(input.files, base64)) : undefined;
  } else if (has("integer") || has("number")) {
    const { minimum, maximum } = kinds.find((one) => "minimum" in one || "maximum" in one) ?? {};
    input = make("input", { type: "number", min: minimum ?? "", max: maximum ?? "", step: has("integer") ? 1 : "any" });
    read = () => input.value === "" ? undefined : Number(input.value);
  } else if (has("string")) {
    input = make("input", { type: "text" });
  } else {
    input = make("textarea", { rows: 4, spellcheck: false });
    read = () => input.value.trim() ? JSON.parse(input.value) : undefined;
  }
  Object.assign(input, { name, required });
  return { element: make("label", {}, name, input, make("span", { className: "hint", textContent: schema.description ?? "" })), read };
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

// --- A call -----------------------------------------------------------------------------------------------------------

async function go() {
  running?.abort();
  const once = running = new AbortController(), begin = performance.now();
  busy(true);
  try {
    const inputs = {};
    for (const [name, one] of Object.entries(fields)) inputs[name] = await one.read();
    const answer = await ask(current, {
      method: "POST", signal: once.signal, body: JSON.stringify(inputs),
      headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    });
    for await (const [name, data] of events(answer.body)) {
      if (name === "error") throw new Refused(data.status, data.error);
      if (name === "progress") {
        $("progress").value = data.step / data.steps;
        say(`Step ${data.step} of ${data.steps}`);
      } else {
        show(data, name === "preview");
        if (name === "result") say(`Done: ${((performance.now() - begin) / 1000).toFixed(2)} s`);
      }
    }
    document.documentElement.dataset.drawn = String(Number(document.documentElement.dataset.drawn ?? 0) + 1);
  } catch (error) {
    if (once.signal.aborted) say("Cancelled");
    else say(`Error: ${error.message}`, true);
  } finally {
    if (running === once) {
      running = undefined;
      busy(false);
    }
  }
}

/** The events of a stream: name and data of each. */
async function* events(body) {
  let rest = "";
  for await (const text of chunks(body.pipeThrough(new TextDecoderStream()))) {
    const whole = (rest + text).split("\n\n");
    rest = whole.pop();
    for (const one of whole) {
      const found = /^event: (.*)\ndata: (.*)$/.exec(one); // a comment is none
      if (found) yield [found[1], JSON.parse(found[2])];
    }
  }
}

async function* chunks(stream) { // not all browsers can iterate over a stream
  for (const reader = stream.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

const FILES = { iVBORw0KGgo: ["img", "image/png"], UklGR: ["audio", "audio/wav"] }; // by how their base64 begins

function show({ outputs, seed }, preview) {
  $("outputs").classList.toggle("preview", preview);
  $("outputs").replaceChildren(...Object.entries(outputs).map(([name, value]) => {
    const all = Array.isArray(value) ? value : [value];
    const shown = all.map((one, i) => {
      const [, kind] = Object.entries(FILES).find(([start]) => typeof one === "string" && one.startsWith(start)) ?? [];
      if (!kind) return undefined;
      const [tag, type] = kind, caption = seed ? `seed ${seed[i]}` : "";
      return make("figure", {}, make(tag, { src: `data:${type};base64,${one}`, alt: `${name} ${caption}`, controls: true }),
        make("figcaption", { className: "hint", textContent: caption }));
    });
    const whole = shown.every(Boolean) ? shown : [make("pre", { textContent: JSON.stringify(value) })];
    return make("section", {}, make("h2", { textContent: name }), ...whole);
  }));
}

function busy(on) {
  $("go").hidden = on;
  $("cancel").hidden = $("progress").hidden = !on;
  if (on) {
    $("progress").removeAttribute("value");
    say("Waiting");
  }
}

const failed = (error) => say(`Error: ${error.message}`, true);
$("ask").onsubmit = (event) => { event.preventDefault(); key = $("key").value; $("key").value = ""; start().catch(failed); };
$("form").onsubmit = (event) => { event.preventDefault(); go(); };
$("cancel").onclick = () => running?.abort();
addEventListener("hashchange", select);
start().catch(failed);
