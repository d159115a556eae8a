"""Makes pictures to measure with, each as hard to decode as a photograph of its size: colours whose fine detail falls off
as in photographs (amplitude by the inverse of frequency, or faster), sharp edges over it, as JPEG of quality 89 with 4:2:0
colour. That gives about 1.9 bits a pixel at 1.6 megapixels, as pictures made smaller for the web have, and 1.4 at 11, as
come out of cameras, where each pixel tells less. It matters: entropy decoding takes its time by the bit.

photos-1.6mp, photos-11mp   two dozen each, wide, tall and 3:2
thumbs                      three dozen of 64x64
formats                     one photo in every format and of several sizes, for benches/pure.rs"""
import argparse
import pathlib

import numpy as np
from PIL import Image, ImageDraw

COUNT = 24
SHARP, SOFT = 1.33, 1.4
# How fast amplitude falls off with frequency, and widths and heights.
PHOTOS = {
    "photos-1.6mp": (SHARP, [(1462, 1096), (1096, 1462), (1549, 1033)]),
    "photos-11mp": (SOFT, [(3904, 2928), (2928, 3904), (4134, 2756)]),
}
JPEG = {"quality": 89, "subsampling": "4:2:0"}
FIELD = 4608


def field(random, falloff):
    """Noise whose amplitude falls off with frequency, of mean 0 and spread 1; it joins at its edges."""
    across, down = np.fft.rfftfreq(FIELD), np.fft.fftfreq(FIELD)
    frequency = np.hypot(across[None, :], down[:, None]).astype(np.float32)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.standard_normal((FIELD, FIELD), dtype=np.float32))
    noise = np.fft.irfft2(spectrum * frequency**-falloff)
    return (noise / noise.std()).astype(np.float32)


class Painter:
    def __init__(self, seed, falloff):
        self.random = np.random.default_rng(seed)
        # Brightness has more fine detail than colour.
        self.fields = [field(self.random, falloff + more) for more in (0, 0.25, 0.25)]

    def window(self, plane, width, height):
        """A part of a field, somewhere else every time."""
        left, top = self.random.integers(FIELD, size=2)
        across, down = (left + np.arange(width)) % FIELD, (top + np.arange(height)) % FIELD
        part = plane[np.ix_(down, across)]
        return part[:, ::-1] if self.random.random() < 0.5 else part

    def photo(self, width, height):
        light, warm, tint = (self.window(plane, width, height) for plane in self.fields)
        base = self.random.uniform(90, 160)
        luma = base + self.random.uniform(38, 55) * light
        blue, red = 128 + 14 * warm, 128 + 14 * tint
        planes = np.stack([luma, blue, red], axis=-1).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(planes, "YCbCr").convert("RGB")
        return self.with_objects(picture)

    def with_objects(self, picture):
        """Sharp edges, as of things in front of others: parts of the picture are shown lighter or darker."""
        width, height = picture.size
        mask = Image.new("L", picture.size, 0)
        draw = ImageDraw.Draw(mask)
        for _ in range(40):
            x, y = self.random.uniform(0, width), self.random.uniform(0, height)
            radius = self.random.uniform(0.01, 0.12) * max(width, height)
            corners = self.random.uniform(-radius, radius, (5, 2)) + (x, y)
            draw.polygon([tuple(corner) for corner in corners], fill=int(self.random.integers(40, 110)))
        other = Image.new("RGB", picture.size, tuple(int(c) for c in self.random.integers(0, 256, 3)))
        return Image.composite(other, picture, mask)


def photos(folder):
    for name, (falloff, sizes) in PHOTOS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        painter = Painter(0, falloff)
        for number in range(COUNT):
            painter.photo(*sizes[number % len(sizes)]).save(folder / name / f"{number:02}.jpg", **JPEG)


def thumbs(folder):
    painter = Painter(1, SHARP)
    (folder / "thumbs").mkdir(parents=True, exist_ok=True)
    for number in range(36):
        painter.photo(1024, 1024).resize((64, 64), Image.Resampling.BICUBIC).save(
            folder / "thumbs" / f"{number:02}.jpg", **JPEG
        )


def formats(folder):
    painter = Painter(2, SHARP)
    target = folder / "formats"
    target.mkdir(parents=True, exist_ok=True)
    Painter(2, SOFT).photo(3904, 2928).save(target / "11mp.jpeg", **JPEG)
    for name, size in {"0.3mp": (640, 480), "1.6mp": (1462, 1096)}.items():
        painter.photo(*size).save(target / f"{name}.jpeg", **JPEG)
    photo = painter.photo(1462, 1096)
    photo.save(target / "1.6mp-progressive.jpeg", progressive=True, **JPEG)
    photo.save(target / "1.6mp.png")
    photo.save(target / "1.6mp.webp", quality=85)
    photo.save(target / "1.6mp-lossless.webp", lossless=True, method=1)
    photo.save(target / "1.6mp.gif")
    photo.save(target / "1.6mp.bmp")
    photo.save(target / "1.6mp.tiff", compression="tiff_lzw")
    clear = photo.copy()
    clear.putalpha(Image.linear_gradient("L").resize(photo.size))
    clear.save(target / "1.6mp-transparent.png")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path, help="where they are made; what is there stays")
    folder = arguments.parse_args().folder
    done = folder / "done"
    if not done.exists():
        for make in photos, thumbs, formats:
            make(folder)
        done.touch()
        print(f"made pictures in {folder}")
