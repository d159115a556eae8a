# tagmill with ONNX Runtime. Build arguments:
#   VARIANT              cpu, or cuda for NVIDIA devices (CUDA 13, cuDNN 9, TensorRT if the host mounts it)
#   FEATURES             cargo features beyond the default ones
#   VERSION, REVISION, CREATED   for the image's labels
ARG VARIANT=cpu

FROM debian:12.12-slim AS base-cpu
FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 AS base-cuda

# ---- tagmill
FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends ca-certificates cmake g++ libde265-dev make meson nasm ninja-build pkg-config \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /tagmill
ARG FEATURES=avif,heic
# What tagmill depends on, as a layer of its own: it is built again only when these two files change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches \
 && echo 'fn main() {}' >src/main.rs && touch src/lib.rs \
 && for file in $(sed -n 's/^path = "\(benches\/.*\)"/\1/p' Cargo.toml); do echo 'fn main() {}' >"$file"; done \
 && cargo build --locked --release --features "$FEATURES" \
 && rm -rf src benches/*.rs
COPY build.rs ./
COPY src src
# Cargo goes by the time of the files, and these may be older than the empty ones were.
COPY benche[s] benches
RUN find src benches -name '*.rs' -exec touch {} + \
 && cargo build --locked --release --bin tagmill --features "$FEATURES" \
 && strip -o /usr/local/bin/tagmill target/release/tagmill \
 && cp -L /usr/lib/*/libde265.so.0 /usr/local/lib/

# ---- ONNX Runtime
FROM debian:12.12-slim AS onnxruntime
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends ca-certificates python3-pip unzip \
 && rm -rf /var/lib/apt/lists/*
ARG VARIANT
# Name, version and hashes. The C library in the wheels is the same for every version of Python.
COPY deploy/onnxruntime-*.txt /
RUN python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes --dest /wheel \
        --requirement "/onnxruntime-$VARIANT.txt" \
 && unzip -q -j /wheel/*.whl 'onnxruntime/capi/libonnxruntime*.so*' -d /library \
 && rm -rf /wheel \
 && mkdir -p /files/usr/local /files/var/cache/tagmill \
 && mv /library /files/usr/local/lib \
 && chmod 755 /files/usr/local/lib/* \
 && chmod 1777 /files/var/cache/tagmill

# ---- the image: files alone, nothing is run in it while it is built
FROM base-${VARIANT}
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=onnxruntime /files/ /
COPY --chmod=755 deploy/healthcheck.sh /usr/local/bin/healthcheck
# Decodes HEIC. Here the loader looks without a cache of its own, on Debian as on Ubuntu.
COPY --from=build /usr/local/lib/libde265.so.0 /usr/lib/libde265.so.0
COPY --from=build /usr/local/bin/tagmill /usr/local/bin/tagmill

# Nothing is written but copies of models that come from a bucket, and what libraries keep in /tmp: kernels that CUDA
# compiles, an identifier of ONNX Runtime.
ENV HOME=/tmp \
    TAGMILL_LISTEN=0.0.0.0:8080 \
    TAGMILL_MODELS=/models \
    TAGMILL_MODELS_CACHE=/var/cache/tagmill \
    CUDA_CACHE_PATH=/tmp/cuda
USER 65532:65532
EXPOSE 8080
# Alive; whether it is ready for work is another question: `healthcheck /readyz`.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["healthcheck", "/healthz"]
ENTRYPOINT ["tagmill"]
CMD ["worker"]

ARG VARIANT
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="tagmill" \
      org.opencontainers.image.description="Tags images as a stream: jobs from NATS, images from S3, tags from ONNX Runtime ($VARIANT)" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
