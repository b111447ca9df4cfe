// The form: a field for each input of a task. `field` of a port in model.json names the function that makes it; one that
// this page does not know takes a file.
//
// A field is {element, value(), take(array)}; the element has `input` events when the user changes the value. Further:
//   needs      it has no value until the user, the example or another result gives one
//   text()     its value in the page's address, read back by `read(text)`
//   many()     how many pictures it asks for, set by `grid(number)`; `again()` draws another seed
//   under(p)   a new picture to paint on
//   reason(s)  a note on the value, such as how a picture was scaled

import { make, play, sentences, title, words } from "./dom.mjs";
import { fromNpy, fromSound, toWav } from "./files.mjs";
import { drawMap, drawMask, drawPicture, drawTokens, readPicture } from "./pictures.mjs";
import { array } from "./ports.mjs";
import { drawVideo, fromVideo } from "./videos.mjs";

/**
 * The field of a port.
 *
 * `page` is {changed(field), fail(error), example()}: called for a new picture or file, for a file that cannot be read,
 * and to fill the fields with an example.
 */
export const fieldOf = (port, declared, page) => (FIELDS[declared.field] ?? dataField)(port, declared, page);

function field(port, control, help, around = control) {
  const id = `port-${port}`;
  control.id ||= id;
  const hint = make("p", { className: "hint", id: `${id}-hint`, textContent: help });
  control.setAttribute("aria-describedby", hint.id);
  const name = "labels" in control ? make("label", { htmlFor: control.id }) : make("p"); // a canvas names itself
  Object.assign(name, { className: "name", textContent: title(port) });
  const element = make("div", { className: "port" }, name, around, hint);
  return { element, take: () => {} };
}

function choiceField(port, declared) {
  const control = make("select", { id: `port-${port}` });
  const low = declared.minimum ?? 0, high = declared.maximum ?? low;
  for (let number = low; number <= high; number++) {
    const name = number < 0 ? "anything" : declared.classes?.[number] ?? String(number);
    control.append(make("option", { value: number, textContent: name }));
  }
  const set = (number) => { if (number >= low && number <= high) control.value = number; };
  control.value = declared.default ?? Math.max(0, low);
  const help = sentences(low < 0 ? "What to draw" : declared.summary); // the number of "anything" is of no use here
  return {
    ...field(port, control, help),
    value: () => Number(control.value),
    take: ({ data }) => set(Number(data[0])),
    text: () => control.value,
    read: (text) => /^-?\d+$/.test(text) && set(Number(text)),
  };
}

/** A seed up to a million: short enough to say and to type. */
const draw = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;

function seedField(port, declared) {
  const seed = make("input", { type: "number", id: `port-${port}`, min: declared.minimum, max: declared.maximum, step: 1, value: draw(), required: true });
  const many = make("select", { id: `port-${port}-many`, className: "beside", data: { "aria-label": "How many pictures" } },
    ...[1, 4, 9, 16].map((n) => make("option", { value: n, textContent: n === 1 ? "1 picture" : `${n} pictures` })));
  const first = () => {
    if (seed.value === "" || !Number.isSafeInteger(Number(seed.value))) throw new TypeError(`${port} '${seed.value}' is not an integer up to 2^53 - 1`);
    return Number(seed.value);
  };
  const help = "The same seed gives the same picture, in every program. The next pictures take the seeds after it.";
  return {
    ...field(port, seed, help, make("div", { className: "row" }, seed, many)),
    value: () => Array.from({ length: Number(many.value) }, (_, i) => first() + i),
    take: ({ data }) => { seed.value = data[0]; },
    many: () => Number(many.value),
    grid: (number) => { many.value = number; },
    again: () => { seed.value = draw(); },
    text: () => (many.value === "1" ? seed.value : `${seed.value}-${first() + Number(many.value) - 1}`),
    read: (text) => {
      const [, from, to] = /^(\d{1,16})(?:-(\d{1,16}))?$/.exec(text) ?? [];
      if (from === undefined) return;
      seed.value = from;
      const wanted = Number(to ?? from) - Number(from) + 1;
      if (Array.from(many.options).some((option) => option.value === String(wanted))) many.value = wanted;
    },
  };
}

/** The next of 1, 2, 5, 10, … */
function round(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].find((n) => n * power >= number * (1 - 1e-9)) * power;
}

