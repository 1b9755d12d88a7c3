"""Files: their checksums, copies of them by their content, and what jobs printed."""
