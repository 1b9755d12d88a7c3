#!/usr/bin/env bash
# The same from the command line only: jobs, events and data without a line of Python.
#
# Run it:   bash examples/shell.sh
# Expect:   "the mean is 2", from a job that data started, and the lineage of its result.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lwfm() { ${LWFM:-./lwfm.sh} "$@"; } # $LWFM: another way to call it, if set

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
workflow=$(lwfm workflow create "from the shell")

# Whenever data with kind=numbers is put in this workflow, a job computes their mean. The job's id is known at once.
mean=$(lwfm on data kind=numbers --workflow "$workflow" --cwd "$work" --name mean --out mean.txt -- \
    sh -c 'awk "{ sum += \$1 } END { print \"the mean is\", sum / NR }" "$LWFM_TRIGGER_PATH" | tee mean.txt' |
    awk '$1 == "job" { print $2 }')

# A job writes them; --wait follows it to its end.
lwfm submit --wait --workflow "$workflow" --cwd "$work" --name numbers --out numbers.txt -- sh -c 'seq 0 4 > numbers.txt'
lwfm put "$work/numbers.txt" --workflow "$workflow" --meta kind=numbers --meta count=5

lwfm job wait "$mean"
lwfm job output "$mean"
lwfm find kind=numbers 'count>=5'
lwfm lineage "$work/mean.txt"
lwfm job list --workflow "$workflow"
