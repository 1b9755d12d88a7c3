"""The workers, as the agent has them: let in, told what to run, listened to, missed when they are silent.

What runs on a node is :mod:`lwfm.worker`.
"""
