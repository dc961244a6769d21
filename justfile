# What a person types here. `just` lists the recipes; they work from any folder, with paths relative to it.

set positional-arguments

root := justfile_directory()
etl := quote(root / ".venv/bin/etl")
store := quote(root / "partitions")
python := quote(root / ".venv/bin/python")

# list the recipes
default:
    @just --justfile {{ quote(justfile()) }} --list

# import a flat I12 file: split, load, publish
[no-cd]
i12-import FILE: _installed
    {{ etl }} split {{ quote(FILE) }} --format i12 --store {{ store }} || test $? -eq 3  # 3: done, some records rejected
    {{ etl }} load --store {{ store }}

# go on with an import that was stopped: what is done already is found and kept
[no-cd]
i12-import-resume FILE: (i12-import FILE)

# say what an import of a flat I12 file would reject, without a database
[no-cd]
i12-validate FILE: _installed
    {{ etl }} validate {{ quote(FILE) }} --format i12

# the last runs of the import log
import-stats: _installed
    {{ etl }} log

# what readers cache: hits, times, sizes of all processes (REDIS_URL)
cache-stats *OPTIONS: _installed
    {{ etl }} cache stats "$@"

# let readers forget everything, or --power NAME, or --powerset NAME
cache-clear *OPTIONS="--all": _installed
    {{ etl }} cache clear {{ OPTIONS }}

# psql in the configured database
db-shell: _installed
    {{ etl }} db shell

# drop everything that etl has made in the configured database (asks first)
db-reset *OPTIONS: _installed
    {{ etl }} db reset "$@"

# schema version and published build
db-status: _installed
    {{ etl }} db status

# from nothing to answers, on generated records or on a file of yours
[no-cd]
quickstart *SOURCES:
    {{ quote(root / "scripts/quickstart") }} "$@"

# the tests without the slow ones; scripts/test runs all
test *OPTIONS:
    scripts/test -m "not slow" "$@"

# ruff: rules and format
lint: _tools
    {{ python }} -m ruff check
    {{ python }} -m ruff format --check

# let ruff mend what it can
format: _tools
    {{ python }} -m ruff check --fix
    {{ python }} -m ruff format

# mypy
types: _tools
    {{ python }} -m mypy --strict etl/

# tests, lint and types
check: test lint types

# known vulnerabilities of what is installed, before a release; needs the network
audit: _installed
    {{ python }} -m venv {{ quote(root / ".venv/audit") }}
    {{ quote(root / ".venv/audit/bin/python") }} -m pip install --quiet pip-audit
    {{ quote(root / ".venv/audit/bin/pip-audit") }} --path {{ quote(root / ".venv/lib") }}/python*/site-packages

# what must be fast, measured on this machine
bench *OPTIONS: _installed
    {{ python }} scripts/bench.py "$@"

# break it on purpose, again and again: docs/reliability.md
faults *OPTIONS: _installed
    {{ python }} scripts/faults.py "$@"

# the ratios to the limit on small inputs, against the last committed figures (three minutes)
bench-guard *OPTIONS: _installed
    {{ python }} scripts/bench.py --quick "$@"

# etl beside other loaders and the limit, at full size
bench-contenders *OPTIONS: _contenders
    {{ python }} scripts/bench.py contenders "$@"

_installed:
    @{{ quote(root / "scripts/environment") }} embedded

_contenders:
    @{{ quote(root / "scripts/environment") }} embedded,bench

_tools:
    @{{ quote(root / "scripts/environment") }} embedded,test
