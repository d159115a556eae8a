"""Draws the sample images beside this script, one for each thing the demo model can see. Needs: pip install pillow numpy."""

import pathlib

import numpy as np
from PIL import Image

FOLDER = pathlib.Path(__file__).parent
random = np.random.default_rng(7)


def grid(width, height):
    """x and y of every pixel, 0 to 1."""
    return np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))


def blend(stops, t):
    """Colours along a list of (position, (r, g, b))."""
    places, colours = zip(*stops)
    return np.stack([np.interp(t, places, [c[i] for c in colours]) for i in range(3)], axis=-1)


def waves(width, height, octaves=6):
    """Smooth noise, -1 to 1, coarse and fine."""
    field = np.zeros((height, width))
    for octave in range(octaves):
        cells = random.normal(size=(2 + 2**octave, 3 + 2**octave)).astype(np.float32)
        layer = Image.fromarray(cells).resize((width, height), Image.BICUBIC)
        field += np.asarray(layer) / 1.7**octave
    return np.clip(field / 2.2, -1, 1)


def paint(picture, mask, colour):
    mask = np.clip(mask, 0, 1)[..., None]
    return picture * (1 - mask) + np.asarray(colour, float) * mask


def ridge(x, y, level, height, seed):
    """Everything below a line of hills."""
    r = np.random.default_rng(seed)
    line = level + height * sum(np.sin(x * f * 6.28 + r.uniform(0, 6.28)) / f for f in (1.3, 2.9, 6.1, 12.7, 27.0))
    return (y - line) * 300


def save(name, picture, **options):
    mode = "RGBA" if picture.shape[-1] == 4 else "RGB"
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8), mode).save(FOLDER / name, **options)


def sunset():
    x, y = grid(480, 360)
    sky = blend([(0, (214, 84, 32)), (0.45, (250, 138, 30)), (0.62, (255, 186, 70)), (1, (120, 50, 24))], y + 0.03 * waves(480, 360))
    sky = paint(sky, 12 - 300 * np.abs(np.hypot((x - 0.62) * 4 / 3, y - 0.56) - 0.0) + 26, (255, 236, 170))
    save("orange-sunset.jpg", paint(sky, ridge(x, y, 0.72, 0.03, 3), (70, 28, 16)), quality=88)


def forest():
    x, y = grid(480, 360)
    leaves = blend([(0, (10, 60, 18)), (0.5, (40, 130, 40)), (1, (110, 190, 70))], 0.5 + 0.5 * waves(480, 360, 7))
    save("green-forest.jpg", leaves * (0.75 + 0.4 * (1 - y))[..., None], quality=85)


def ocean():
    x, y = grid(480, 320)
    sea = blend([(0, (118, 178, 240)), (0.42, (176, 210, 246)), (0.44, (24, 84, 170)), (1, (12, 44, 120))], y)
    glitter = np.clip(waves(480, 320, 8) * 2 - 1.1, 0, 1) * (y > 0.44)
    save("blue-ocean.webp", paint(sea, glitter, (220, 240, 255)), quality=85)


def snow():
    x, y = grid(400, 400)
    sky = blend([(0, (196, 214, 236)), (0.6, (236, 240, 246))], y)
    hills = paint(sky, ridge(x, y, 0.5, 0.08, 5), (222, 228, 238))
    save("snowy-hills.png", paint(hills, ridge(x, y, 0.72, 0.05, 8), (246, 248, 252)))


def night():
    x, y = grid(480, 360)
    sky = blend([(0, (6, 7, 14)), (1, (16, 18, 34))], y)
    stars = np.zeros((360, 480))
    stars[random.integers(0, 300, 160), random.integers(0, 480, 160)] = random.uniform(0.4, 1, 160)
    sky = paint(sky, stars, (255, 255, 255))
    sky = paint(sky, 20 - 300 * np.hypot((x - 0.75) * 4 / 3, y - 0.25), (236, 234, 220))
    save("night-sky.png", paint(sky, ridge(x, y, 0.82, 0.04, 2), (3, 4, 6)))


def blossom():
    x, y = grid(360, 480)
    petals = blend([(0, (248, 130, 180)), (0.5, (252, 170, 205)), (1, (230, 90, 150))], 0.5 + 0.5 * waves(360, 480, 5))
    save("pink-blossom.jpg", petals, quality=88)


def fog():
    x, y = grid(480, 360)
    grey = blend([(0, (150, 150, 150)), (1, (96, 96, 96))], y + 0.05 * waves(480, 360))
    save("grey-fog.jpg", paint(grey, ridge(x, y, 0.75, 0.04, 9) * 0.5, (70, 70, 70)), quality=88)


def strawberry():
    x, y = grid(360, 360)
    body = 60 - 140 * (np.hypot((x - 0.5) * (1.5 + 0.9 * (y - 0.4)), (y - 0.52) * 1.1) - 0.02)
    alpha = np.clip(body, 0, 1)
    seeds = (np.sin(x * 70) * np.sin(y * 62) > 0.93) & (body > 6)
    leaf = 30 - 120 * np.hypot((x - 0.5) * 1.3, (y - 0.17) * 3.2)
    picture = paint(np.full((360, 360, 3), (206.0, 18.0, 30.0)), seeds.astype(float), (246, 206, 90))
    picture = paint(picture, leaf, (50, 140, 40))
    alpha = np.maximum(alpha, np.clip(leaf, 0, 1))
    save("red-strawberry.png", np.dstack([picture, alpha * 255]))


if __name__ == "__main__":
    for draw in (sunset, forest, ocean, snow, night, blossom, fog, strawberry):
        draw()
