"""From an image file to the model's input, as the WD taggers' demo does it with Pillow."""
import io

import numpy as np
from PIL import Image, ImageOps

WHITE = (255, 255, 255)


def row(data, side, draft=False):
    """Upright, opaque, centred on a white square, bicubic: BGR bytes. With `draft` a JPEG is decoded at the smallest scale
    that is not below the model's input (as libjpeg can at 1/2, 1/4 and 1/8), which is faster and not quite the same."""
    image = Image.open(io.BytesIO(data))
    if draft:
        image.draft("RGB", (side, side))
    image = opaque(ImageOps.exif_transpose(image))
    longest = max(image.size)
    if image.size != (longest, longest):
        square = Image.new("RGB", (longest, longest), WHITE)
        square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
        image = square
    if longest != side:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image)[:, :, ::-1]


def opaque(image):
    if image.mode == "RGB":
        return image
    # Palettes and grey may be transparent too.
    image = image.convert("RGBA")
    background = Image.new("RGBA", image.size, WHITE)
    background.alpha_composite(image)
    return background.convert("RGB")
