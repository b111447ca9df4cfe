// Plays videos on canvases, reads video files, and writes animated PNGs. A video is uint8 [batch, frames, height, width,
// channels], and its port states `frame_rate`.

import { drawPicture, fit } from "./pictures.mjs";
import { array } from "./ports.mjs";

const playing = new Map(); // what to do for each canvas that plays
let moves = !matchMedia("(prefers-reduced-motion: reduce)").matches, started = false;

export const isMoving = () => moves;

/** Stops all videos, or plays them. */
export const move = (on) => { moves = on; };

/** Plays one video of a batch, again and again, until the canvas leaves the page or plays another one. */
export function drawVideo(canvas, { shape: [, frames, height, width, channels], data }, index, { frame_rate: rate }) {
  const length = frames * height * width * channels;
  const video = array("uint8", [frames, height, width, channels], data.subarray(index * length, (index + 1) * length));
  let shown = -1, seen = false;
  const show = (frame) => {
    if (frame !== shown) drawPicture(canvas, video, frame);
    shown = frame;
    canvas.dataset.frame = frame;
  };
  show(0);
  playing.set(canvas, (milliseconds) => {
    seen ||= canvas.isConnected;
    if (seen && !canvas.isConnected) playing.delete(canvas);
    else if (moves && seen) show(Math.floor((milliseconds * rate) / 1000) % frames);
  });
  if (!started) requestAnimationFrame(tick);
  started = true;
}

function tick(milliseconds) {
  for (const step of playing.values()) step(milliseconds);
  started = playing.size > 0;
  if (started) requestAnimationFrame(tick);
}

// --- Files -----------------------------------------------------------------------------------------------------------

const MAX_VIDEO_BYTES = 256 * 2 ** 20, MAX_VIDEO_PIXELS = 4e7;
const MIDDLE = 0.45; // where in a frame a file is looked at, as `zoo run` does: zoo/media/videos.py

/** A video file that the browser can play, as a port takes it: uint8 [1, frames, height, width, channels]. `tell` gets each change. */
export async function fromVideo(port, declared, file, tell = () => {}) {
  if (file.size > MAX_VIDEO_BYTES) throw new RangeError(`${file.name} has more than 256 MiB`);
  const [batch, length, ...picture] = declared.shape, rate = declared.frame_rate, fixed = typeof length === "number";
  const most = fixed ? length : declared.maximum_frames ?? Infinity, said = new Set(), frames = [];
  const once = (text) => { if (!said.has(text)) tell(text); said.add(text); };
  const numberUntil = (seconds) => {
    const number = Math.ceil(seconds * rate - MIDDLE);
    if (number > most) throw new RangeError(`${file.name} has ${number} frames at ${rate} a second; at most ${most}`);
    return number;
  };
  const take = (source, until) => { // what is on screen up to a time, seconds
    const number = numberUntil(until);
    if (frames.length >= number) return;
    const frame = fit(source, { ...declared, shape: [batch, ...picture] }, once);
    if (number * frame.data.length > MAX_VIDEO_PIXELS * picture.at(-1)) throw new RangeError(`${file.name} has too many pixels`);
    while (frames.length < number) frames.push(frame);
  };
  const head = new Uint8Array(await file.slice(0, 12).arrayBuffer()), type = animation(head);
  const read = type ? await readAnimation(file, type, take) : await readFilm(file, rate, numberUntil, take);
  if (read < 2) throw new RangeError(`${file.name} has one frame: it is a picture; a video has at least two frames`);
  if (frames.length < 2) throw new RangeError(`${file.name} is too short for two frames at ${rate} a second`);
  if (fixed && frames.length < length) {
    once(`its last frame repeated, from ${frames.length} frames to ${length}`);
    while (frames.length < length) frames.push(frames.at(-1));
  }
  const whole = array("uint8", [1, frames.length, ...frames[0].shape.slice(1)]);
  frames.forEach(({ data }, i) => whole.data.set(data, i * data.length));
  return whole;
}

