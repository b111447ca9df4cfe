// Shows what calls gave: a tile for each element of the batch, and below the tiles the chosen one, with what can be done
// with it. `shown` of a port in model.json says how its values are drawn.
//
// A call is {inputs, outputs}, arrays by port; a golden case is one too.

import { download, make, play, title, words } from "./dom.mjs";
import { textOf } from "./fields.mjs";
import { toNpy, toWav } from "./files.mjs";
import { drawMap, drawMask, drawPicture, drawTokens, pick, rangeOf } from "./pictures.mjs";
import { drawVideo, isMoving, move, toApng } from "./videos.mjs";

const DRAWN = { pictures: drawPicture, codes: drawTokens, maps: drawMap, video: drawVideo };
const MOST_NUMBERS = 200, MOST_BARS = 20;

const drawnOf = (ports) => Object.keys(ports).filter((port) => DRAWN[ports[port].shown] && ports[port].field !== "brush");

/** The elements of a call's batch: {call, index} each. */
export function tilesOf(call, declared) {
  const batch = Object.keys(declared.outputs).find((port) => declared.outputs[port].shape[0] === "batch");
  return Array.from({ length: call.outputs[batch]?.shape[0] ?? 1 }, (_, index) => ({ call, index }));
}

/** How many canvases a tile has that shows its inputs too. */
export const widthOf = (declared) => drawnOf(declared.inputs).length + drawnOf(declared.outputs).length;

/**
 * An element that shows tiles of a task.
 *
 * @param declared the task in model.json
 * @param pairs whether each tile shows its input too
 * @param actions gives what can be done with a tile: {onward, more}, lists of {text, title, act}
 * @param file the start of downloaded files' names
 * @param first the tile that is chosen at first
 */
export function show(all, { declared, pairs, actions, file, first = 0 }) {
  const inputs = drawnOf(declared.inputs), outputs = drawnOf(declared.outputs);
  const details = make("div", { className: "details" });
  const choose = (tile) => details.replaceChildren(...describe(tile, { declared, outputs, actions, file, all }));
  if (!all[first]) first = 0;
  choose(all[first]);
  if (!outputs.length && !(inputs.length && (pairs || all.length > 1))) return details;

  const tiles = all.map((tile, i) => {
    const from = pairs || !outputs.length ? inputs : [];
    const canvases = [
      ...from.map((port) => draw(declared.inputs[port], tile.call.inputs[port], tile.index, { "data-input": port }, masksOf(declared, tile.call))),
      ...outputs.map((port) => draw(declared.outputs[port], tile.call.outputs[port], tile.index, { "data-port": port })),
    ];
    const full = captionOf(declared, tile);
    return make("button", { type: "button", className: "tile", tabIndex: i === first ? 0 : -1, title: full, data: {
      role: "radio", "aria-checked": String(i === first), "aria-label": [`${i + 1} of ${all.length}`, full].filter(Boolean).join(": "),
    } }, make("span", { className: "canvases" }, ...canvases), make("span", { className: "caption", textContent: shortOf(declared, tile, all) }));
  });
  const select = (i) => {
    for (const [k, tile] of tiles.entries()) {
      tile.setAttribute("aria-checked", String(k === i));
      tile.tabIndex = k === i ? 0 : -1;
    }
    choose(all[i]);
  };
  for (const [i, tile] of tiles.entries()) tile.onclick = () => select(i);
  const grid = make("div", { className: "tiles", data: { role: "radiogroup", "aria-label": "Results" } }, ...tiles);
  const wide = (pairs ? inputs.length : 0) + outputs.length > 1;
  grid.classList.toggle("pairs", wide);
  grid.classList.toggle("one", tiles.length === 1);
  grid.classList.toggle("inputs", !outputs.length);
  grid.style.setProperty("--columns", wide ? Math.min(3, tiles.length) : tiles.length > 4 && tiles.length !== 9 ? 4 : Math.ceil(Math.sqrt(tiles.length)));
  grid.onkeydown = (event) => { // as between radio buttons
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (tiles.indexOf(document.activeElement) + step + tiles.length) % tiles.length;
    select(next);
    tiles[next].focus();
  };
  return make("div", {}, grid, details);
}

/** Draws other outputs of the same size on what `show` made; false if it cannot. */
export function redraw(element, declared, outputs) {
  for (const [port, { shown }] of Object.entries(declared.outputs)) {
    const canvases = element.querySelectorAll(`canvas[data-port="${port}"]`);
    if (!DRAWN[shown] || canvases.length !== outputs[port].shape[0]) return false;
    for (const [i, canvas] of canvases.entries()) DRAWN[shown](canvas, outputs[port], i, declared.outputs[port]);
  }
  return true;
}

const masksOf = (declared, { inputs }) => Object.keys(declared.inputs).filter((port) => declared.inputs[port].field === "brush").map((port) => inputs[port]);

function draw(port, value, index, data, masks = []) {
  const canvas = make("canvas", { data: { "aria-hidden": "true", ...data } }); // its tile has the name
  DRAWN[port.shown](canvas, value, index, port);
  for (const mask of masks) if (String(mask.shape.slice(0, 3)) === String(value.shape.slice(0, 3))) drawMask(canvas, mask, index);
  return canvas;
}

