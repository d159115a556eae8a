"""Writes into pixels/ small pictures of the kinds that cameras, phones, scanners and strippers leave: headers that are
unusual or wrong though no pixel is. Beside each is what Pillow makes of it, or of the same picture in a kind that it reads.

Run by pixels.py; alone it writes its own cases anew. Needs what pixels.py needs, and imagecodecs==2026.3.6.
"""

import io
import struct

import numpy as np
from PIL import Image, ImageCms

from pixels import FOLDER, bmp, exif, picture, saved, scene, tiff, write


def marker(code, data):
    return bytes([0xFF, code]) + struct.pack(">H", len(data) + 2) + data


def after(jpeg, name, data):
    """With bytes behind the first marker segment of this name."""
    at = jpeg.index(bytes([0xFF, name]))
    at += 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
    return jpeg[:at] + data + jpeg[at:]


def jpegs():
    plain = saved(picture(), "JPEG", quality=90)
    upright = saved(picture(24, 16), "JPEG", quality=90)
    scan = plain.index(b"\xff\xda")
    end = scan + 2 + struct.unpack(">H", plain[scan + 2 : scan + 4])[0]
    write("kind-jpeg-wrong-se.jpg", plain[: end - 2] + b"\0" + plain[end - 1 :])
    write("kind-jpeg-jfif-3.jpg", plain.replace(b"JFIF\0\1", b"JFIF\0\3"))
    bare = plain[:2] + plain[20:]
    write("kind-jpeg-adobe-unknown.jpg", bare[:2] + marker(0xEE, b"Adobe\0\x64\0\0\0\0\x09") + bare[2:])
    write("kind-jpeg-adobe-cut.jpg", after(plain, 0xE0, marker(0xEE, b"Adobe\0\x64")))
    icc = b"ICC_PROFILE\0\1\1" + bytes(40)
    write("kind-jpeg-icc-late.jpg", after(plain, 0xC0, marker(0xE2, icc)))
    write("kind-jpeg-icc-bad.jpg", after(plain, 0xE0, marker(0xE2, b"ICC_PROFILE\0\3\2" + bytes(40))))
    write("kind-jpeg-stray-header.jpg", after(after(plain, 0xE0, b"\0\0\0"), 0xC0, b"ab"))
    tags = exif(6).tobytes()
    write("kind-jpeg-stray-turned-6.jpg", after(upright, 0xE0, b"\0\1" + marker(0xE1, tags)), 16)
    write("kind-jpeg-stray-end.jpg", plain[:-2] + b"\0\0\0\0" + plain[-2:])
    write("kind-jpeg-stray-one.jpg", plain[:-2] + b"\x5a" + plain[-2:])
    write("kind-jpeg-no-end.jpg", plain[:-2], 32, plain)
    progressive = saved(picture(), "JPEG", quality=90, progressive=True)
    write("kind-jpeg-no-end-progressive.jpg", progressive[:-2], 32, progressive)
    grey = saved(picture(channels=1), "JPEG")
    write("kind-jpeg-no-end-grey.jpg", grey[:-2], 32, grey)
    # As Samsung's panoramas end.
    trailer = b"\0\0\1\x0a\x0e\0\0\0Image_UTC_Data1600000000000SEFHk\0\0\0\1\0\0\0\0\0\1\x0a\x23\0\0\0\x23\0\0\0\x18\0\0\0SEFT"
    write("kind-jpeg-trailer-no-end.jpg", plain[:-2] + trailer, 32, plain)
    write("kind-jpeg-trailer.jpg", plain + trailer)
    write("kind-jpeg-mpo.jpg", saved(picture(), "MPO", save_all=True, append_images=[picture(seed=2)]))
    # A motion photo: a video behind the picture.
    write("kind-jpeg-motion.jpg", plain + b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(64) + b"\xff\xd8\xff\xd9")
    # Ultra HDR: a second JPEG, the gain map, behind the first.
    write("kind-jpeg-gain-map.jpg", after(plain, 0xE0, marker(0xE2, b"MPF\0II*\0\x08\0\0\0\0\0")) + upright)
    write("kind-jpeg-exif-broken.jpg", after(plain, 0xE0, marker(0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f")))
    twice = after(upright, 0xE0, marker(0xE1, tags) + marker(0xE1, exif(3).tobytes()))
    write("kind-jpeg-exif-twice.jpg", twice, 16, after(upright, 0xE0, marker(0xE1, tags)))


def webps():
    for name, options in [("lossy", {"quality": 80}), ("lossless", {"lossless": True})]:
        plain = saved(picture(), "WEBP", **options)
        for flag, bit in [("exif", 8), ("xmp", 4), ("alpha", 16), ("all", 28)]:
            header = b"VP8X" + struct.pack("<IBBH", 10, bit, 0, 0) + (59).to_bytes(3, "little") + (45).to_bytes(3, "little")
            body = b"WEBP" + header + plain[12:]
            # The same pixels: what the flag announces is not there.
            write(f"kind-webp-{name}-no-{flag}.webp", b"RIFF" + struct.pack("<I", len(body)) + body, 32, plain)


def dib(width, height, bits, compression=0, planes=1, length=40, colours=0):
    header = struct.pack("<IiiHHIIiiII", length, width, height, planes, bits, compression, 0, 2835, 2835, colours, 0)
    return header + bytes(length - len(header))


def file(header, palette, pixels, offset=None):
    start = 14 + len(header) + len(palette)
    head = struct.pack("<IHHI", start + len(pixels), 0, 0, start if offset is None else offset)
    return b"BM" + head + header + palette + pixels


def runs(rows, gap=None):
    """Run-length coded, eight bits; `gap` pixels of the second row are jumped over."""
    data = b""
    for number, row in enumerate(rows):
        x = 0
        while x < len(row):
            if number == 1 and gap and x == gap[0]:
                data += bytes([0, 2, gap[1] - gap[0], 0])
                x = gap[1]
                continue
            length = 1
            end = gap[0] if number == 1 and gap and x < gap[0] else len(row)
            while x + length < end and row[x + length] == row[x] and length < 9:
                length += 1
            data += bytes([length, row[x]])
            x += length
        data += b"\0\0"
    return data + b"\0\1"


def bmps():
    width, height = 40, 30
    pixels = scene(width, height)[:, :, ::-1]
    up, down = pixels[::-1].tobytes(), pixels.tobytes()
    plain = file(dib(width, height, 24), b"", up)
    grey = (scene(width, height, 1) // 16).astype(np.uint8)
    table = b"".join(bytes([7 * n % 256, 255 - 11 * n, 16 * n, 0]) for n in range(16))
    indexed = lambda order: bytes(order.tobytes())
    expected = file(dib(width, height, 8, colours=16), table, indexed(grey[::-1]))
    write("kind-bmp-os2-64.bmp", file(dib(width, height, 24, length=64), b"", up))
    write("kind-bmp-os2-16.bmp", file(dib(width, height, 24)[:16].replace(b"\x28\0\0\0", b"\x10\0\0\0", 1), b"", up), 32, plain)
    write("kind-bmp-planes-0.bmp", file(dib(width, height, 24, planes=0), b"", up))
    write("kind-bmp-bare.bmp", dib(width, height, 24) + up)
    write("kind-bmp-bare-palette.bmp", dib(width, height, 8, colours=16) + table + indexed(grey[::-1]))
    write("kind-bmp-offset-0.bmp", file(dib(width, height, 24), b"", up, 0))
    write("kind-bmp-offset-header.bmp", file(dib(width, height, 24), b"", up, 20), 32, plain)
    write("kind-bmp-offset-0-palette.bmp", file(dib(width, height, 8, colours=16), table, indexed(grey[::-1]), 0))
    write("kind-bmp-offset-palette.bmp", file(dib(width, height, 8, colours=16), table, indexed(grey[::-1]), 54))
    many = table + bytes(4 * 300)
    write("kind-bmp-many-colours.bmp", file(dib(width, height, 8, colours=316), many, indexed(grey[::-1])), 32, expected)
    write("kind-bmp-runs.bmp", file(dib(width, height, 8, 1, colours=16), table, runs(grey[::-1])), 32, expected)
    write("kind-bmp-runs-top-down.bmp", file(dib(width, -height, 8, 1, colours=16), table, runs(grey)), 32, expected)
    gapped = grey[::-1].copy()
    gapped[1, 10:30] = 0
    seen = file(dib(width, height, 8, colours=16), table, indexed(gapped))
    write("kind-bmp-runs-gap.bmp", file(dib(width, height, 8, 1, colours=16), table, runs(grey[::-1], (10, 30))), 32, seen)
    write("kind-bmp-alpha.bmp", bmp_alpha(width, height))


def bmp_alpha(width, height):
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, 0, 2835, 2835, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    return file(header, b"", scene(width, height, 4).tobytes())


def gifs():
    whole = saved(picture(channels=1).point(lambda value: value), "GIF")
    assert whole[10] & 0x80
    size = 3 << ((whole[10] & 7) + 1)
    bare = whole[:10] + bytes([whole[10] & 0x7F]) + whole[11:13] + whole[13 + size :]
    write("kind-gif-no-colours.gif", bare)
    write("kind-gif-screen-0.gif", whole[:6] + bytes(4) + whole[10:], 32, whole)
    write("kind-gif-screen-small.gif", whole[:6] + struct.pack("<HH", 20, 10) + whole[10:], 32, whole)


def tiffs():
    small, grey = scene(41, 30), scene(41, 30, 1)
    palette = np.array([[257 * (n * step % 256) for n in range(256)] for step in (1, 3, 7)], np.uint16)
    write("kind-tiff-palette.tiff", tiff(grey, photometric="palette", colormap=palette))
    write("kind-tiff-palette-tiles.tiff", tiff(scene(60, 46, 1), photometric="palette", colormap=palette, tile=(32, 32), compression="zlib"))
    for bits in (1, 2, 4):
        few = (grey >> (8 - bits)).astype(np.uint8)
        # Rows of whole bytes, as they are stored.
        packed = np.packbits(np.unpackbits(few[:, :, None], axis=2)[:, :, 8 - bits :].reshape(30, -1), axis=1)
        for name, photometric, colours in [("grey", 1, None), ("grey-inverted", 0, None), ("palette", 3, palette)]:
            fields = {262: (3, [photometric])}
            if colours is not None:
                fields[320] = (3, [int(value) for plane in colours[:, : 1 << bits] for value in plane])
            write(f"kind-tiff-{name}-{bits}.tiff", built(41, 30, packed.tobytes(), [bits], fields))
    write("kind-tiff-grey-alpha.tiff", tiff(scene(41, 30, 2), photometric="minisblack", extrasamples=["unassalpha"]))
    planes = small.transpose(2, 0, 1)
    write("kind-tiff-planar-tiles.tiff", tiff(planes, photometric="rgb", planarconfig="separate", tile=(16, 16)), 32, saved(Image.fromarray(small), "PNG"))
    large = scene(60, 46).transpose(2, 0, 1)
    write("kind-tiff-planar-tiles-zlib.tiff", tiff(large, photometric="rgb", planarconfig="separate", tile=(32, 32), compression="zlib", predictor=2), 32, saved(picture(), "PNG"))
    clear = scene(41, 30, 4)
    clear[:, :, :3] = clear[:, :, :3].astype(int) * clear[:, :, 3:] // 255
    write("kind-tiff-premultiplied.tiff", tiff(clear, photometric="rgb", extrasamples=["assocalpha"]))
    wide = scene(30, 23, 4, top=65535)
    wide[:, :, :3] = wide[:, :, :3].astype(np.int64) * wide[:, :, 3:] // 65535
    write("kind-tiff-premultiplied-16.tiff", tiff(wide, photometric="rgb", extrasamples=["assocalpha"]))
    plain = built(41, 30, small.tobytes(), [8, 8, 8], {262: (3, [2])})
    reverse = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    write("kind-tiff-fill-order-2.tiff", built(41, 30, small.tobytes().translate(reverse), [8, 8, 8], {262: (3, [2]), 266: (3, [2])}))
    write("kind-tiff-own-next.tiff", plain[:-4] + plain[4:8], 32, plain)
    write("kind-tiff-no-rows.tiff", built(41, 30, small.tobytes(), [8, 8, 8], {262: (3, [2])}, rows=False))
    write("kind-tiff-ycbcr-jpeg.tiff", tiff(scene(64, 48), photometric="ycbcr", compression="jpeg", compressionargs={"level": 95}, subsampling=(1, 1)))
    lab = ImageCms.profileToProfile(picture(), *map(ImageCms.createProfile, ("sRGB", "LAB")), outputMode="LAB")
    write("kind-tiff-lab.tiff", saved(lab, "TIFF"))
    write("kind-tiff-rgb-x.tiff", tiff(scene(41, 30, 4), photometric="rgb", extrasamples=["unspecified"]))


def built(width, height, data, bits, fields, rows=True):
    """A TIFF of one strip, made by hand, with its directory at the end."""
    strip = 8
    data += bytes(-len(data) % 2)
    fields = {256: (4, [width]), 257: (4, [height]), 258: (3, bits), 259: (3, [1]), 273: (4, [strip]), 277: (3, [len(bits)]), 279: (4, [len(data)]), **fields}
    if rows:
        fields[278] = (4, [height])
    body = struct.pack("<2sHI", b"II", 42, 0) + data
    entries = b""
    for tag, (kind, values) in sorted(fields.items()):
        value = struct.pack(f"<{len(values)}{'HI'[kind - 3]}", *values)
        if len(value) > 4:
            at, body = len(body), body + value + bytes(-len(value) % 2)
            value = struct.pack("<I", at)
        entries += struct.pack("<HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
    return body[:4] + struct.pack("<I", len(body)) + body[8:] + struct.pack("<H", len(fields)) + entries + bytes(4)


def cases():
    for kind in (jpegs, webps, bmps, gifs, tiffs):
        kind()


if __name__ == "__main__":
    for stale in FOLDER.glob("kind-*"):
        stale.unlink()
    cases()
