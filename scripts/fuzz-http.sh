#!/usr/bin/env bash
# Has schemathesis (from PyPI) fuzz the API by its own description, on the demo model. Stops at what is not as described,
# and at any 500. Further arguments go to schemathesis.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
cargo build --locked --quiet
: "${ORT_DYLIB_PATH:=$(ls "$PWD"/.runtime/libonnxruntime.so.*)}"
export ORT_DYLIB_PATH
command -v schemathesis >/dev/null || { echo "install schemathesis: pip install schemathesis" >&2; exit 1; }

log=$(mktemp)
target/debug/tagmill serve --listen 127.0.0.1:0 --models models --store "file://$PWD/samples" 2>"$log" &
server=$!
trap 'kill $server; rm -f "$log"' EXIT
until grep -q "serving the API" "$log"; do
    kill -0 $server || { cat "$log" >&2; exit 1; }
    sleep 0.1
done
url=http://127.0.0.1:$(grep -om1 '127\.0\.0\.1:[0-9]*' "$log" | cut -d: -f2)
# Left out: what a schema can't say. Not every text is an image, and in a form everything is text.
schemathesis run "$url/openapi.json" --url "$url" --checks all --request-timeout 60 --phases examples,coverage,fuzzing \
    --exclude-checks unsupported_method,positive_data_acceptance,negative_data_rejection,missing_required_header "$@"
