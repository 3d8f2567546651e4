#!/usr/bin/env python3
"""Lays out the models of examples/, with a picture for each that takes them; see scripts/fetch_examples.

    make_examples.py PACKAGES OUT
"""

import ast
import json
import pathlib
import shutil
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import make_image_models

ROOT = pathlib.Path(__file__).resolve().parent.parent


def laid(out, name):
    """The folder of an example, with its settings."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "examples" / name / "model.toml", folder)
    return folder


def written(text, size, colour):
    image = Image.new("RGB", size, (245, 245, 240))
    ImageDraw.Draw(image).text((12, size[1] // 10), text, fill=colour, font=ImageFont.load_default(size=size[1] * 0.7))
    return image


def characters(source, name):
    """A list of characters of a Python file, without running it."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise SystemExit(f"make_examples: {source} has no {name}")


def main():
    packages, out = map(pathlib.Path, sys.argv[1:3])
    folder = laid(out, "text-line")
    reader = packages / "rapidocr-onnxruntime/rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
    shutil.copy(reader, folder / "model.onnx")
    written("Hello, world 2026", (420, 48), (20, 20, 20)).save(out / "text-line.png")

    folder = laid(out, "captcha")
    package = packages / "ddddocr/ddddocr"
    # The reader that DdddOcr() loads where nothing else is asked of it.
    shutil.copy(package / "common_old.onnx", folder / "model.onnx")
    (folder / "characters.json").write_text(json.dumps(characters(package / "charsets.py", "CHARSET_OLD")))
    written("k7m2", (160, 60), (30, 60, 160)).save(out / "captcha.png")

    folder = laid(out, "magika")
    package = packages / "magika/magika"
    for file in ["models/standard_v3_3/model.onnx", "models/standard_v3_3/config.min.json", "config/content_types_kb.min.json"]:
        shutil.copy(package / file, folder)

    folder = laid(out, "yolo")
    make_image_models.detect(folder)
    shutil.copy(ROOT / "examples/yolo/model.toml", folder)
    image = Image.new("RGB", (640, 480), (0, 0, 40))
    draw = ImageDraw.Draw(image)
    draw.rectangle([160, 80, 319, 239], fill=(250, 10, 10))
    draw.rectangle([480, 240, 639, 399], fill=(10, 250, 10))
    image.save(out / "yolo.jpg", quality=95)

    folder = laid(out, "vit")
    make_image_models.classify(folder)
    noise = np.random.default_rng(5).normal(128, 40, (48, 64, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noise).resize((1024, 768), Image.BICUBIC).save(out / "vit.jpg", quality=90)


if __name__ == "__main__":
    main()
