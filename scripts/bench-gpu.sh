#!/usr/bin/env bash
# Measures a GPU: scripts/bench-gpu.sh [prepare|run] [arguments of benches/gpu.py].
#
# `prepare` builds and fetches what is needed, where there is a network and Rust; `run` measures and needs neither, only
# Python with numpy and onnx. Without a word, both. What `run` needs of `prepare`, for another machine with the same tree:
# target/release/{tagmill,examples/s3-server}, target/bench/images/photos-1.6mp, .runtime/nats-server-*; and ONNX Runtime's GPU
# build (.runtime/gpu, or ORT_DYLIB_PATH) with CUDA's libraries (LD_LIBRARY_PATH; those of Python packages are found).
# TensorRT is measured where its wheel, `tensorrt-cu13-libs`, is installed, and torch where it is.
#
# The section is written after each part of the measurement. On a machine whose tree is thrown away, write it where it is
# fetched from, too: `scripts/bench-gpu.sh run --section "$OUT/gpu.md"`; COMMIT names the commit where there is no git.
# It is written anew by each command: in several commands, give each a --name and a --section of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

prepare() {
    scripts/setup.sh tests
    scripts/setup.sh gpu
    local python=.runtime/bench-venv/bin/python
    if ! cmp -s benches/requirements.txt .runtime/bench-venv/requirements.txt; then
        python3 -m venv .runtime/bench-venv
        "$python" -m pip install --quiet --disable-pip-version-check --requirement benches/requirements.txt
        cp benches/requirements.txt .runtime/bench-venv/
    fi
    cargo build --locked --release --quiet
    cargo build --locked --release --quiet --example s3-server
    strip target/release/tagmill target/release/examples/s3-server
    "$python" benches/make_images.py target/bench/images
}

run() {
    local python=python3 library
    python3 -c 'import numpy, onnx' 2>/dev/null || python=.runtime/bench-venv/bin/python
    # A folder that is missing is no error: ORT_DYLIB_PATH may name the library.
    library=$({ find "$PWD/.runtime/gpu" "$PWD/.runtime" -maxdepth 1 -name 'libonnxruntime.so.*' 2>/dev/null || true; } | head -n 1)
    export ORT_DYLIB_PATH=${ORT_DYLIB_PATH:-$library}
    local folders
    folders=$("$python" -c '
import glob
from importlib.util import find_spec
folders = lambda name: list(spec.submodule_search_locations) if (spec := find_spec(name)) else []
print(":".join([lib for folder in folders("nvidia") for lib in glob.glob(folder + "/*/lib")] + folders("tensorrt_libs")))')
    export LD_LIBRARY_PATH=$(dirname "$ORT_DYLIB_PATH")${folders:+:$folders}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    "$python" benches/gpu.py "$@"
}

case ${1:-} in
    prepare) prepare ;;
    run) shift; run "$@" ;;
    *) prepare; run "$@" ;;
esac
