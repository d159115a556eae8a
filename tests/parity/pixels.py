"""Writes small pictures of every kind that is read into pixels/, and beside each what Pillow makes of it: decoded,
turned upright, composited on white, padded to a white square and resized, exactly as the WD taggers' own demo does. The
tests compare the worker's pixels with it.

`<case>.<ext>` is the input, `<case>.expected.png` the result; a name that ends in `-as-stored` is read without regard
to its orientation. Where Pillow does what nobody can want, the sensible result is written instead: it clips 16-bit grey
at 255, which leaves a white picture, and here it takes the high byte, as it does itself for 16-bit colour.

Needs: pip install pillow==13.0.0 numpy==2.4.6 tifffile==2026.3.3 pillow-jxl-plugin==1.3.8 pillow-heif==1.8.1
"""

import io
import pathlib
import struct
import zlib

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 (teaches Pillow JPEG XL)
import tifffile
from PIL import Image, ImageCms, ImageOps

from square import square

pillow_heif.register_heif_opener()

FOLDER = pathlib.Path(__file__).parent / "pixels"
ORIENTATION = 0x0112


def scene(width, height, channels=3, seed=1, top=255):
    """A gradient, discs and noise: smooth parts show rounding, edges show filters and shifts by a pixel."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for channel in range(channels):
        plane = (x * (channel + 1) / max(width, 1) + y * (3 - channel % 3) / max(height, 1)) / 4
        disc = (x - width * (0.3 + 0.2 * channel)) ** 2 + (y - height * 0.5) ** 2 < (min(width, height) / 3) ** 2
        planes.append(np.where(disc, 1 - plane, plane))
    values = np.stack(planes, axis=-1) * top
    values[:, width // 2 :] += random.normal(0, top / 12, values[:, width // 2 :].shape)
    values = np.clip(values, 0, top).astype(np.uint16 if top > 255 else np.uint8)
    return values[:, :, 0] if channels == 1 else values


def picture(width=60, height=46, channels=3, seed=1):
    return Image.fromarray(scene(width, height, channels, seed))


def prepare(image, side, as_stored):
    """`prepare_image` of the WD taggers' demo, up to the pixels."""
    if not as_stored:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return square(image, side)


def write(name, data, side=32, seen=None):
    """An input and what is expected of it, or of `seen` where Pillow must see something else."""
    stem = name.rpartition(".")[0]
    assert not (FOLDER / f"{stem}.expected.png").exists(), stem
    (FOLDER / name).write_bytes(data)
    expected = prepare(Image.open(io.BytesIO(seen or data)), side, stem.endswith("-as-stored"))
    expected.save(FOLDER / f"{stem}.expected.png", optimize=True)


