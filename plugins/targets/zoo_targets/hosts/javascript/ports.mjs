// What a host checks before it calls a graph: the caller's values against the ports in model.json. Does not use a runtime.
//
// An array is {dtype, shape, data}: uint8 in a Uint8Array, int64 in a BigInt64Array, float32 in a Float32Array.

const CODECS = ["pixels", "integers", "floats", "bytes"];
const ARRAYS = { uint8: Uint8Array, int64: BigInt64Array, float32: Float32Array };

export const count = (shape) => shape.reduce((product, length) => product * length, 1);

export const array = (dtype, shape, data = new ARRAYS[dtype](count(shape))) => ({ dtype, shape, data });

/** An array out of raw little-endian bytes. */
export function fromBytes(dtype, shape, bytes) {
  const whole = bytes.slice(); // its own buffer, so that 8-byte elements are aligned
  return array(dtype, shape, new ARRAYS[dtype](whole.buffer, 0, count(shape)));
}

export const toBytes = ({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** A task's declaration in model.json. Throws a RangeError where a port has a codec that is not implemented here. */
export function taskOf(model, name) {
  if (!Object.hasOwn(model.tasks, name))
    throw new RangeError(`there is no task '${name}'; there are ${Object.keys(model.tasks).join(", ")}`);
  const { inputs, outputs } = model.tasks[name];
  for (const [port, { codec, since }] of [...Object.entries(inputs), ...Object.entries(outputs)]) {
    if (!CODECS.includes(codec))
      throw new RangeError(`port ${port} has the codec '${codec}', which this host does not know: export the model again with zoo ${since} or newer`);
  }
  return model.tasks[name];
}

/**
 * A graph's inputs from the caller's values: arrays, numbers, class names, texts, or lists of these, one per picture.
 * Defaults are filled in, and one value is used for the whole batch. Throws a TypeError or RangeError that names the port.
 */
export function complete(model, taskName, given) {
  const ports = taskOf(model, taskName).inputs;
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(ports, name))
      throw new TypeError(`${taskName} has no input '${name}'; it takes ${Object.keys(ports).join(", ")}`);
  }
  const inputs = {};
  for (const [name, port] of Object.entries(ports)) inputs[name] = toArray(name, port, given[name] ?? port.default);
  const sizes = {};
  for (const [name, port] of Object.entries(ports)) {
    const { shape } = inputs[name], missing = port.shape.length - shape.length;
    shape.forEach((length, i) => { sizes[port.shape[i + missing]] = length; }); // the last dimensions are there
  }
  for (const [name, port] of Object.entries(ports)) {
    const wanted = port.shape.map((length) => (typeof length === "string" ? sizes[length] ?? 1 : length));
    if (port.repeats || port.codec === "bytes") inputs[name] = spread(inputs[name], wanted);
    check(name, port, inputs[name], wanted);
  }
  return inputs;
}

function toArray(name, port, value) {
  if (value === undefined) throw new TypeError(`${name} is missing: ${port.dtype} [${port.shape.join(", ")}]`);
  if (value.data && value.shape) {
    if (value.dtype !== port.dtype) throw new TypeError(`${name} is ${value.dtype}; it must be ${port.dtype}`);
    if (value.data.length !== count(value.shape)) throw new RangeError(`${name} has ${value.data.length} values; its shape is [${value.shape.join(", ")}]`);
    return value;
  }
  const values = Array.isArray(value) ? value : [value];
  if (port.codec === "bytes") {
    const { data, shape } = fromTexts(name, port, values);
    return array(port.dtype, Array.isArray(value) ? shape : shape.slice(1), data);
  }
  const shape = Array.isArray(value) ? [values.length] : [];
  return array(port.dtype, shape, ARRAYS[port.dtype].from(values, (v) => toNumber(name, port, v)));
}

/** Texts as UTF-8, or their bytes: a row each, padded with zeros to the longest. */
function fromTexts(name, port, texts) {
  const rows = texts.map((text) => toUtf8(name, port, text)), length = Math.max(1, Number(port.shape.at(-1)) || 1, ...rows.map((row) => row.length));
  const whole = array("uint8", [rows.length, length]);
  rows.forEach((row, i) => whole.data.set(row, i * length));
  return whole;
}