function numberField(port, declared) {
  const whole = declared.codec === "integers", low = declared.minimum ?? 0, high = declared.maximum ?? (whole ? 100 : 10);
  const usual = declared.default;
  const number = make("input", { type: "number", className: "beside", id: `port-${port}`, min: low, max: high, step: whole ? 1 : "any", required: true, value: usual ?? low });
  // A slider up to a thousand steps is of no use: it covers four times the usual value, and the number the port's range.
  const far = Math.min(high, usual > 0 ? Math.max(round(4 * usual), low) : whole ? 50 : high);
  const slider = make("input", { type: "range", min: low, max: far, step: whole ? 1 : (far - low) / 200, value: number.value, tabIndex: -1, data: { "aria-hidden": "true" } });
  const set = (text) => { number.value = text; slider.value = text; };
  slider.oninput = () => { number.value = whole ? slider.value : Number(Number(slider.value).toFixed(3)); };
  number.oninput = () => { slider.value = number.value; };
  const help = sentences(declared.summary, `${low} to ${high}${usual === undefined ? "" : `, usually ${usual}`}`);
  return {
    ...field(port, number, help, make("div", { className: "row" }, slider, number)),
    value: () => {
      if (number.value === "") throw new TypeError(`${port} '${number.value}' is not a number`);
      return Number(number.value);
    },
    take: ({ data }) => set(Number(Number(data[0]).toPrecision(6))),
    text: () => number.value,
    read: (text) => set(text),
  };
}

/** The text of one element, without its padding. */
export const textOf = ({ data }) => new TextDecoder().decode(data).replace(/\0+$/, "");

