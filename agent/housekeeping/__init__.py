"""What an instance takes of the disk, and how that is kept within bounds; snapshots of its store."""