def saved(image, format, **options):
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples, colour, depth, *extra):
    """A PNG of a kind that Pillow does not write; `samples` are rows of bytes."""
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    size = struct.pack(">IIBBBBB", samples.shape[1] if depth >= 8 else EIGHTHS, samples.shape[0], depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", size), *(chunk(*one) for one in extra), chunk(b"IDAT", zlib.compress(rows, 9))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


EIGHTHS = 96  # The width of the PNGs that pack several pixels into a byte.


def bmp(width, height, bits, masks, pixels):
    """A BMP with a plain header, or with channel masks."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 3 if masks else 0, len(pixels), 2835, 2835, 0, 0)
    header += b"".join(struct.pack("<I", mask) for mask in masks)
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels


def tiff(array, **options):
    target = io.BytesIO()
    tifffile.imwrite(target, array, metadata=None, **options)
    return target.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def pngs():
    write("png-rgb.png", saved(picture(), "PNG"))
    write("png-rgb-model-size.png", saved(picture(32, 32), "PNG"))
    write("png-interlaced-rgba.png", adam7())
    write("png-grey.png", saved(picture(channels=1), "PNG"))
    write("png-grey-alpha.png", saved(Image.merge("LA", picture().split()[:2]), "PNG"))
    write("png-rgba.png", saved(picture(channels=4), "PNG"))
    write("png-one-bit.png", saved(picture(channels=1).convert("1"), "PNG"))
    palette = picture().quantize(40)
    write("png-palette.png", saved(palette, "PNG"))
    write("png-palette-four-bits.png", saved(picture().quantize(13), "PNG", bits=4))
    write("png-palette-transparent.png", saved(palette, "PNG", transparency=bytes(range(0, 240, 6))))
    write("png-palette-one-transparent.png", saved(palette, "PNG", transparency=3))
    write("png-rgb-one-transparent.png", saved(picture(seed=3), "PNG", transparency=picture(seed=3).getpixel((5, 5))))
    write("png-grey-one-transparent.png", saved(picture(channels=1), "PNG", transparency=40))
    packed = scene(EIGHTHS, 30, 1) // 16
    write("png-grey-four-bits.png", png((packed[:, ::2] << 4) | packed[:, 1::2], 0, 4))
    for name, channels, colour in [("grey", 1, 0), ("grey-alpha", 2, 4), ("rgb", 3, 2), ("rgba", 4, 6)]:
        write(f"png-{name}-16.png", png(scene(35, 28, channels, top=65535).astype(">u2"), colour, 16))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    write("png-icc.png", saved(picture(), "PNG", icc_profile=profile))
    write("png-gamma.png", png(scene(35, 28), 2, 8, (b"gAMA", struct.pack(">I", 100000))))


def adam7():
    """Interlaced, which Pillow reads and does not write."""
    samples = scene(35, 27, 4)
    rows = b""
    for x, y, right, down in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
        rows += b"".join(b"\0" + row.tobytes() for row in samples[y::down, x::right])
    size = struct.pack(">IIBBBBB", 35, 27, 8, 6, 0, 0, 1)
    chunks = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def shapes():
    for width, height in [(1, 1), (2, 3), (20, 15), (1000, 3), (3, 1000), (1, 300), (33, 32), (121, 80)]:
        side = 48 if max(width, height) < 300 else 32
        write(f"shape-{width}x{height}.png", saved(picture(width, height), "PNG"), side)
    write("shape-1x1-jpeg.jpg", saved(picture(1, 1), "JPEG"))
    write("shape-1000x3-jpeg.jpg", saved(picture(1000, 3), "JPEG"))


def jpegs():
    for name, options in [
        ("420", {"subsampling": "4:2:0"}),
        ("422", {"subsampling": "4:2:2"}),
        ("444", {"subsampling": "4:4:4"}),
        ("progressive", {"progressive": True}),
        ("restarts", {"restart_marker_blocks": 3}),
        ("rgb", {"keep_rgb": True}),
        ("low-quality", {"quality": 10}),
    ]:
        write(f"jpeg-{name}.jpg", saved(picture(), "JPEG", **{"quality": 88, **options}))
    write("jpeg-large.jpg", saved(picture(300, 240), "JPEG", quality=50))
    write("jpeg-grey.jpg", saved(picture(channels=1), "JPEG"))
    write("jpeg-grey-progressive.jpg", saved(picture(channels=1), "JPEG", progressive=True))
    write("jpeg-trailing-bytes.jpg", saved(picture(), "JPEG") + b"\0" * 40 + b"and more")
    cmyk = saved(Image.fromarray(scene(60, 46, 4), "CMYK"), "JPEG", quality=90)
    write("jpeg-cmyk.jpg", cmyk)
    adobe = cmyk.index(b"\xff\xee\x00\x0eAdobe")
    write("jpeg-cmyk-unmarked.jpg", cmyk[:adobe] + cmyk[adobe + 16 :])
    # The same samples read as luma, chroma and black: only the marker's last byte tells.
    planes = [*picture().convert("YCbCr").split(), picture(channels=1, seed=2)]
    ycck = saved(Image.merge("CMYK", planes), "JPEG", quality=90, progressive=True)
    adobe = ycck.index(b"\xff\xee\x00\x0eAdobe")
    write("jpeg-ycck.jpg", ycck[: adobe + 15] + b"\x02" + ycck[adobe + 16 :])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    write("jpeg-icc.jpg", saved(picture(), "JPEG", icc_profile=profile))


def orientations():
    small = picture(24, 16)
    for orientation in range(1, 9):
        tags = exif(orientation)
        write(f"turned-{orientation}-jpeg.jpg", saved(small, "JPEG", exif=tags), 16)
        write(f"turned-{orientation}-png.png", saved(small, "PNG", exif=tags), 16)
        write(f"turned-{orientation}-webp.webp", saved(small, "WEBP", lossless=True, exif=tags), 16)
        write(f"turned-{orientation}-tiff.tiff", saved(small, "TIFF", exif=tags, compression="tiff_lzw"), 16)
    for format in ["jpeg.jpg", "png.png", "webp.webp", "tiff.tiff"]:
        # Of a TIFF Pillow never gives the pixels as they are stored: the one that is stored upright has the same.
        upright = (FOLDER / f"turned-1-{format}").read_bytes()
        write(f"turned-6-{format.replace('.', '-as-stored.')}", (FOLDER / f"turned-6-{format}").read_bytes(), 16, upright)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    write("turned-8-xmp-jpeg.jpg", saved(small, "JPEG", xmp=xmp), 16)
    write("turned-8-xmp-webp.webp", saved(small, "WEBP", lossless=True, xmp=xmp), 16)
    prefixed = saved(small, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(3).tobytes().removeprefix(b"Exif\0\0"))
    write("turned-3-prefixed-webp.webp", prefixed, 16)
    upright, block = saved(small, "PNG"), exif(6).tobytes().removeprefix(b"Exif\0\0")
    end = len(upright) - 12
    write("turned-6-late-png.png", upright[:end] + chunk(b"eXIf", block) + upright[end:], 16)
    large = saved(picture(301, 190), "JPEG", exif=exif(6), quality=50)
    write("turned-6-large-jpeg.jpg", large, 32)


def animations():
    frames = [picture(seed=seed) for seed in (1, 2)]
    write("animated-gif.gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100))
    write("animated-png.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=100))
    write("animated-png-own-cover.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True))
    write("animated-webp.webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))
    clear = [picture(channels=4, seed=seed) for seed in (1, 2)]
    write("animated-transparent-gif.gif", saved(clear[0], "GIF", save_all=True, append_images=clear[1:], disposal=2))
    write("animated-transparent-webp.webp", saved(clear[0], "WEBP", save_all=True, append_images=clear[1:], quality=80))


def others():
    write("gif.gif", saved(picture(), "GIF", interlace=0))
    write("gif-interlaced.gif", saved(picture(), "GIF", interlace=1))
    write("gif-grey.gif", saved(picture(channels=1), "GIF"))
    write("gif-transparent.gif", saved(picture().quantize(30), "GIF", transparency=4))
    write("webp-lossy.webp", saved(picture(), "WEBP", quality=80))
    write("webp-odd-size.webp", saved(picture(61, 45), "WEBP", quality=60))
    write("webp-lossless.webp", saved(picture(), "WEBP", lossless=True))
    write("webp-lossless-palette.webp", saved(picture().quantize(12).convert("RGB"), "WEBP", lossless=True))
    write("webp-alpha-lossy.webp", saved(picture(channels=4), "WEBP", quality=80))
    write("webp-alpha-lossless.webp", saved(picture(channels=4), "WEBP", lossless=True))
    write("bmp-24.bmp", saved(picture(41, 30), "BMP"))
    write("bmp-palette.bmp", saved(picture(41, 30).quantize(40), "BMP"))
    write("bmp-one-bit.bmp", saved(picture(channels=1).convert("1"), "BMP"))
    write("bmp-32-alpha.bmp", saved(picture(41, 30, channels=4), "BMP"))
    write("bmp-32-unused-byte.bmp", bmp(40, 30, 32, [], scene(40, 30, 4).tobytes()))
    write("bmp-32-top-down.bmp", bmp(40, -30, 32, [], scene(40, 30, 4).tobytes()))
    write("bmp-565.bmp", bmp(40, 30, 16, [0xF800, 0x7E0, 0x1F], scene(40, 30, 1, top=65535).astype("<u2").tobytes()))


def tiffs():
    small = picture(41, 30)
    write("tiff-rgb.tiff", saved(small, "TIFF"))
    for name, compression in [
        ("lzw", "tiff_lzw"),
        ("deflate", "tiff_adobe_deflate"),
        ("packbits", "packbits"),
    ]:
        write(f"tiff-{name}.tiff", saved(picture(), "TIFF", compression=compression))
    write("tiff-rgba.tiff", saved(picture(41, 30, channels=4), "TIFF", compression="tiff_lzw"))
    write("tiff-grey.tiff", saved(picture(channels=1), "TIFF", compression="tiff_lzw"))
    write("tiff-one-bit.tiff", saved(picture(channels=1).convert("1"), "TIFF"))
    write("tiff-fax.tiff", saved(picture(channels=1).convert("1"), "TIFF", compression="group4"))
    write("tiff-cmyk.tiff", saved(Image.fromarray(scene(41, 30, 4), "CMYK"), "TIFF", compression="tiff_lzw"))
    wide = scene(35, 28, 3, top=65535)
    write("tiff-rgb-16.tiff", tiff(wide, photometric="rgb", compression="zlib"))
    write("tiff-rgb-16-big-endian.tiff", tiff(wide, photometric="rgb", byteorder=">"))
    write("tiff-rgba-16.tiff", tiff(scene(30, 23, 4, top=65535), photometric="rgb", extrasamples=["unassalpha"]))
    write("tiff-grey-16.tiff", tiff(scene(35, 28, 1, top=65535), photometric="minisblack", compression="zlib"))
    write("tiff-tiled.tiff", tiff(scene(60, 46), photometric="rgb", tile=(32, 32), compression="zlib"))
    write("tiff-tiled-predictor.tiff", tiff(scene(60, 46), photometric="rgb", tile=(48, 16), compression="zlib", predictor=2))
    write("tiff-planes.tiff", tiff(scene(41, 30).transpose(2, 0, 1), photometric="rgb", planarconfig="separate"))
    write("tiff-large-offsets.tiff", tiff(scene(41, 30), photometric="rgb", bigtiff=True, compression="zlib"))
    write("tiff-strips.tiff", tiff(scene(41, 30), photometric="rgb", rowsperstrip=7, compression="zlib"))


def jxls():
    write("jxl-lossy.jxl", saved(picture(), "JXL", quality=90))
    write("jxl-lossless.jxl", saved(picture(), "JXL", lossless=True))
    write("jxl-alpha.jxl", saved(picture(channels=4), "JXL", lossless=True))
    write("jxl-grey.jxl", saved(picture(channels=1), "JXL", lossless=True))
    write("jxl-from-jpeg.jxl", from_jpeg())


def from_jpeg():
    """A JPEG packed without loss, less the box from which the plugin would make the JPEG again instead of decoding."""
    target = io.BytesIO()
    Image.open(FOLDER / "jpeg-444.jpg").save(target, "JXL", lossless_jpeg=True)
    packed, boxes, at = target.getvalue(), b"", 0
    while at < len(packed):
        size = struct.unpack(">I", packed[at : at + 4])[0] or len(packed) - at
        boxes += b"" if packed[at + 4 : at + 8] == b"jbrd" else packed[at : at + size]
        at += size
    return boxes


def avifs():
    for name, options in [("420", {}), ("444", {"subsampling": "4:4:4"}), ("lossless", {"quality": 100, "subsampling": "4:4:4"})]:
        write(f"avif-{name}.avif", saved(picture(), "AVIF", **{"quality": 70, **options}))
    write("avif-grey.avif", saved(picture(channels=1), "AVIF", subsampling="4:0:0", quality=70))
    write("avif-alpha.avif", saved(picture(channels=4), "AVIF", quality=80))
    write("avif-turned-6.avif", saved(picture(24, 16), "AVIF", quality=80, exif=exif(6)), 16)
    write("avif-turned-6-as-stored.avif", saved(picture(24, 16), "AVIF", quality=80, exif=exif(6)), 16)
    write("avif-turned-7.avif", saved(picture(24, 16), "AVIF", quality=80, exif=exif(7)), 16)
    frames = [picture(seed=seed) for seed in (1, 2)]
    write("avif-animated.avif", saved(frames[0], "AVIF", save_all=True, append_images=frames[1:], quality=70))


def heics():
    def heic(name, image, side=32, **options):
        # Turning is a part of these pictures, applied to those that are read as they are stored too.
        write(f"heic-{name}.heic", saved(image, "HEIF", **{"quality": 80, "chroma": 420, **options}), side)

    heic("420", picture())
    heic("422", picture(), chroma=422)
    heic("444", picture(), chroma=444)
    heic("lossless", picture(), quality=-1, chroma=444)
    heic("grey", picture(channels=1))
    heic("alpha", picture(channels=4))
    heic("alpha-premultiplied", picture(channels=4).convert("RGBa"))
    # As phones store a photograph: tiles, those of the last row and column cropped.
    heic("tiles", picture(150, 140), tile_size=64)
    write("heic-ten-bits.heic", ten_bits())
    turned = picture(24, 16)
    for orientation in (6, 7):
        heic(f"turned-{orientation}", turned, 16, exif=exif(orientation).tobytes())
    heic("turned-6-as-stored", turned, 16, exif=exif(6).tobytes())


def ten_bits():
    """What cameras write: 4:2:2 with ten bits a sample."""
    target = io.BytesIO()
    wide = scene(60, 46, 3, top=65535)
    pillow_heif.from_bytes("RGB;16", (60, 46), wide.tobytes()).save(target, quality=80, chroma=422)
    return target.getvalue()


def main():
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.iterdir():
        stale.unlink()
    import kinds

    for kind in (kinds.cases, pngs, shapes, jpegs, orientations, animations, others, tiffs, jxls, avifs, heics):
        kind()


if __name__ == "__main__":
    main()
