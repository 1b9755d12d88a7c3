"""The most frequent word of a file."""

from __future__ import annotations

import collections
import pathlib
import sys

words = pathlib.Path(sys.argv[1]).read_text().lower().split()
print(collections.Counter(words).most_common(1)[0][0])
