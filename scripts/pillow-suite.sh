#!/bin/bash
# Decodes the images of Pillow's own tests, which its source package on PyPI carries, and compares them with what Pillow makes
# of them: a table by format, and each file that differs. Nothing of it is committed.
set -euo pipefail
cd "$(dirname "$0")/.."

version=13.0.0
folder=target/pillow-suite
if [ ! -e "$folder/venv/bin/python" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet "pillow==$version" numpy==2.4.6 tifffile==2026.3.3 pillow-jxl-plugin==1.3.8 pillow-heif==1.8.1
fi
if [ ! -e "$folder/source" ]; then
    "$folder/venv/bin/pip" download --quiet --no-deps --no-binary pillow --dest "$folder" "pillow==$version"
    mkdir "$folder/source.part"
    tar -xzf "$folder/pillow-$version.tar.gz" -C "$folder/source.part"
    mv "$folder/source.part" "$folder/source"
fi
rm -rf "$folder/cases"
"$folder/venv/bin/python" tests/parity/suite.py "$folder/source" "$folder/cases"
TAGMILL_TEST_PILLOW_SUITE="$PWD/$folder/cases" cargo test --locked --lib the_images_of_pillows_own_tests -- --ignored --nocapture
