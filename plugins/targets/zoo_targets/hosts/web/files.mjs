// Reads the files of the page's folder, reads and writes .npy, and reads sound files and writes WAV.

import { array, fromBytes } from "./ports.mjs";

/** The bytes of a file in the page's folder; `tell` gets the number of bytes read so far. */
export async function read(path, tell = () => {}) {
  const response = await fetch(new URL(path, import.meta.url));
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

export const readJson = async (path) => JSON.parse(new TextDecoder().decode(await read(path)));

/** An array of a golden case. */
export const readRaw = async (raw) => fromBytes(raw.dtype, raw.shape, await read(`golden/${raw.file}`));

/** Arrays of a golden case, by port. */
export async function readAll(raws) {
  const arrays = await Promise.all(Object.values(raws).map(readRaw));
  return Object.fromEntries(Object.keys(raws).map((port, i) => [port, arrays[i]]));
}

const NPY = { "|u1": ["uint8", Uint8Array], "<i8": ["int64", BigInt64Array], "<f4": ["float32", Float32Array] };

/** The array in a .npy file. Throws a TypeError or RangeError unless its type is the port's. */
export function fromNpy(port, declared, bytes) {
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

/** The bytes of a .npy file. */
export function toNpy({ dtype, shape, data }) {
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

const MAX_SOUND_BYTES = 256 * 2 ** 20;

/** A sound file that the browser can play, as a port takes it: float32 [1, samples, channels]. `tell` gets each change. */
export async function fromSound(port, declared, file, tell = () => {}) {
  const [, length, channels] = declared.shape, rate = declared.sample_rate, fixed = typeof length === "number";
  const most = fixed ? length : declared.maximum_samples ?? 4e7 / channels;
  if (file.size > MAX_SOUND_BYTES) throw new RangeError(`${file.name} has more than 256 MiB`);
  let sound;
  try { // resampled to the context's rate
    sound = await new OfflineAudioContext(channels, 1, rate).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new TypeError(`${file.name} is not sound that this browser can play`);
  }
  if (sound.numberOfChannels > 2) throw new RangeError(`${file.name} has ${sound.numberOfChannels} channels; one or two are read`);
  if (sound.length > most) throw new RangeError(`${file.name} is ${Number(sound.duration.toPrecision(6))} s long; at most ${most / rate} s`);
  const data = new Float32Array((fixed ? length : sound.length) * channels);
  const given = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
  const mixed = given.length > channels ? [given[0].map((v, i) => (v + given[1][i]) / 2)] : given;
  for (let i = 0; i < sound.length; i++)
    for (let c = 0; c < channels; c++) data[i * channels + c] = Math.max(-1, Math.min(1, mixed[Math.min(c, mixed.length - 1)][i]));
  if (given.length !== channels) tell(given.length > channels ? "two channels mixed to one" : "one channel used for both");
  if (fixed && sound.length < length) tell("filled up with silence");
  return array("float32", [1, data.length / channels, channels], data);
}

/** The bytes of a WAV file of 16 bits: of one sound, float32 [1, samples, channels]. */
export function toWav({ shape, data }, rate) {
  const channels = shape[2], whole = new DataView(new ArrayBuffer(44 + 2 * data.length));
  const text = (at, letters) => { for (const [i, c] of [...letters].entries()) whole.setUint8(at + i, c.charCodeAt(0)); };
  text(0, "RIFF"); text(8, "WAVEfmt "); text(36, "data");
  for (const [at, value] of [[4, 36 + 2 * data.length], [16, 16], [24, rate], [28, 2 * channels * rate], [40, 2 * data.length]]) whole.setUint32(at, value, true);
  for (const [at, value] of [[20, 1], [22, channels], [32, 2 * channels], [34, 16]]) whole.setUint16(at, value, true);
  for (let i = 0; i < data.length; i++) whole.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(data[i] * 32768))), true);
  return new Uint8Array(whole.buffer);
}
