"""Makes of the images of Pillow's own tests what parity.rs compares with: for each that Pillow reads and whose format
tagmill reads, the file and beside it `<name>.expected.png`, as pixels.py writes them.

Usage: suite.py <folder with the unpacked source package> <folder to write>. Left out are 16-bit grey and floating point, where
Pillow clips, and what Pillow itself refuses. Needs what pixels.py needs.
"""

import io
import pathlib
import shutil
import sys
import warnings

from PIL import Image

from pixels import prepare

FORMATS = {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "JXL"}
CLIPPED = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
SIDE = 64


def main(source, target):
    warnings.simplefilter("ignore")
    target.mkdir(parents=True, exist_ok=True)
    refused = clipped = taken = 0
    for path in sorted(source.rglob("Tests/images/**/*")):
        if not path.is_file() or path.stat().st_size > 8 << 20:
            continue
        data = path.read_bytes()
        try:
            image = Image.open(io.BytesIO(data))
            if image.format not in FORMATS:
                continue
            if image.mode in CLIPPED:
                clipped += 1
                continue
            expected = prepare(image, SIDE, False)
        except Exception:  # Whatever it is, Pillow shows no picture.
            refused += 1
            continue
        taken += 1
        name = f"{taken:04}-{path.name}"
        shutil.copyfile(path, target / name)
        expected.save(target / f"{name}.expected.png")
    print(f"{taken} images; left out: {clipped} that Pillow clips, {refused} that Pillow refuses")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
