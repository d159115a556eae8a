#!/usr/bin/env bash
# The whole thing once, on this machine: a NATS server, two workers, a job for every image, and their tags as they come.
# IMAGES=<folder> and MODEL=<folder> take other images and another model than the demo's own.
set -euo pipefail
cd "$(dirname "$0")/.."

images=$(realpath -m "${IMAGES:-samples}")
model=$(realpath -m "${MODEL:-models/demo}")
for folder in "$images" "$model"; do
    [[ -d $folder ]] || { echo "demo: no folder $folder" >&2; exit 2; }
done

scripts/setup.sh
echo "building tagmill: ten minutes on two cores the first time, the last two of them for tagmill itself; nothing after that"
cargo build --locked

out=.demo
rm -rf "$out"
mkdir -p "$out"
pids=()

finish() {
    trap - EXIT INT TERM
    # Workers first, so that they can hand back what they hold.
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill -TERM "${pids[i]}" 2>/dev/null || true
        wait "${pids[i]}" 2>/dev/null || true
    done
    rm -rf "$out/nats"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

await() { # WHAT LOG PATTERN: until the pattern stands in the log
    for _ in {1..600}; do
        grep -q "$3" "$2" 2>/dev/null && return
        kill -0 "${pids[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "demo: $1 did not start:" >&2
    cat "$2" >&2
    exit 1
}

nats-server -js -sd "$out/nats" -a 127.0.0.1 -p -1 >"$out/nats.log" 2>&1 &
pids+=($!)
await "the NATS server" "$out/nats.log" 'Server is ready'
port=$(sed -n 's/.*Listening for client connections on .*:\([0-9]*\)$/\1/p' "$out/nats.log")
export NATS_URL=nats://127.0.0.1:$port ORT_DYLIB_PATH=$PWD/$(ls .runtime/libonnxruntime.so.*)

store=$(python3 -c 'import pathlib, sys; print(pathlib.Path(sys.argv[1]).as_uri())' "$images")
for number in 1 2; do
    target/debug/tagmill worker --store "$store" --models "$(dirname "$model")" --model "$(basename "$model")" \
        --listen 127.0.0.1:0 2>"$out/worker-$number.log" &
    pids+=($!)
done
for number in 1 2; do
    await "worker $number" "$out/worker-$number.log" ' working '
done
echo "NATS at $NATS_URL, two workers, images from $images, model $(basename "$model")"
echo

status=0
target/debug/tagmill submit --follow "$images" 2> >(grep -v INFO >&2) || status=$?

echo
for number in 1 2; do
    address=$(sed -n 's/.*address=\([0-9.:]*\).*/\1/p' "$out/worker-$number.log" | head -n 1)
    python3 - "$address" "$out/worker-$number.metrics" <<'PYTHON'
import sys, urllib.request
text = urllib.request.urlopen(f"http://{sys.argv[1]}/metrics").read().decode()
open(sys.argv[2], "w").write(text)
PYTHON
    tagged=$(sed -n 's/^tagmill_images_tagged_total{.*} //p' "$out/worker-$number.metrics")
    echo "worker $number tagged ${tagged:-0}; its metrics were at http://$address/metrics, now in $out/worker-$number.metrics; its log is $out/worker-$number.log"
done
exit "$status"