function textField(port, declared) {
  const control = make("textarea", { id: `port-${port}`, rows: 3 });
  const length = declared.shape.at(-1), examples = (declared.examples ?? []).slice(0, 6);
  control.value = examples[0] ?? declared.default ?? "";
  control.onkeydown = (event) => { // Enter draws, as in fields of one line; with Shift it begins a line
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    control.form.requestSubmit();
  };
  const choose = (text) => {
    control.value = text;
    control.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const offered = examples.map((text) => make("button", { type: "button", className: "quiet", textContent: text, onclick: () => choose(text) }));
  const group = make("div", { className: "texts", data: { role: "group", "aria-label": `Examples for ${words(port)}` } }, ...offered);
  const around = make("div", {}, control, ...(examples.length ? [group] : []));
  return {
    ...field(port, control, sentences(declared.summary, typeof length === "number" ? `up to ${length} bytes` : ""), around),
    value: () => control.value,
    take: (value) => { control.value = textOf(value); },
    text: () => control.value,
    read: (text) => { control.value = text; },
  };
}

/** A file by button, by drag and drop, or from the model's own example. */
function dropField(port, declared, page, { accept, read, preview, help }) {
  let held;
  const input = make("input", { type: "file", accept, id: `port-${port}`, className: "button" });
  const note = make("p", { className: "hint note", data: { role: "status" } });
  const example = make("button", { type: "button", className: "quiet", textContent: "Use the example", onclick: page.example });
  const drop = make("div", { className: "drop" }, preview,
    make("div", { className: "file" }, input, make("span", { className: "hint", textContent: "or drop a file here" }), example), note);
  const made = {
    ...field(port, input, help, drop),
    needs: true,
    take: (value) => {
      held = value;
      note.textContent = "";
      preview.hidden = false;
      made.draw(value);
      page.changed(made);
    },
    value: () => {
      if (!held) throw new TypeError(`${port} is missing: choose a file, or the example`);
      return held;
    },
    held: () => held,
    reason: (text) => { note.textContent = sentences(text); },
  };
  const readFile = async (file) => {
    let reason = file.name;
    try {
      made.take(await read(file, (text) => { reason += `, ${text}`; }));
      note.textContent = reason;
    } catch (error) {
      held = undefined;
      preview.hidden = true;
      note.textContent = "";
      page.changed(made);
      page.fail(error);
    }
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
  return made;
}

function pictureField(port, declared, page) {
  const preview = make("canvas", { data: { role: "img", "aria-label": `The chosen ${words(port)}` } });
  const [, height, width, channels] = declared.shape, grey = channels === 1 ? ", in grey" : "";
  const fixed = `Cut and scaled to ${width}x${height} pixels${grey}`, free = (declared.minimum_size ?? 1) > 1 ? `At least ${declared.minimum_size} pixels per side${grey}` : `Any size${grey}`;
  const made = dropField(port, declared, page, {
    accept: "image/*", preview, help: sentences(typeof height === "number" ? fixed : free),
    read: (file, tell) => readPicture(file, declared, tell),
  });
  made.draw = (value) => drawPicture(preview, value);
  made.paintable = true;
  return made;
}

/** A brush over the picture: white is redrawn. With the keyboard: arrows move, space paints, e erases. */
function brushField(port) {
  let mask, under, at = [0, 0], erasing = false;
  const canvas = make("canvas", { id: `port-${port}`, className: "brush", tabIndex: 0, data: { role: "application",
    "aria-label": "Mask: paint what to redraw. Arrow keys move the brush, space paints, e erases." } });
  const size = make("input", { type: "range", min: 1, max: 12, value: 3, title: "Brush size", data: { "aria-label": "Brush size" } });
  const erase = make("button", { type: "button", textContent: "Erase", data: { "aria-pressed": "false" } });
  const clear = make("button", { type: "button", textContent: "Clear" });
  const paint = () => {
    if (!mask) return;
    drawPicture(canvas, under ?? mask);
    drawMask(canvas, mask);
    if (document.activeElement !== canvas) return;
    const pen = canvas.getContext("2d");
    pen.strokeStyle = "#2f80ed";
    pen.strokeRect(at[0] - .5, at[1] - .5, 2, 2);
  };
  const painted = () => canvas.dispatchEvent(new Event("input", { bubbles: true })); // as other controls do
  const dab = (x, y, level) => {
    if (!mask) return;
    const [, height, width] = mask.shape, radius = Number(size.value) / 2;
    for (let i = Math.floor(y - radius); i <= y + radius; i++)
      for (let j = Math.floor(x - radius); j <= x + radius; j++)
        if (i >= 0 && j >= 0 && i < height && j < width && Math.hypot(i + .5 - y, j + .5 - x) <= Math.max(radius, .71)) mask.data[i * width + j] = level;
    paint();
    painted();
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
  erase.onclick = () => { erasing = !erasing; erase.setAttribute("aria-pressed", erasing); };
  clear.onclick = () => { mask?.data.fill(0); paint(); painted(); };
  const tools = make("div", { className: "row" }, size, erase, clear);
  return {
    ...field(port, canvas, "Paint what the model should redraw. With the keyboard: arrows move the brush, space paints, e erases.",
      make("div", { className: "painting" }, canvas, tools)),
    needs: true,
    under: (picture) => {
      const [, height, width] = picture?.shape ?? [0, 1, 1];
      under = picture;
      mask = picture && array("uint8", [1, height, width, 1]);
      at = [Math.floor(width / 2), Math.floor(height / 2)];
      Object.assign(canvas, { width, height });
      paint();
    },
    take: (value) => { mask = array(value.dtype, value.shape, value.data.slice()); paint(); },
    value: () => {
      if (!mask) throw new TypeError(`${port} is missing: choose a picture and paint on it`);
      return mask;
    },
  };
}

function soundField(port, declared, page) {
  const preview = make("audio", { controls: true, data: { "aria-label": `The chosen ${words(port)}` } });
  const [, length] = declared.shape, rate = declared.sample_rate;
  const limit = typeof length === "number" ? `up to ${length / rate} s` : declared.maximum_samples && `up to ${declared.maximum_samples / rate} s`;
  const made = dropField(port, declared, page, {
    accept: "audio/*,.npy", preview, help: sentences(declared.summary, "WAV or another sound file", limit),
    read: async (file, tell) => file.name.endsWith(".npy") ? fromNpy(port, declared, new Uint8Array(await file.arrayBuffer())) : fromSound(port, declared, file, tell),
  });
  made.draw = (value) => play(preview, toWav(value, rate));
  return made;
}

function videoField(port, declared, page) {
  const preview = make("canvas", { data: { role: "img", "aria-label": `The chosen ${words(port)}` } });
  const [, length] = declared.shape, most = typeof length === "number" ? length : declared.maximum_frames;
  const made = dropField(port, declared, page, {
    accept: "image/apng,image/png,image/gif,image/webp,video/*,.apng,.npy", preview,
    help: sentences(declared.summary, "An animated PNG, GIF or WebP, or a video file", `${declared.frame_rate} frames a second${most ? `, up to ${most}` : ""}`),
    read: async (file, tell) => file.name.endsWith(".npy") ? fromNpy(port, declared, new Uint8Array(await file.arrayBuffer())) : fromVideo(port, declared, file, tell),
  });
  made.draw = (value) => drawVideo(preview, value, 0, declared);
  return made;
}

/** Anything else: from the task before, a file, or the example. */
function dataField(port, declared, page) {
  const bytes = declared.codec === "bytes";
  const picture = make("canvas", { data: { role: "img", "aria-label": words(port) } }), text = make("pre");
  const made = dropField(port, declared, page, {
    accept: bytes ? "" : ".npy", preview: make("div", {}, picture, text), help: sentences(declared.summary, bytes ? "a file" : "a .npy file"),
    read: async (file) => {
      const data = new Uint8Array(await file.arrayBuffer());
      return bytes && !file.name.endsWith(".npy") ? array("uint8", [data.length], data) : fromNpy(port, declared, data);
    },
  });
  made.draw = (value) => {
    const paint = { codes: drawTokens, maps: drawMap }[declared.shown];
    picture.hidden = !paint;
    paint?.(picture, value);
    text.textContent = `${value.dtype} [${value.shape.join(", ")}]${value.data.length <= 8 ? `: ${Array.from(value.data).join(", ")}` : ""}`;
  };
  return made;
}

const FIELDS = {
  picture: pictureField, brush: brushField, choice: choiceField, seed: seedField, number: numberField, text: textField,
  sound: soundField, video: videoField, data: dataField,
};
