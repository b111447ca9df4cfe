"""This folder's model, with only NumPy and ONNX Runtime. From Python: run("generate", label="Sneaker", seed=7).

python run.py TASK --PORT VALUE ... --out FILE: pictures in as .png, .pgm, .ppm or .npy; sound as .wav or .npy; videos
as .npy, out as animated .png too; several values with commas; texts directly, each with its own --PORT, or @FILE, a
text per line. The first output that fits goes into FILE, the others are printed. --help lists the tasks and what they
take.
"""

import hashlib
import json
import os
import struct
import sys
import wave
import zlib
from pathlib import Path

import numpy as np

# Read when ONNX Runtime is imported, which otherwise writes a device id into the home folder and sends usage data.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"

HERE = Path(__file__).parent
MODEL = json.loads((HERE / "model.json").read_bytes())
TOLERANCE = MODEL["tolerances"][MODEL["export"].get("precision", "float32") + "/cpu"]
CODECS = ("pixels", "integers", "floats", "bytes")
COMMAND = f"python {Path(sys.argv[0]).name}"
PNG = b"\x89PNG\r\n\x1a\n"
SESSIONS = {}


def run(task, **ports):
    """One call of a task: arrays, lists, numbers and class names in, a dict of arrays with the batch axis out."""
    declared = task_of(task)["inputs"]
    if unknown := sorted(set(ports) - set(declared)):
        raise ValueError(f"{task} has no input '{unknown[0]}'; it takes {', '.join(declared)}")
    arrays = {name: to_array(name, port, ports.get(name, port.get("default"))) for name, port in declared.items()}
    ends = [zip(port["shape"][::-1], arrays[name].shape[::-1], strict=False) for name, port in declared.items()]
    sizes = {dimension: length for end in ends for dimension, length in end}
    for name, port in declared.items():
        wanted = [sizes.get(d, 1) if isinstance(d, str) else d for d in port["shape"]]
        missing = len(wanted) - arrays[name].ndim
        if missing > 0 and (port.get("repeats") or port["codec"] == "bytes"):  # one value is used for the whole batch
            arrays[name] = np.broadcast_to(arrays[name], [*wanted[:missing], *arrays[name].shape]).copy()
        check(name, port, arrays[name], wanted)
    return call(task, arrays)


def task_of(name):
    if name not in MODEL["tasks"]:
        raise ValueError(f"there is no task '{name}'; there are {', '.join(MODEL['tasks'])}")
    task = MODEL["tasks"][name]
    for port, told in (*task["inputs"].items(), *task["outputs"].items()):
        if (codec := told["codec"]) not in CODECS:
            advice = f"export the model again with zoo {told['since']} or newer"
            raise ValueError(f"port {port} has the codec '{codec}', which this host does not know: {advice}")
    return task


def to_array(name, port, value):
    if value is None:
        raise ValueError(f"{name} is missing: {port['dtype']} {port['shape']}")
    names, values = [c.casefold() for c in port.get("classes", [])], value if isinstance(value, list) else [value]
    if port["codec"] == "bytes" and not isinstance(value, np.ndarray):  # texts, padded with zeros to the longest
        rows = [to_utf8(name, port, v) for v in values]
        length = max(1, *map(len, rows), *(d for d in port["shape"][-1:] if isinstance(d, int)))
        array = np.array(rows, f"S{length}").view(np.uint8).reshape(-1, length)
        return array if isinstance(value, list) else array[0]
    if unknown := [v for v in values if isinstance(v, str) and v.casefold() not in names]:
        known = f"class of this model: {', '.join(port['classes'])}" if names else "number"
        raise ValueError(f"{name} '{unknown[0]}' is not a {known}")
    values = [names.index(v.casefold()) if isinstance(v, str) else v for v in values]
    return np.asarray(values if isinstance(value, list) else values[0]).astype(port["dtype"], casting="same_kind")


def to_utf8(name, port, text):
    """A text, or its bytes, as UTF-8 that fits into the port."""
    try:
        data = text.encode() if isinstance(text, str) else bytes(memoryview(text))
        data.decode()
    except UnicodeError:
        raise ValueError(f"{name} is not UTF-8") from None
    if b"\0" in data:
        raise ValueError(f"{name} contains a zero byte, which marks the end of a text")
    most = port["shape"][-1]
    if isinstance(most, int) and len(data) > most:
        raise ValueError(f"{name} is {len(data)} bytes of UTF-8; it must be at most {most}")
    return data


