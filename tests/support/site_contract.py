"""The contract of all sites, which is part of lwfm: see there."""

from lwfm.testing import SiteContract, SiteUnderTest, refuse

__all__ = ["SiteContract", "SiteUnderTest", "refuse"]
