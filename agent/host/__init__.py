"""What this machine gives and takes: processes, file systems, sockets, log files, and what runs out."""
