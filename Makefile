PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# timm and spandrel ask for torchvision, which must be built for the very torch that is installed. Where no such build
# is to be had (a CPU-only torch), a broken one is worse than none: nothing here needs it.
INSTALL = $(BIN)/python -m pip install -q -c constraints.txt
WITHOUT_BROKEN_TORCHVISION = $(BIN)/python -c "import torchvision" 2>/dev/null || $(BIN)/python -m pip uninstall -q -y torchvision

.PHONY: demo test lint reproduce-smoke

demo: $(VENV)/runtime
	$(BIN)/python app.py

test: $(VENV)/development
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: requirements.txt constraints.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements.txt
	$(WITHOUT_BROKEN_TORCHVISION)
	touch $@

$(VENV)/development: requirements-dev.txt requirements.txt constraints.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements-dev.txt
	$(WITHOUT_BROKEN_TORCHVISION)
	touch $@

# The way from nothing to every checkpoint and table, with networks and photographs too small to be of use.
reproduce-smoke: $(VENV)/development
	$(BIN)/python -m training.reproduce --recipes smoke --test assets/examples/clean --output runs/smoke
