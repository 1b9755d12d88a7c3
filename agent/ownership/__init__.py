"""Who owns an instance: the one process that may write to its store, wherever the file system is shared."""
