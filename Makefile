.DEFAULT_GOAL := help
.PHONY: help demo test bench lint deny advisories image compose-smoke dashboards check-kubernetes scaling

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## tag the sample images with two workers (IMAGES=<folder> MODEL=<folder> for your own)
	@IMAGES="$(IMAGES)" MODEL="$(MODEL)" scripts/demo.sh

test: ## run all tests, on a real NATS server, S3 protocol and ONNX Runtime
	@scripts/setup.sh tests
	ORT_DYLIB_PATH="$$(ls $(CURDIR)/.runtime/libonnxruntime.so.*)" \
	TAGMILL_TEST_NATS_SERVER="$$(ls $(CURDIR)/.runtime/nats-server-*)" cargo test --locked

bench: ## measure decoding, batching and whole workers against Python and ONNX Runtime alone (BENCH=<scenario> for one)
	@scripts/bench.sh $(BENCH)

lint: deny ## check format, clippy, documentation and dependencies
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --locked --no-deps --quiet

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