def check(name, port, array, wanted):
    if list(array.shape) != wanted or 0 in wanted:
        raise ValueError(f"{name} has the shape {list(array.shape)}; it must be {port['shape']}, equal for all inputs")
    longest = port.get("maximum_frames") or port.get("maximum_samples")
    if longest and array.shape[1] > longest:
        raise ValueError(f"{name} has {array.shape[1]} {port['shape'][1]}; at most {longest} are allowed")
    if port["codec"] == "pixels":
        (height, width), least, most = array.shape[-3:-1], port.get("minimum_size", 1), port.get("maximum_pixels", 4e7)
        if min(height, width) < least or height * width > most:
            raise ValueError(f"{name} is {width}x{height}; at least {least} pixels per side, at most {most:,} in all")
    least, most = (array.dtype.type(port.get(end, array.min())) for end in ("minimum", "maximum"))
    if not np.isfinite(array).all() or array.min() < least or ("maximum" in port and array.max() > most):
        raise ValueError(f"{name} is {array.min()} .. {array.max()}; it must be {least} .. {port.get('maximum', '')}")


def call(task, arrays):
    outputs = task_of(task)["outputs"]
    if task not in SESSIONS:
        for name, file in MODEL["files"].items():
            if hashlib.sha256((HERE / "model" / name).read_bytes()).hexdigest() != file["sha256"]:
                raise ValueError(f"model/{name} is damaged: copy the folder again")
        SESSIONS[task] = load(HERE / "model" / f"{task}.onnx")
    return dict(zip(outputs, SESSIONS[task](arrays), strict=True))


def load(graph):
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, arrays)


def cases():
    return json.loads((HERE / "golden" / "cases.json").read_bytes())


def read_raw(array):
    return np.fromfile(HERE / "golden" / array["file"], array["dtype"]).reshape(array["shape"])


def verify(out=None):
    """Runs the golden cases; an error if one is off by more than the model's tolerance. Keeps outputs in `out`."""
    for case in cases():
        outputs = call(case["task"], {name: read_raw(a) for name, a in case["inputs"].items()})
        for name, a in case["outputs"].items():
            codec, expected = MODEL["tasks"][case["task"]]["outputs"][name]["codec"], read_raw(a).astype(float)
            apart = abs(outputs[name].astype(float) - expected)
            slack = {"pixels": TOLERANCE["pixel_levels_worst"], "floats": TOLERANCE["absolute"]}.get(codec, 0)
            near = (apart <= slack + (codec == "floats") * TOLERANCE["relative"] * abs(expected)).all()
            near &= codec != "pixels" or (apart <= TOLERANCE["pixel_levels"]).mean() >= TOLERANCE["pixel_share"]
            print(f"{case['task']} {case['case']} {name}: worst {apart.max():.3g}, {(apart == 0).mean():.4%} equal")
            if out:
                outputs[name].tofile(Path(out) / a["file"])
            elif not near:
                raise ValueError("the outputs differ")


def read_value(port, words):
    """The value of an option: of the last word that was given for it, or of all if they are texts."""
    text = words[-1]
    if text.endswith(".npy"):
        return np.load(text)
    if text in (golden := {f"golden/{a['file']}": a for case in cases() for a in case["inputs"].values()}):
        return read_raw(golden[text])
    if port["codec"] == "bytes":
        texts = [line for word in words for line in read_texts(word)]
        return texts if len(texts) > 1 else texts[0]
    if "frame_rate" in port:
        raise ValueError(f"{text} must be a .npy file: uint8 {port['shape']}")
    if "sample_rate" in port:
        return read_wav(port, text)
    if port["codec"] == "pixels":
        data = Path(text).read_bytes()
        return to_channels(port, text, read_png(port, text, data) if data[:8] == PNG else read_pnm(text, data))
    values = [text] if text.casefold() in [c.casefold() for c in port.get("classes", [])] else text.split(",")
    numbers = [float(v) if port["codec"] == "floats" else int(v) if v.lstrip("-").isdigit() else v for v in values]
    return numbers if len(numbers) > 1 else numbers[0]


