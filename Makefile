# Two commands do everything: `make demo` and `make test`. Both make their own virtual environment.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
SEED ?= 0

.PHONY: demo test check nightly tables site clean

demo: $(STAMP)  ## train the embedded policy with rulesets/arithmetic.reward and show its report
	$(BIN)/grpo-train demo --seed $(SEED)

test: check  ## format, lint, types, then every test but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu"
	$(BIN)/grpo-rewards test rulesets/*.reward
	OMP_NUM_THREADS=1 $(BIN)/grpo-rewards fuzz rulesets/*.reward --examples 15

check: $(STAMP)  ## format, lint, types, and the shipped rulesets
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/grpo-rewards check rulesets/*.reward
	$(BIN)/grpo-rewards fmt --check rulesets/*.reward

nightly: $(STAMP)  ## all tests with 2,000 examples a law
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest
	OMP_NUM_THREADS=1 $(BIN)/grpo-rewards fuzz rulesets/*.reward --examples 2000 --seed $(SEED)

tables: $(STAMP)  ## save the parser tables; run it after changing a grammar
	$(BIN)/python -m grpo_rewards.cli.save_parsers

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

site: $(STAMP)  ## the documentation as pages in site/
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
