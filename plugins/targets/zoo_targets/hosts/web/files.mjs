// Reads the files of the page's folder, and reads and writes .npy.

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