def read_texts(word):
    """The texts that a word stands for: itself; @FILE: the file's lines; @@...: a text that begins with an at sign."""
    if not word.startswith("@") or word.startswith("@@"):
        return [word[1:] if word.startswith("@@") else word]
    try:
        lines = [line.strip() for line in Path(word[1:]).read_bytes().decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError:
        raise ValueError(f"{word[1:]} is not UTF-8") from None
    if not any(lines):
        raise ValueError(f"{word[1:]} contains no text")
    return [line for line in lines if line]


def read_wav(port, path):
    """The sound in a WAV file, float32 [1, samples, channels]: 16 bits, with the port's sample rate and channels."""
    rate, channels = port["sample_rate"], port["shape"][2]
    try:
        with wave.open(path, "rb") as file:
            found = file.getsampwidth(), file.getframerate(), file.getnchannels()
            levels = np.frombuffer(file.readframes(file.getnframes()), "<i2" if found[0] == 2 else "u1")
    except (wave.Error, EOFError) as e:
        raise ValueError(f"{path} is not a WAV file that can be read: {e or 'cut short'}") from None
    if found != (2, rate, channels):
        raise ValueError(f"{path} must have 16 bits, {rate} Hz and {channels} channel{'s' * (channels > 1)}")
    return (levels[: len(levels) // channels * channels].reshape(1, -1, channels) / 2**15).astype(np.float32)


def read_pnm(path, data):
    magic, *rest = data.split(b"\n", 3)  # P5 or P6, width and height, 255, pixels
    if magic not in (b"P5", b"P6") or len(rest) < 3:
        raise ValueError(f"{path} is not a PNG, PGM, PPM or .npy file")
    size, _, pixels = rest
    return np.frombuffer(pixels, np.uint8).reshape(1, *map(int, reversed(size.split())), -1)


def read_png(port, path, data):
    """The pixels, uint8 [1, height, width, 1 or 3]. Reads 8-bit grey and RGB; an alpha channel must be opaque."""
    chunks, at = [], 8
    while at + 12 <= len(data) and (not chunks or chunks[-1][0] != b"IEND"):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"{path} is damaged")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : end]))
        at = end + 4
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13 or chunks[-1][0] != b"IEND":
        raise ValueError(f"{path} is damaged")
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if depth != 8 or colours not in (0, 2, 4, 6) or interlaced:
        raise ValueError(f"{path} must be a PNG with 8 bits per channel, grey or RGB, not interlaced")
    most = port.get("maximum_pixels", 4 * 10**7)
    if not 0 < width * height <= most:  # before memory is taken for them
        raise ValueError(f"{path} is {width}x{height}; at most {most} pixels in all")
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colours]
    size, inflater = height * (1 + width * channels), zlib.decompressobj()
    try:
        raw = inflater.decompress(b"".join(body for name, body in chunks if name == b"IDAT"), size + 1)
    except zlib.error:
        raw = b""
    rows = np.frombuffer(raw, np.uint8)
    if len(rows) != size or not inflater.eof or (rows := rows.reshape(height, -1))[:, 0].max() > 4:
        raise ValueError(f"{path} is damaged")
    pixels = np.zeros((height, width * channels), np.uint8)
    above = np.zeros(width * channels, np.uint8)
    for y, (kind, *_) in enumerate(rows[:, :1].tolist()):
        above = pixels[y] = unfilter(kind, rows[y, 1:], above, channels)
    pixels = pixels.reshape(1, height, width, channels)
    if any(name == b"tRNS" for name, _ in chunks) or (channels in (2, 4) and pixels[..., -1].min() < 255):
        raise ValueError(f"{path} is partly transparent: save it without transparency")
    return pixels[..., : channels - (channels in (2, 4))]


def unfilter(kind, row, above, step):
    """A row of a PNG from its differences to the pixel on its left, the one above or both (PNG specification, 9)."""
    if kind in (0, 2):
        return row + above if kind else row
    if kind == 1:
        return row.reshape(-1, step).cumsum(axis=0, dtype=np.uint8).reshape(-1)
    done, row, above = [0] * step, row.tolist(), [0] * step + above.tolist()
    for i, value in enumerate(row):
        left, up, corner = done[i], above[i + step], above[i]
        if kind == 3:
            near = (left + up) // 2
        else:  # Paeth: the neighbour that is closest to left + up - corner
            a, b, c = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            near = left if a <= b and a <= c else up if b <= c else corner
        done.append((value + near) & 255)
    return np.array(done[step:], np.uint8)


def to_channels(port, path, pixels):
    """Grey as RGB where the port takes RGB, and RGB as grey if it contains nothing else."""
    wanted, found = port["shape"][-1], pixels.shape[-1]
    if (wanted, found) == (3, 1):
        return pixels.repeat(3, axis=-1)
    if (wanted, found) == (1, 3):
        if (pixels != pixels[..., :1]).any():
            raise ValueError(f"{path} is in colour; this task takes grey pictures")
        return pixels[..., :1]
    return pixels


def write(path, port, array):
    """Writes an output to a file with this ending; False if the ending does not fit."""
    if path.endswith(".npy"):
        np.save(path, array)
    elif path.endswith(".png") and port["codec"] == "pixels" and array.ndim in (4, 5):
        videos = array if array.ndim == 5 else array[:, None]
        write_png(path, np.swapaxes(videos, 0, 1), port.get("frame_rate", 1))
    elif path.endswith(".wav") and "sample_rate" in port:
        with wave.open(path, "wb") as file:  # one sound after the other
            file.setparams((array.shape[2], 2, port["sample_rate"], 0, "NONE", ""))
            file.writeframes(np.rint(array.astype(float) * 2**15).clip(-(2**15), 2**15 - 1).astype("<i2").tobytes())
    else:
        return False
    return True


