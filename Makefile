.DEFAULT_GOAL := help
.PHONY: help demo test bench lint

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## tag the sample images with two workers (IMAGES=<folder> MODEL=<folder> for your own)
	@IMAGES="$(IMAGES)" MODEL="$(MODEL)" scripts/demo.sh

test: ## run all tests, on a real NATS server, S3 protocol and ONNX Runtime
	@scripts/setup.sh tests
	ORT_DYLIB_PATH="$$(ls $(CURDIR)/.runtime/libonnxruntime.so.*)" \
	TAGMILL_TEST_NATS_SERVER="$$(ls $(CURDIR)/.runtime/nats-server-*)" cargo test --locked

bench: ## measure decoding, batching and whole workers against Python and ONNX Runtime alone (BENCH=<scenario> for one)
	@scripts/bench.sh $(BENCH)

lint: ## check format, clippy and documentation
	@scripts/setup.sh build
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --locked --no-deps --quiet
