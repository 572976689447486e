# Setup and common tasks. Each target first installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Checks the pages' accessibility in the browser tests (licence: MPL 2.0)
AXE_VERSION := 4.14.1
AXE := $(VENV)/npm/node_modules/axe-core/axe.min.js
PYTEST := -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo photos test test-slow test-oldest campaign lint shipped shipped-photos clean

demo: $(VENV)/installed  ## explain the shipped network's predictions on the embedded scenes
	$(BIN)/python demo.py

photos: $(VENV)/installed-photos  ## explain six photographs that the packages bring
	$(BIN)/python -m loader.photographs
	$(BIN)/python demo.py --image data/photographs

test: $(VENV)/installed-dev $(AXE)  ## the test suite
	$(BIN)/python $(PYTEST)

test-slow: $(VENV)/installed-dev $(AXE)  ## the tests that `make test` leaves out (three minutes)
	$(BIN)/python $(PYTEST) -m slow

test-oldest: .venv-oldest/installed  ## the test suite with the oldest supported versions
	.venv-oldest/bin/python $(PYTEST)

SEED := 1
campaign: $(VENV)/installed-dev  ## 10,000 mutated inputs for all programs; findings in campaign.jsonl (hours; Linux)
	$(BIN)/python tests/fuzz/campaign.py --inputs 10000 --seed $(SEED) --jobs 2 --report campaign.jsonl

lint: $(VENV)/installed-dev  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What a dissection leaves beside its tally, and reports read
BESIDE := tally.csv tally.made_of.json agreement.csv chance.json quantile.npy top_images.csv
RUN := resnet18_fc_ma_t5_mini_places
shipped: $(VENV)/installed  ## retrain and dissect the shipped network (40 minutes on two cores)
	$(BIN)/python train.py --mark t5 --dataset mini_places
	$(BIN)/python -m models.export snapshot/pytorch_$(RUN)/epoch_23.pth snapshot/shipped/resnet18_d5a_mini_places.pth
	$(BIN)/python netdissect/main.py --output_folder result/pytorch_$(RUN)/netdissect
	cd result/pytorch_$(RUN)/netdissect && cp $(BESIDE) $(CURDIR)/snapshot/shipped/

PHOTOS := efficientnet_lite0_fc_ma_t5_tiny_imagenet
SHIPPED := snapshot/shipped/photos
CONCEPTS := data/photo_concepts
shipped-photos: $(VENV)/installed-photos $(CONCEPTS)  ## refit and dissect the network of photographs (half an hour)
	$(BIN)/python train.py --mark t5 --arch efficientnet_lite0_fc_ma --dataset tiny_imagenet --freeze _blocks.15 --slim
	$(BIN)/python -m models.export snapshot/pytorch_$(PHOTOS)/epoch_7.pth $(SHIPPED)/efficientnet_lite0_d5a_tiny_imagenet.pth
	$(BIN)/python netdissect/main.py --model_file $(SHIPPED)/efficientnet_lite0_d5a_tiny_imagenet.pth --feature_names None \
		--data_directory $(CONCEPTS) --output_folder result/pytorch_$(PHOTOS)/netdissect
	cp $(addprefix result/pytorch_$(PHOTOS)/netdissect/,$(BESIDE)) $(SHIPPED)/

$(CONCEPTS):
	$(BIN)/python -m netdissect.broden build --recipe netdissect/dataset/recipes/photo_concepts.json --output $@

clean:  ## remove the environments and the rendered scenes (rendered again on first use)
	rm -rf $(VENV) .venv-oldest data/mini_places data/mini_broden

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/installed-photos: $(VENV)/installed requirements-photos.txt
	$(BIN)/pip install --quiet --requirement requirements-photos.txt
	touch $@

$(AXE): | $(VENV)/installed-dev
	@npm install --prefix $(VENV)/npm --no-audit --no-fund --ignore-scripts --silent axe-core@$(AXE_VERSION) \
		|| echo "axe-core could not be installed (is npm?): the tests that need it will skip"

$(VENV)/installed-dev: $(VENV)/installed-photos requirements-dev.txt
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	touch $@

.venv-oldest/installed: requirements-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --requirement requirements-oldest.txt
	touch $@
