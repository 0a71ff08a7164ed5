.PHONY: check test format

check:  ## the checks of the source text: ruff, mypy, import contracts
	scripts/test --check

test:  ## all checks and the quick tests
	scripts/test

format:  ## put the source text into shape
	bash -c '. scripts/_bootstrap && bootstrap'
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