/** What a tile came from, in words by field: its texts, classes, seed and numbers. */
function saidOf(declared, { call, index }) {
  const said = { text: [], choice: [], seed: [], number: [] };
  for (const [port, { field, classes, shape }] of Object.entries(declared.inputs)) {
    if (!said[field]) continue;
    if (field === "text") {
      const text = textOf(pick(call.inputs[port], index));
      if (text) said.text.push(port === "text" ? text : `${words(port)} ${text}`);
      continue;
    }
    const value = Number(call.inputs[port].data[shape.length ? index : 0]);
    if (field === "choice") said.choice.push(value < 0 ? "anything" : classes?.[value] ?? `${words(port)} ${value}`);
    else said[field].push(`${words(port)} ${Number(value.toPrecision(field === "seed" ? 16 : 3))}`);
  }
  return said;
}

const captionOf = (declared, tile) => Object.values(saidOf(declared, tile)).flat().join(", ");

/** The part of it that tells a tile from the others. */
function shortOf(declared, tile, all) {
  const said = saidOf(declared, tile), others = all.map((other) => saidOf(declared, other));
  const differing = ["text", "choice"].find((field) => others.some((other) => String(other[field]) !== String(said[field])));
  const shown = said[differing ?? (said.seed.length ? "seed" : "choice")];
  return (shown.length ? shown : said.choice).join(", ");
}

function describe(tile, { declared, outputs, actions, file, all }) {
  const { call, index } = tile, parts = [], saves = [];
  const caption = captionOf(declared, tile), { onward = [], more = [] } = actions(tile);
  const button = ({ text, title: hint = "", act }) => make("button", { type: "button", textContent: text, title: hint, onclick: act });
  if (caption) parts.push(make("p", { className: "hint chosen", textContent: all.length > 1 ? `${all.indexOf(tile) + 1} of ${all.length}: ${caption}` : caption }));
  for (const [port, value] of Object.entries(call.outputs)) {
    const how = declared.outputs[port];
    if (how.shown === "pictures") {
      const png = (one, name) => {
        const canvas = make("canvas");
        drawPicture(canvas, one);
        canvas.toBlob((blob) => download(blob, name));
      };
      saves.push({ text: "Download PNG", act: () => png(pick(value, index), `${file}-${index}.png`) });
      const total = value.shape[0];
      if (total > 1 && total === all.length) saves.push({ text: `Download all ${total}`, act: () => { for (let i = 0; i < total; i++) png(pick(value, i), `${file}-${i}.png`); } });
      continue;
    }
    if (how.shown === "video") {
      saves.push({ text: "Download APNG", act: async () => download(await toApng(pick(value, index), how.frame_rate), `${file}-${index}.apng`) });
      continue;
    }
    if (how.shown === "sound") {
      const wav = toWav(pick(value, index), how.sample_rate);
      parts.push(make("figure", {}, make("figcaption", { textContent: title(port) }), play(make("audio", { controls: true, data: { "data-port": port, "aria-label": title(port) } }), wav)));
      saves.push({ text: "Download WAV", act: () => download(new Blob([wav], { type: "audio/wav" }), `${file}-${index}.wav`) });
      continue;
    }
    const probabilities = how.codec === "floats" && how.minimum === 0 && how.maximum === 1 && value.shape.length === 2 && value.shape[1] <= 100;
    if (how.shown === "codes") parts.push(make("p", { className: "hint", textContent: `${value.shape[1]}x${value.shape[2]} ${words(port)}, one colour each` }));
    else if (how.shown === "maps") parts.push(make("p", { className: "hint", textContent: `${title(port)}: dark ${rangeOf(value).map((n) => Number(n.toPrecision(3))).join(" to bright ")}` }));
    else if (probabilities) parts.push(bars(port, pick(value, index), declared));
    else parts.push(make("figure", {}, make("figcaption", { textContent: title(port) }), make("pre", { textContent: line(how, value) })));
    if (how.shown === "codes" || (how.codec === "floats" && !probabilities))
      saves.push({ text: `Download ${words(port)}`, title: "A .npy file", act: () => download(new Blob([toNpy(value)]), `${file}-${port}.npy`) });
  }
  if (onward.length) {
    const label = make("span", { className: "hint", textContent: "Use this for" });
    parts.push(make("div", { className: "tools", data: { role: "group", "aria-label": "Use this for" } }, label, ...onward.map(button)));
  }
  if (Object.values(declared.outputs).some(({ shown }) => shown === "video")) {
    const pause = button({ text: isMoving() ? "Pause" : "Play", act: () => {
      move(!isMoving());
      pause.textContent = isMoving() ? "Pause" : "Play";
    } });
    parts.push(make("div", { className: "tools" }, pause));
  }
  if (more.length + saves.length) parts.push(make("div", { className: "tools" }, ...[...more, ...saves].map(button)));
  return parts;
}

function line(declared, value) {
  const numbers = Array.from(value.data.slice(0, MOST_NUMBERS), Number);
  const named = declared.shown === "names" ? numbers.map((n) => declared.classes?.[n] ?? n) : numbers.map((n) => Number(n.toPrecision(6)));
  return named.join(", ") + (value.data.length > MOST_NUMBERS ? ", …" : "");
}

/** The largest of one row of numbers between 0 and 1, with class names if another output has them. */
function bars(port, { data }, declared) {
  const names = Object.values(declared.outputs).find(({ shown, classes }) => shown === "names" && classes)?.classes ?? [];
  const rows = Array.from(data, (v, i) => [names[i] ?? String(i), v]).sort((a, b) => b[1] - a[1]).slice(0, MOST_BARS);
  const bar = ([name, v]) => {
    const fill = make("i");
    fill.style.width = `${100 * Math.min(1, Math.max(0, v))}%`;
    return make("li", {}, fill, make("span", { textContent: name }), make("span", { textContent: v.toFixed(3) }));
  };
  return make("figure", {}, make("figcaption", { textContent: title(port) }), make("ul", { className: "bars" }, ...rows.map(bar)));
}
