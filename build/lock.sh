#!/usr/bin/env bash
# Makes the lock files anew from pyproject.toml: one set for all Pythons from 3.9 up, with hashes.
# Needs uv (https://docs.astral.sh/uv/) on PATH or in $UV; nothing else in the project does.
#   build/lock.sh [--exclude-newer DATE]      the newest versions that fit, or that fitted at DATE
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv=${UV:-uv}
command -v "$uv" >/dev/null || { echo "lock.sh: uv not found; install it with: python3 -m pip install uv" >&2; exit 1; }

# pip is left out: sqlite-utils and shiv ask for it, every .venv has it, and the archive must not carry it.
compile() {
    local output=$1
    shift
    "$uv" pip compile pyproject.toml --quiet --universal --python-version 3.9 --generate-hashes \
        --upgrade --no-emit-index-url --no-emit-find-links --no-emit-package pip \
        --custom-compile-command "build/lock.sh" --output-file "$output" "$@"
}

# --upgrade: from an older lock, uv would take a version that fits 3.9 for every Python.
# Each set holds the one before it, at the same versions.
compile build/requirements.lock "$@"
compile build/requirements-examples.lock --extra examples --group backend -c build/requirements.lock "$@"
compile build/requirements-dev.lock --extra examples --group dev -c build/requirements-examples.lock "$@"