function toUtf8(name, port, text) {
  const bytes = typeof text === "string" ? new TextEncoder().encode(text) : text, most = port.shape.at(-1);
  if (!(bytes instanceof Uint8Array)) throw new TypeError(`${name} must be text, or bytes in a Uint8Array`);
  if (typeof text === "string" ? /\p{Surrogate}/u.test(text) : !isUtf8(bytes)) throw new TypeError(`${name} is not UTF-8`);
  if (bytes.includes(0)) throw new TypeError(`${name} contains a zero byte, which marks the end of a text`);
  if (bytes.length > most) throw new RangeError(`${name} is ${bytes.length} bytes of UTF-8; it must be at most ${most}`);
  return bytes;
}

function isUtf8(bytes) {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return true;
  } catch {
    return false;
  }
}

function toNumber(name, port, value) {
  if (typeof value === "string" && port.classes) {
    const number = port.classes.findIndex((c) => c.toLowerCase() === value.toLowerCase());
    if (number < 0)
      throw new RangeError(`${name} '${value}' is not a class of this model: ${port.classes.join(", ")}`);
    return port.dtype === "int64" ? BigInt(number) : number;
  }
  const whole = port.dtype !== "float32";
  if (typeof value === "bigint" && whole) return value;
  if (typeof value !== "number" || (whole ? !Number.isSafeInteger(value) : !Number.isFinite(value)))
    throw new TypeError(`${name} is ${value}; it must be a ${whole ? "whole " : ""}number`);
  return port.dtype === "int64" ? BigInt(value) : value;
}

/** One value for the whole batch, if it does not have the first dimensions of the required shape. */
function spread({ dtype, shape, data }, wanted) {
  const whole = array(dtype, [...wanted.slice(0, Math.max(0, wanted.length - shape.length)), ...shape]);
  for (let i = 0; i < whole.data.length; i += data.length) whole.data.set(data, i);
  return whole;
}

function check(name, port, { shape, data }, wanted) {
  if (shape.length !== wanted.length || shape.some((length, i) => length !== wanted[i] || length === 0))
    throw new RangeError(`${name} has the shape [${shape.join(", ")}]; it must be [${port.shape.join(", ")}], equal for all inputs`);
  const longest = port.maximum_frames ?? port.maximum_samples;
  if (shape[1] > longest) throw new RangeError(`${name} has ${shape[1]} ${port.shape[1]}; at most ${longest} are allowed`);
  if (port.codec === "pixels") {
    const [height, width] = shape.slice(-3), smallest = port.minimum_size ?? 1, most = port.maximum_pixels ?? 4e7;
    if (Math.min(height, width) < smallest || height * width > most)
      throw new RangeError(`${name} is ${width}x${height}; at least ${smallest} pixels per side, at most ${most} in all`);
  }
  // 0.1 in model.json is not quite the closest float32.
  const held = (bound) => (port.dtype === "float32" ? Math.fround(bound) : bound);
  const low = port.minimum === undefined ? -Infinity : held(port.minimum);
  const high = port.maximum === undefined ? Infinity : held(port.maximum);
  for (const value of data) {
    if (!(value >= low && value <= high))
      throw new RangeError(`${name} is ${port.dtype === "float32" ? +value.toPrecision(6) : value}; it must be ${port.minimum ?? "any"} .. ${port.maximum ?? "any"}`);
  }
}

/** How near an output comes to the golden one: {worst, equal, same}, by the model's tolerance for its codec. */
export function compare(model, { codec }, expected, actual) {
  const tolerance = model.tolerances[`${model.export.precision ?? "float32"}/cpu`];
  if (String(actual.shape) !== String(expected.shape)) return { worst: Infinity, equal: 0, same: false };
  let worst = 0, equal = 0, near = 0, same = true;
  for (let i = 0; i < expected.data.length; i++) {
    const wanted = Number(expected.data[i]), apart = Math.abs(Number(actual.data[i]) - wanted);
    worst = Math.max(worst, apart);
    equal += apart === 0;
    near += apart <= tolerance.pixel_levels;
    if (codec === "floats") same &&= apart <= tolerance.absolute + tolerance.relative * Math.abs(wanted);
  }
  const total = expected.data.length;
  if (codec === "pixels") same = near / total >= tolerance.pixel_share && worst <= tolerance.pixel_levels_worst;
  if (codec === "integers" || codec === "bytes") same = worst === 0;
  return { worst, equal: equal / total, same: same && !Number.isNaN(worst) };
}
