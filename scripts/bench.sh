#!/usr/bin/env bash
# All benchmarks: builds and makes what they need, runs them and writes benches/RESULTS.md. Arguments go to
# benches/end_to_end.py: `scripts/bench.sh small --rounds 5` runs one scenario and leaves the pure parts out. `optimized` and images
# runs benches/optimized.py alone.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh tests
python=.runtime/bench-venv/bin/python
if ! cmp -s benches/requirements.txt .runtime/bench-venv/requirements.txt; then
    echo "installing Python packages into .runtime/bench-venv"
    python3 -m venv .runtime/bench-venv
    "$python" -m pip install --quiet --disable-pip-version-check --requirement benches/requirements.txt
    cp benches/requirements.txt .runtime/bench-venv/
fi

echo "building (a quarter of an hour the first time)"
cargo build --locked --release --quiet
if [[ ${1:-} == optimized ]]; then
    scripts/setup.sh learned
    library=$(ls .runtime/libonnxruntime.so.*)
    ORT_DYLIB_PATH=$PWD/$library "$python" benches/optimized.py "${@:2}"
    exit
fi
# By itself, for it has other features of the same crates.
cargo build --locked --release --quiet --example s3-server
"$python" benches/make_models.py target/bench/models
"$python" benches/make_images.py target/bench/images

if [[ $# == 0 ]]; then
    mkdir -p target/bench/results
    cargo bench --locked --quiet --bench pure | tee target/bench/results/pure.txt
fi
"$python" benches/end_to_end.py --write "$@"
