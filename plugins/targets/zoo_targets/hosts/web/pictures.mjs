// Converts pictures between files, canvases and arrays. An array is {dtype: "uint8", shape: [batch, height, width, channels], data}.

import { array, count } from "./ports.mjs";

/**
 * A picture file as an `image` port needs it: upright, on white, with its channels and size. Reports each change.
 * Throws a TypeError or RangeError for a file that is not a picture or too small.
 */
export async function readPicture(file, port, tell) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new TypeError(`${file.name || "that"} is not a picture that this browser can read`);
  }
  return fit(bitmap, port, tell);
}

/** The first picture of a batch as another port needs it. Throws like `readPicture`. */
export function refit(picture, port, tell) {
  const [, height, width, channels] = picture.shape, [, ...wanted] = port.shape;
  const free = wanted.slice(0, 2).every((length) => typeof length === "string");
  if (channels === wanted[2] && (free || (height === wanted[0] && width === wanted[1]))) return picture;
  const canvas = document.createElement("canvas");
  drawPicture(canvas, picture);
  return fit(canvas, port, tell);
}

/** A canvas, or what can be drawn on one, as an `image` port needs it. Throws like `readPicture`. */
export function fit(source, port, tell) {
  const [, wantedHeight, wantedWidth, channels] = port.shape;
  let { width, height } = source, cut = [0, 0, width, height];
  if (typeof wantedHeight === "number" && (width !== wantedWidth || height !== wantedHeight)) {
    const scale = Math.min(width / wantedWidth, height / wantedHeight);
    const [w, h] = [wantedWidth * scale, wantedHeight * scale];
    cut = [(width - w) / 2, (height - h) / 2, w, h];
    const square = Math.round(w) === width && Math.round(h) === height;
    tell(`${width}x${height}: ${square ? "" : "cut at the centre and "}scaled to ${wantedWidth}x${wantedHeight}`);
    [width, height] = [wantedWidth, wantedHeight];
  } else {
    const smallest = port.minimum_size ?? 1, most = port.maximum_pixels ?? 4e7;
    if (Math.min(width, height) < smallest)
      throw new RangeError(`the picture is ${width}x${height}; at least ${smallest} pixels per side are needed`);
    if (width * height > most) {
      const scale = Math.sqrt(most / (width * height));
      const small = [Math.floor(width * scale), Math.floor(height * scale)];
      tell(`${width}x${height}: scaled to ${small.join("x")}`);
      [width, height] = small;
    }
  }
  const canvas = new OffscreenCanvas(width, height), pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, ...cut, 0, 0, width, height);
  return fromPixels(pen.getImageData(0, 0, width, height), channels);
}

function fromPixels({ data, width, height }, channels) {
  const picture = array("uint8", [1, height, width, channels]);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = data.subarray(4 * i, 4 * i + 3);
    if (channels === 3) picture.data.set([r, g, b], 3 * i);
    else picture.data[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16; // ITU-R 601, as Pillow rounds it
  }
  return picture;
}

/** Draws one picture of a batch on a canvas, pixel for pixel. */
export function drawPicture(canvas, { shape: [, height, width, channels], data }, index = 0) {
  size(canvas, width, height);
  const pixels = new ImageData(width, height), start = index * height * width * channels;
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 4; c++) pixels.data[4 * i + c] = c === 3 ? 255 : data[start + i * channels + (channels === 3 ? c : 0)];
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** Marks the pixels of a mask that are 128 or more, over what the canvas shows. */
export function drawMask(canvas, { shape: [, height, width], data }, index = 0) {
  const pen = canvas.getContext("2d"), start = index * height * width;
  pen.fillStyle = "rgb(235 80 60 / .65)";
  for (let i = 0; i < width * height; i++) if (data[start + i] >= 128) pen.fillRect(i % width, Math.floor(i / width), 1, 1);
}

/** Draws the codes of one picture, int64 [batch, rows, columns], a colour each. */
export function drawTokens(canvas, { shape: [, rows, columns], data }, index = 0) {
  size(canvas, columns, rows);
  const pen = canvas.getContext("2d");
  for (let i = 0; i < rows * columns; i++) {
    const code = Number(data[index * rows * columns + i]);
    pen.fillStyle = `hsl(${(code * 137.508) % 360} 60% ${35 + ((code * 29) % 40)}%)`;
    pen.fillRect(i % columns, Math.floor(i / columns), 1, 1);
  }
}

// From the smallest value of a map to its largest: five of matplotlib's viridis.
const COLOURS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

/** The smallest and the largest finite value of a batch of maps. */
export function rangeOf({ data }) {
  let low = Infinity, high = -Infinity;
  for (const value of data) if (Number.isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value); }
  return low > high ? [0, 0] : [low, high];
}

/** Draws one map of a batch, float32 [batch, height, width] or with channels, which are drawn side by side. */
export function drawMap(canvas, maps, index = 0) {
  const [, height, width, channels = 1] = maps.shape, [low, high] = rangeOf(maps), start = index * height * width * channels;
  size(canvas, width * channels, height);
  const pixels = new ImageData(width * channels, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width * channels; x++) {
      const value = maps.data[start + (y * width + (x % width)) * channels + Math.floor(x / width)];
      const at = Number.isFinite(value) ? ((value - low) / (high - low || 1)) * (COLOURS.length - 1) : 0;
      const below = Math.min(Math.floor(at), COLOURS.length - 2), part = at - below;
      const colour = COLOURS[below].map((c, i) => Math.round(c + part * (COLOURS[below + 1][i] - c)));
      pixels.data.set([...colour, 255], 4 * (y * width * channels + x));
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function size(canvas, width, height) {
  Object.assign(canvas, { width, height });
  canvas.classList.toggle("pixels", Math.max(width, height) < 160); // small pictures are shown with sharp pixels
}

/** One picture again and again, a batch of it. */
export function repeat({ dtype, shape, data }, times) {
  const whole = array(dtype, [times, ...shape.slice(1)]);
  for (let i = 0; i < times; i++) whole.data.set(data.subarray(0, data.length / shape[0]), (i * data.length) / shape[0]);
  return whole;
}

/** One element of a batch, as a batch of one. */
export function pick({ dtype, shape, data }, index) {
  const one = [1, ...shape.slice(1)], length = count(one);
  return array(dtype, one, data.slice(index * length, (index + 1) * length));
}
