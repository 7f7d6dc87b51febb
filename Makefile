PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test lint clean

# One stamp per set of extras, remade when pyproject.toml changes.
$(VENV)/installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev,nvrtc]'
	@touch $@

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest -n auto

clean:
	rm -rf $(VENV)
