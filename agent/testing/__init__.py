"""What the author of a site's driver tests it with: the contract that every driver has to keep, for pytest.

Needs pytest, which nothing else in lwfm does. See ``docs/site-authors.md``.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("lwfm.testing.site_contract")  # its assertions say what they compared

from .site_contract import SiteContract, SiteUnderTest, in_own_process, refuse  # noqa: E402 (only then)

__all__ = ["SiteContract", "SiteUnderTest", "in_own_process", "refuse"]
