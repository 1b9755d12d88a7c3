#!/usr/bin/env bash
# The one entry from a checkout: sets up .venv beside itself when needed, then runs lwfm. See ./lwfm.sh help
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
venv=$root/.venv
python=$venv/bin/python
log=$venv/setup.log

usage() {
    cat <<'END'
Usage: ./lwfm.sh                 start the agent
       ./lwfm.sh COMMAND ...     any command of lwfm; --help lists them
For work on lwfm itself:
       ./lwfm.sh test [ARGS]     run the tests, two at a time; or, one at a time, what ARGS of pytest say (paths are seen from the checkout)
       ./lwfm.sh check [--fix]   format, lint, types and import contracts; --fix repairs what it can
       ./lwfm.sh build [ARGS]    make dist/lwfm.pyz
       ./lwfm.sh bench [ARGS]    run the benchmarks
       ./lwfm.sh soak [ARGS]     mixed load on a Slurm of its own while everything fails: --minutes N --seed S (needs root)
       ./lwfm.sh fuzz [--minutes N] [TARGET ...]
                                 look for input that something which reads input does not stand
       ./lwfm.sh help            show this (also --help-dev)
$LWFM_PYTHON names the Python (3.9 or newer) to set up .venv with.
END
}

say() { printf 'lwfm: %s\n' "$*" >&2; }
die() { # MESSAGE HINT
    say "$1"
    printf '      %s\n' "$2" >&2
    exit 1
}

# ---------------------------------------------------------------------------------------------- the set-up

lock_of() { # run|dev; each lock file holds all of the one before it
    if [ "$1" = dev ]; then echo "$root/build/requirements-dev.lock"; else echo "$root/build/requirements-examples.lock"; fi
}

base() { printf '%s made by %s, which is %s\n' "$venv" "$1" "$(readlink -f "$python" || true)"; }

# Is .venv as run|dev wants it? Asked before every command, so it starts no Python.
ready() {
    local stamp=$venv/stamp-$1 made_by
    [ -x "$python" ] && [ -s "$stamp" ] && [ -s "$venv/made-by" ] || return 1
    made_by=$(<"$venv/made-by")
    [ -z "${LWFM_PYTHON:-}" ] || [ "$made_by" = "$(type -P "$LWFM_PYTHON" || true)" ] || return 1
    [ "$(<"$stamp")" = "$(fingerprint "$1" "$made_by")" ]
}

fingerprint() { # run|dev MADE_BY
    base "$2"
    grep -m 1 '^__version__' "$root/agent/__init__.py" || true
    cat "$root/pyproject.toml" "$(lock_of "$1")" | cksum
}

is_new_enough() { "$1" -I -c 'import sys; sys.exit(sys.version_info < (3, 9))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [ -n "${LWFM_PYTHON:-}" ]; then
        is_new_enough "$LWFM_PYTHON" || die "LWFM_PYTHON=$LWFM_PYTHON is not a Python 3.9 or newer" "Set it to one that is, or unset it."
        type -P "$LWFM_PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python3.14 python3.9; do
        if is_new_enough "$candidate"; then
            type -P "$candidate"
            return
        fi
    done
    die "no Python 3.9 or newer found on PATH" "Install or load one (on a cluster: module load python), or set LWFM_PYTHON to its path."
}

run_logged() { # COMMAND...
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        die "setting up .venv failed" "The whole output is in $log; ./lwfm.sh again makes a new attempt."
    fi
}