/** The type of an animated picture by its first bytes. */
function animation(bytes) {
  const text = String.fromCharCode(...bytes);
  if (text.startsWith("\x89PNG")) return "image/png";
  if (text.startsWith("GIF8")) return "image/gif";
  return text.startsWith("RIFF") && text.endsWith("WEBP") ? "image/webp" : "";
}

async function readAnimation(file, type, take) {
  const unreadable = () => new TypeError(`${file.name} is not an animation that this browser can read`);
  if (!globalThis.ImageDecoder) throw unreadable();
  const decoder = new ImageDecoder({ data: await file.arrayBuffer(), type });
  let count = 0;
  try {
    await Promise.all([decoder.tracks.ready, decoder.completed]).catch(() => { throw unreadable(); });
    count = decoder.tracks.selectedTrack.frameCount;
    for (let index = 0, end = 0; count > 1 && index < count; index++) {
      const { image } = await decoder.decode({ frameIndex: index }).catch(() => { throw unreadable(); });
      const bitmap = await createImageBitmap(image);
      end += (image.duration || 1e5) / 1e6;
      image.close();
      take(bitmap, end);
      bitmap.close();
    }
  } finally {
    decoder.close();
  }
  return count;
}

async function readFilm(file, rate, numberUntil, take) {
  const film = document.createElement("video"), url = URL.createObjectURL(file);
  const event = (name) => new Promise((done, fail) => {
    film.addEventListener(name, done, { once: true });
    film.addEventListener("error", () => fail(new TypeError(`${file.name} is not a video that this browser can play`)), { once: true });
  });
  try {
    const loaded = event("loadeddata");
    Object.assign(film, { muted: true, preload: "auto", src: url });
    await loaded;
    if (!film.videoWidth || !Number.isFinite(film.duration)) throw new TypeError(`${file.name} does not say how long it is, or has no pictures`);
    const number = numberUntil(film.duration);
    for (let i = 0; i < number; i++) {
      const sought = event("seeked");
      film.currentTime = (i + MIDDLE) / rate;
      await sought;
      const bitmap = await createImageBitmap(film);
      take(bitmap, (i + 1) / rate);
      bitmap.close();
    }
    return Infinity;
  } finally {
    URL.revokeObjectURL(url);
    film.removeAttribute("src");
  }
}

// --- Animated PNG: https://www.w3.org/TR/png-3/ ----------------------------------------------------------------------

/** The bytes of an animated PNG of one video, uint8 [1, frames, height, width, 1 or 3]. */
export async function toApng({ shape: [, frames, height, width, channels], data }, rate) {
  const parts = [Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10)], row = width * channels;
  const add = (name, ...numbers) => parts.push(chunk(name, Uint8Array.from(numbers.flat())));
  const word = (n) => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255];
  add("IHDR", word(width), word(height), 8, channels === 3 ? 2 : 0, 0, 0, 0);
  add("acTL", word(frames), word(0));
  for (let frame = 0, sequence = 0; frame < frames; frame++) {
    add("fcTL", word(sequence++), word(width), word(height), word(0), word(0), 0, 1, rate >> 8, rate & 255, 0, 0);
    const rows = new Uint8Array(height * (row + 1));
    for (let y = 0; y < height; y++) rows.set(data.subarray((frame * height + y) * row, (frame * height + y + 1) * row), y * (row + 1) + 1);
    const packed = await deflate(rows);
    parts.push(frame ? chunk("fdAT", Uint8Array.from([...word(sequence++), ...packed])) : chunk("IDAT", packed));
  }
  add("IEND");
  return new Blob(parts, { type: "image/png" });
}

const deflate = async (bytes) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer());

const CRC = Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function chunk(name, body) {
  const whole = new Uint8Array(12 + body.length), view = new DataView(whole.buffer);
  view.setUint32(0, body.length);
  for (const [i, letter] of [...name].entries()) whole[4 + i] = letter.charCodeAt(0);
  whole.set(body, 8);
  let crc = 0xffffffff;
  for (const byte of whole.subarray(4, -4)) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(8 + body.length, ~crc >>> 0);
  return whole;
}
