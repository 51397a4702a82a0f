"""Classify images with an exported model: python predict_numpy.py photo.jpg ...

Needs numpy, Pillow and onnxruntime only. Reads preprocessing.json and model.json beside this file.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["prepared"]


def prepared(file: Path, rules: dict[str, Any]) -> Any:
    """Return the network's input (1, 3, S, S) uint8 for an image file, as in training."""
    shorter, size = rules["shorter_side"], rules["crop"]
    with Image.open(file, formats=rules["formats"]) as opened:
        turned = opened.getexif().get(0x0112, 1)
        if opened.format == "JPEG":  # large ones are decoded at 1/2, 1/4 or 1/8 of their size
            opened.draft("RGB", (2 * shorter, 2 * shorter))
        image: Image.Image = opened.copy()
    if image.mode[0] in "IF":  # grey values of more than 8 bits
        grey = np.nan_to_num(np.asarray(image).astype(np.float64)).clip(0)
        whole = image.mode != "F"
        white = rules["white"] or (65535 if whole and grey.max() > 255 else 255)
        scaled = grey.clip(0, white) * 256 / (white + 1) if whole else np.rint(grey * 255 / white)
        image = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer, image = image.convert("RGBA"), Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    factor = math.ceil(math.sqrt(image.width * image.height / 2**24))
    image = (image.reduce(factor) if factor > 1 else image).convert("RGB")
    if turned in range(2, 9):
        image = image.transpose([0, 3, 1, 5, 4, 6, 2][turned - 2])
    width, height = image.size
    least = min(width, height)
    sides = (shorter * width // least, shorter * height // least)
    if least != shorter:
        image = image.resize(sides, getattr(Image.Resampling, rules["interpolation"].upper()))
    left, top = (round((side - size) / 2) for side in sides)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def main(files: list[str]) -> None:
    """Print the most likely class of each file and its probability, or that it abstains."""
    import onnxruntime

    folder = Path(__file__).parent
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    rules = json.loads((folder / "preprocessing.json").read_text(encoding="utf-8"))
    network = onnxruntime.InferenceSession(str(folder / model["file"]))
    threshold = (model["abstain"] or {"threshold": 0})["threshold"]
    for file in files:
        row = network.run(["probabilities"], {"inputs": prepared(Path(file), rules)})[0][0]
        name = model["classes"][row.argmax()] if row.max() >= threshold else "(abstained)"
        print(f"{file}\t{name}\t{row.max():.6f}")


if __name__ == "__main__":
    main(sys.argv[1:])
