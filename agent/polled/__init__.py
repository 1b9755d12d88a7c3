"""Sites that must be asked what became of their jobs: handing over, asking in bulk, bringing here what jobs leave there."""
