.DEFAULT_GOAL := help
# ONNX Runtime tells nobody of this machine, in tests and benchmarks either.
export ORT_DISABLE_TELEMETRY := 1
.PHONY: help demo test test-cuda-library bench bench-gpu bench-optimized lint deny advisories image compose-smoke dashboards check-kubernetes scaling pillow-suite

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## tag the sample images with two workers (IMAGES=<folder> MODEL=<folder> for your own)
	@IMAGES="$(IMAGES)" MODEL="$(MODEL)" scripts/demo.sh

test: ## run all tests, on a real NATS server, S3 protocol and ONNX Runtime
	@scripts/setup.sh tests
	ORT_DYLIB_PATH="$$(ls $(CURDIR)/.runtime/libonnxruntime.so.*)" \
	TAGMILL_TEST_NATS_SERVER="$$(ls $(CURDIR)/.runtime/nats-server-*)" cargo test --locked

pillow-suite: ## compare decoding with Pillow over the images of its own tests (downloads 47 MB from PyPI)
	@scripts/pillow-suite.sh

test-cuda-library: ## see what ONNX Runtime's GPU build says where there is no GPU (downloads 244 MB)
	@scripts/setup.sh tests
	@scripts/setup.sh gpu
	TAGMILL_TEST_CUDA_LIBRARY="$$(ls $(CURDIR)/.runtime/gpu/libonnxruntime.so.*)" \
	ORT_DYLIB_PATH="$$(ls $(CURDIR)/.runtime/libonnxruntime.so.*)" cargo test --locked --test it gpu -- --include-ignored --nocapture

bench: ## measure decoding, batching and whole workers against Python and ONNX Runtime alone (BENCH=<scenario> for one)
	@scripts/bench.sh $(BENCH)

bench-gpu: ## measure an NVIDIA device: tags against the CPU's, speed by precision and batch, whole workers (DEVICE=cuda:N)
	@scripts/bench-gpu.sh $(if $(DEVICE),--device $(DEVICE))

bench-optimized: ## see what models optimize makes of graphs of each family, on the CPU (IMAGES=<folder> for your own)
	@scripts/bench.sh optimized $(or $(IMAGES),samples)

lint: deny ## check format, clippy, documentation, dependencies, and that modules point one way
	scripts/check-modules.py
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --locked --no-deps --document-private-items --quiet

deny: ## check licences, sources and versions of dependencies against deny.toml
	@scripts/setup.sh lint
	@"$$(ls .runtime/cargo-deny-*)" check bans licenses sources

advisories: ## check dependencies against the RustSec database (needs github.com)
	@scripts/setup.sh lint
	@"$$(ls .runtime/cargo-deny-*)" check advisories

image: ## build the container image (VARIANT=cuda for NVIDIA devices)
	DOCKER_BUILDKIT=1 docker build --build-arg VARIANT=$(or $(VARIANT),cpu) \
		--build-arg REVISION="$$(git rev-parse HEAD)" --build-arg CREATED="$$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
		--tag tagmill:local$(if $(filter cuda,$(VARIANT)),-cuda) .

compose-smoke: ## run docker-compose.yml as a user does, scaling included (needs Docker; SKIP=grafana leaves it out)
	scripts/compose-smoke.sh

dashboards: ## write Grafana's dashboards anew from dashboards/make.py and docs/runbook.md
	python3 dashboards/make.py

check-kubernetes: ## check deploy/kubernetes against the published schemas (needs kubectl and npm)
	scripts/check-kubernetes.sh

scaling: ## measure how throughput grows with workers where storage is slow (needs Docker)
	scripts/scaling.sh
