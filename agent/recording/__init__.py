"""What may be recorded, and what follows from it: units of work on the store, and who is woken when they are durable."""
