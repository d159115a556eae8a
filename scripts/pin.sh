#!/usr/bin/env bash
# Pins what images are built from and run: adds the digest to every image of the Dockerfile and the Compose file (needs Docker
# and the registries), and writes the hashes of ONNX Runtime's wheels (needs the Python package index).
#
#   scripts/pin.sh               # the versions there are
#   scripts/pin.sh 1.31.1        # another version of ONNX Runtime
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:-$(sed -n 's/^onnxruntime==\([0-9.]*\).*/\1/p' deploy/onnxruntime-cpu.txt)}

hash_of() { # PACKAGE PLATFORM: its SHA-256 as the index has it, without the download
    python3 -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --no-deps --only-binary=:all: \
        --python-version 3.11 --platform "$2" --target /nowhere --report - "$1==$version" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["download_info"]["archive_info"]["hashes"]["sha256"])'
}

wheels() { # FILE PACKAGE PLATFORM...
    local file=$1 package=$2 text="$2==$version" platform hash
    shift 2
    for platform in "$@"; do
        hash=$(hash_of "$package" "$platform")
        text+=$' \\\n    --hash=sha256:'$hash
    done
    printf '%s\n' "$text" >"$file"
    echo "$file: $package $version"
}

wheels deploy/onnxruntime-cpu.txt onnxruntime manylinux_2_28_x86_64 manylinux_2_28_aarch64
wheels deploy/onnxruntime-cuda.txt onnxruntime-gpu manylinux_2_28_x86_64

if ! docker buildx version >/dev/null 2>&1; then
    echo "without Docker and its buildx the images stay as they are" >&2
    exit 0
fi
for file in Dockerfile docker-compose.yml; do
    # Of an image that has a digest, that of its tag now.
    sed -nE 's/^(FROM|[[:space:]]*image:) ([a-z0-9./-]+:[A-Za-z0-9._-]+)(@sha256:[0-9a-f]{64})?( .*)?$/\2/p' "$file" |
        grep -v '^tagmill:' | sort -u |
        while read -r image; do
            digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image")
            sed -i -E "s|(FROM\|image:) $image(@sha256:[0-9a-f]{64})?( \|\$)|\\1 $image@$digest\\3|" "$file"
            echo "$file: $image@$digest"
        done
done