def write_png(
    path, frames, rate
):  # uint8 [frames, batch, height, width, 1 or 3], one below the other; several animated
    number, batch, height, width, channels = frames.shape
    size = struct.pack(">II", width, batch * height)
    chunks = [b"IHDR" + size + struct.pack(">BBBBB", 8, {1: 0, 3: 2}[channels], 0, 0, 0)]
    chunks += [b"acTL" + struct.pack(">II", number, 0)] if number > 1 else []
    for n, frame in enumerate(frames):  # fcTL and fdAT count up together
        if number > 1:
            chunks.append(b"fcTL" + struct.pack(">I8s8xHHBB", max(0, 2 * n - 1), size, 1, rate, 0, 0))
        rows = frame.reshape(batch * height, width * channels)
        data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        chunks.append(b"fdAT" + struct.pack(">I", 2 * n) + data if n else b"IDAT" + data)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (*chunks, b"IEND")]
    Path(path).write_bytes(PNG + b"".join(chunks))


def usage(tasks):
    """What --help prints: the inputs of these tasks with their ranges, and for each an example that works."""
    lines = [f"{MODEL['name']} {MODEL['version']}: {MODEL['summary']}", ""]
    lines += [f"usage: {COMMAND} TASK --PORT VALUE ... [--out FILE.png, .wav or .npy]", f"       {COMMAND} verify"]
    for name in tasks:
        task = task_of(name)
        lines += ["", f"{name}: {task['summary']}"]
        lines += [f"  --{port} {takes(told)}" for port, told in task["inputs"].items()]
        lines += [f"  gives {', '.join(task['outputs'])}", f"  example: {example(name, task)}"]
    return "".join(c if c.isprintable() or c == "\n" else " " for c in "\n".join(lines))


def takes(port):
    shape = f"{port['dtype']} [{', '.join(map(str, port['shape']))}]"
    if port["codec"] == "bytes":
        most = f": at most {shape} bytes of UTF-8" if isinstance(shape := port["shape"][-1], int) else ""
        return f"TEXT or @FILE, a text per line{most}"
    if port["codec"] == "pixels" and "frame_rate" not in port:
        limits = [f"at least {port['minimum_size']} pixels per side"] if "minimum_size" in port else []
        limits += [f"at most {port['maximum_pixels']} in all"] if "maximum_pixels" in port else []
        return f"FILE (PNG, PGM, PPM or .npy): {shape}" + (f"; {', '.join(limits)}" if limits else "")
    bounded = "minimum" in port or "maximum" in port
    bounds = f", {port.get('minimum', 'any')} .. {port.get('maximum', 'any')}" if bounded else ""
    names = port.get("classes", [])
    more = f", ... ({len(names)} classes)" if len(names) > 20 else ""
    known = f", or a class: {', '.join(names[:20])}{more}" if names else ""
    default = f"; default {port['default']}" if "default" in port else ""
    files = "FILE (WAV or .npy)" if "sample_rate" in port else "FILE.npy"
    return f"{'VALUE' if len(port['shape']) < 2 else files}: {shape}{bounds}{known}{default}"


def example(name, task):
    case = next((case["inputs"] for case in cases() if case["task"] == name), {})
    words = [COMMAND, name]
    for port, told in task["inputs"].items():
        single = told.get("repeats") or told["codec"] == "bytes" or port not in case
        if "default" not in told or (told["codec"] == "bytes" and told["sample"]):
            words += [f"--{port}", told["sample"] if single else f"golden/{case[port]['file']}"]
    shown = next((n for n, p in task["outputs"].items() if p["codec"] == "pixels" and len(p["shape"]) == 4), None)
    return " ".join([*words, "--out", f"{shown}.png" if shown else f"{next(iter(task['outputs']))}.npy"])


def main(task="", *words):
    if not task or {"--help", "-h"} & {task, *words[::2]}:
        return print(usage(MODEL["tasks"] if task in ("", "--help", "-h", "verify") else [task]))
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise ValueError(f"after the task come --PORT VALUE and --out FILE; tasks: {', '.join(MODEL['tasks'])}")
    options = {}
    for word, value in zip(words[::2], words[1::2], strict=True):
        options.setdefault(word[2:], []).append(value)
    out = options.pop("out", [""])[-1]
    if task == "verify":
        return verify(out)
    if out and not out.endswith((".png", ".wav", ".npy")):
        raise ValueError(f"{out} must end in .png, .wav or .npy")
    ports, results = task_of(task)["inputs"], task_of(task)["outputs"]
    given = {name: read_value(ports[name], words) if name in ports else words for name, words in options.items()}
    for name, array in run(task, **given).items():
        if write(out, results[name], array):
            out = ""
        else:
            print(json.dumps({name: array.tolist()}))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ValueError, TypeError, OSError) as e:
        sys.exit(f"Error: {e}")
