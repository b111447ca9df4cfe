// Makes elements and words for people. What a model says about itself becomes text, never HTML.

/** An element with properties, attributes (`data`) and children. */
export function make(tag, properties = {}, ...children) {
  const { data, ...plain } = properties;
  const element = Object.assign(document.createElement(tag), plain);
  for (const [name, value] of Object.entries(data ?? {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** `upscale_2`, `upscale2`: "upscale 2". */
export const words = (name) => name.replaceAll("_", " ").replace(/([a-z])(\d)/g, "$1 $2");

const capital = (text) => text.replace(/^./u, (c) => c.toUpperCase());

export const title = (name) => capital(words(name));

/** Phrases as sentences: "of each picture" becomes "Of each picture." */
export const sentences = (...phrases) =>
  phrases.filter(Boolean).map((text) => capital(text) + (/[.!?]$/.test(text) ? "" : ".")).join(" ");

/** Saves a file. */
export function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Gives an `audio` element a WAV file to play, in place of the one before. */
export function play(element, wav) {
  URL.revokeObjectURL(element.src);
  element.src = URL.createObjectURL(new Blob([wav], { type: "audio/wav" }));
  return element;
}
