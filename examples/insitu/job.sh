#!/bin/bash
# The batch job of the study: all the nodes it gets work on it, and the next such job goes on where this one ended.
#SBATCH --nodes=2 --exclusive --time=0:10:00
exec ~/lwfm.pyz run --resume study.py "$@"
