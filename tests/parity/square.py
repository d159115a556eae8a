"""What the WD taggers' own demo makes of a picture before it becomes numbers. Needs: pip install pillow==13.0.0"""

from PIL import Image


def square(image, side):
    """On white, centred on a white square, resized with antialiased bicubic."""
    image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, (255, 255, 255))
    canvas.alpha_composite(image)
    image = canvas.convert("RGB")
    longest = max(image.size)
    padded = Image.new("RGB", (longest, longest), (255, 255, 255))
    padded.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    return padded if longest == side else padded.resize((side, side), Image.BICUBIC)
