"""The worker: the process on a node that starts, watches and stops jobs for an agent (``docs/protocol.md``).

Two processes. The *keeper* (:mod:`.keeper`) is small and does next to nothing: it starts the *loop* (:mod:`.loop`), and
when that one is killed it inherits the running jobs, keeps their exit status and starts a new loop, which takes them
over. Modules of the loop: :mod:`.link` talks to the agent, :mod:`.runner` leads jobs through their life, :mod:`.ledger`
hands out cores, memory and GPUs, :mod:`.launcher` starts, :mod:`.outputs` holds what jobs print, :mod:`.reader` serves it,
:mod:`.monitor` watches limits, :mod:`.orphans` finds what jobs leave behind, :mod:`.spool` remembers, :mod:`.recovery` takes
over what an earlier loop left. Synchronous, one thread, no periodic wakeup when idle.
"""