# A subshell: its lock and environment end with it. The stamps are removed first and written last, so that an
# interrupted set-up is seen by the next one, which then starts from nothing.
set_up() ( # run|dev
    unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_ROOT
    export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
    by=$(find_python)
    { exec 9>>"$venv.lock"; } 2>/dev/null || die "cannot write in $root" "Use a copy of the checkout that is yours."
    # Some shared file systems have no locks; then two set-ups at the same moment are not kept apart.
    "$by" -I -c 'import fcntl, sys
try: fcntl.flock(9, fcntl.LOCK_EX)
except OSError: pass' || exit 1
    if ready "$1"; then exit 0; fi # somebody else did it while this one waited

    trap 'say "set-up interrupted; the next call starts it anew"; exit 130' INT TERM
    say "setting up .venv (once) ..."
    if ! { [ -s "$venv/stamp-run" ] && [ "$(head -n 1 "$venv/stamp-run")" = "$(base "$by")" ]; }; then
        rm -rf "$venv"
        if ! output=$("$by" -I -m venv "$venv" 2>&1); then
            printf '%s\n' "$output" | tail -n 5 >&2
            rm -rf "$venv"
            die "$by cannot make a virtual environment" "On Debian and Ubuntu: apt install python3-venv"
        fi
    fi
    rm -f "$venv"/stamp-*
    printf '%s\n' "$by" >"$venv/made-by"
    : >"$log"
    say "  installing what $(basename "$(lock_of "$1")") lists"
    run_logged "$python" -I -m pip install --no-deps --require-hashes -r "$(lock_of "$1")"
    # Not `pip install -e`: that downloads the build backend unchecked, and the pip of older systems cannot do it.
    cd "$root"
    [ -e build/link/lwfm ] || { mkdir -p build/link && ln -sfn ../../agent build/link/lwfm; }
    rm -rf "$venv/editable"
    run_logged "$python" -I -m hatchling build --target wheel:editable --directory "$venv/editable"
    run_logged "$python" -I -m pip install --no-deps --no-index --force-reinstall "$venv"/editable/*.whl
    if [ "$1" = dev ]; then fingerprint dev "$by" >"$venv/stamp-dev"; fi
    fingerprint run "$by" >"$venv/stamp-run"
    say "  done"
)

need() { # run|dev
    if ! ready "$1"; then set_up "$1"; fi
}

need_dev() {
    unset PYTHONHOME PYTHONPATH # tests start other Pythons; what the user has there is not under test
    need dev
}

# ---------------------------------------------------------------------------------------------- the checks

check() { # [--fix]
    local failed=() format=(format --check) lint=(check)
    case "${1:-}" in
    --fix) format=(format) lint=(check --fix) ;;
    ?*) die "check knows no $1" "Usage: ./lwfm.sh check [--fix]" ;;
    esac
    cd "$root"
    step() { # NAME COMMAND...
        printf '== %s\n' "$1"
        "${@:2}" || failed+=("$1")
    }
    step lint "$python" -I -m ruff "${lint[@]}"
    step format "$python" -I -m ruff "${format[@]}"
    step types "$python" -I -m mypy
    step imports "$python" -I -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
    if [ ${#failed[@]} -gt 0 ]; then
        say "check failed: ${failed[*]}"
        return 1
    fi
    say "check passed"
}

# -I keeps the user's PYTHON* variables and the current directory from changing what lwfm imports.
case "${1:-}" in
help | --help-dev) usage ;;
"")
    need run
    exec "$python" -I -m lwfm agent start
    ;;
test)
    need_dev
    cd "$root"
    # All of them: two at a time, since most of them wait for something. What one file shares stays together.
    if [ $# = 1 ]; then set -- test --numprocesses=2 --dist=loadfile; fi
    exec "$python" -I -m pytest "${@:2}"
    ;;
check)
    need_dev
    check "${@:2}"
    ;;
build)
    need_dev
    exec "$python" "$root/build/make_pyz.py" "${@:2}"
    ;;
soak)
    need_dev
    exec "$python" "$root/tests/soak/run.py" "${@:2}"
    ;;
fuzz)
    need_dev
    exec "$python" -I "$root/tests/fuzz/run.py" "${@:2}"
    ;;
bench)
    need_dev
    exec "$python" "$root/tests/bench/run.py" "${@:2}"
    ;;
*)
    need run
    exec "$python" -I -m lwfm "$@"
    ;;
esac
