"""Batch schedulers: how each is spoken to, and how jobs of ours are run by one and followed; ``batch_site`` is the driver."""
