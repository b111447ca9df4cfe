"""Training data of `emoji-codec`, `emoji` and `judge-emoji`: pictures, their words and their drawing styles.

    python research/emoji.py emoji.npz emoji.json --out data/

`emoji.npz` has the pictures, uint8 [N, 64, 64, 3], and `emoji.json` a row for each: style, name, tags, group, split.
They are rendered from npm's @iconify-json/{noto,noto-v1,twemoji,fluent-emoji,fluent-emoji-flat,emojione,fxemoji} with
the names and keywords of emojibase-data; skin tones, flags and letters are left out.

Writes `emoji-codec.npz` (pictures alone), `emoji.npz` (with `text` and `style`) and `judge-emoji.npz` (with `emoji`,
the name, and `style`), whose test part is the validation split: what is chosen is chosen on it. `emoji-test.npz` has
the pairs of emoji and style that are held out, and `emoji-unseen.npz` the emoji that no training picture shows: they
are for reports. These two, and `emoji-validation.npz`, have the name as the text, `style`, `emoji` and `group`, and the
training pictures for comparison.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

GROUPS = {
    0: "smiley",
    1: "person",
    3: "animal or plant",
    4: "food",
    5: "place",
    6: "activity",
    7: "object",
    8: "symbol",
}
"""emojibase's groups, as words."""

MOST_TAGS = 12  # of a caption


def captions(row: dict) -> str:
    """What a picture is called, a caption a line; the name twice, since a line is drawn at random in training."""
    name, tags = row["name"], [tag for tag in row["tags"] if tag != row["name"]]
    lines = [name, name, f"{name}, {GROUPS[row['group']]}"]
    if tags:
        lines += [", ".join(tags[:MOST_TAGS]), f"{name}, {', '.join(tags[:3])}"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pictures", type=Path, help="emoji.npz")
    parser.add_argument("rows", type=Path, help="emoji.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for the .npz files")
    given = parser.parse_args()

    found = json.loads(given.rows.read_text(encoding="utf-8"))
    rows, styles = found["rows"], list(found["styles"])
    images = np.load(given.pictures)["image"]
    split = np.array([row["split"] for row in rows])
    style = np.array([styles.index(row["style"]) for row in rows])
    text = np.array([captions(row).encode() for row in rows])
    names = np.array([row["name"].encode() for row in rows])
    known = sorted({row["name"] for row in rows})
    emoji = np.array([known.index(row["name"]) for row in rows])
    group = np.array([list(GROUPS).index(row["group"]) for row in rows])
    classes = {"style": styles, "emoji": known, "group": list(GROUPS.values())}

    def save(name: str, test: str, **arrays: np.ndarray) -> None:
        """The pictures of the training part and of a test part, and for each of them what `arrays` have."""
        found = {"images": images} | arrays
        of = {"train": split == "train", "test": split == test}
        values: dict[str, Any] = {
            f"{part}_{key}": array[rows] for part, rows in of.items() for key, array in found.items()
        }
        named: dict[str, Any] = {f"{key}_classes": np.array(classes[key]) for key in arrays if key in classes}
        np.savez_compressed(given.out / f"{name}.npz", **values, **named)

    given.out.mkdir(parents=True, exist_ok=True)
    save("emoji-codec", "validation")
    save("emoji", "validation", text=text, style=style)
    save("judge-emoji", "validation", emoji=emoji, style=style)
    for part in ("validation", "test", "unseen"):
        save(f"emoji-{part}", part, text=names, style=style, emoji=emoji, group=group)
    print(", ".join(f"{name} {int((split == name).sum()):,}" for name in ("train", "validation", "test", "unseen")))


if __name__ == "__main__":
    main()
