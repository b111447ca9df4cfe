"""Training data of `emoji-codec` and `emoji`: pictures, their words and their drawing styles.

    python research/emoji.py emoji.npz emoji.json --out data/

`emoji.npz` has the pictures, uint8 [N, 64, 64, 3], and `emoji.json` a row for each: style, name, tags, group, split.
They are rendered from npm's @iconify-json/{noto,noto-v1,twemoji,fluent-emoji,fluent-emoji-flat,emojione,fxemoji} with
the names and keywords of emojibase-data; skin tones, flags and letters are left out.

Writes `emoji-codec.npz` (pictures alone) and `emoji.npz` (with `text` and `style`), whose test part is the validation
split: what is chosen is chosen on it. `emoji-test.npz` has the pairs of emoji and style that are held out, and
`emoji-unseen.npz` the emoji that no training picture shows: they are for reports.
"""

import argparse
import json
from pathlib import Path

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
    given.out.mkdir(parents=True, exist_ok=True)
    train, validation = split == "train", split == "validation"
    parts = {"train": train, "test": validation}
    pictures = {f"{part}_images": images[chosen] for part, chosen in parts.items()}
    words = {f"{part}_text": text[chosen] for part, chosen in parts.items()}
    words |= {f"{part}_style": style[chosen] for part, chosen in parts.items()}
    np.savez(given.out / "emoji-codec.npz", **pictures)
    np.savez(given.out / "emoji.npz", **pictures, **words, style_classes=np.array(styles))
    for part in ("test", "unseen"):
        chosen = split == part
        values = {"test_images": images[chosen], "test_text": names[chosen], "test_style": style[chosen]}
        np.savez(given.out / f"emoji-{part}.npz", **values, style_classes=np.array(styles))
    print(", ".join(f"{name} {int((split == name).sum()):,}" for name in ("train", "validation", "test", "unseen")))


if __name__ == "__main__":
    main()
