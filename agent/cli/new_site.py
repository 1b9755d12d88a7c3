"""What ``lwfm site new`` writes: a driver to begin with, out of :mod:`lwfm.sites.skeleton`, and its test."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from ..errors import Conflict, InvalidRecord, NotFound
from ..sites import skeleton

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*", re.ASCII)
_TEST = '''"""Whether the driver of the site NAME keeps the contract of all sites: lwfm python -m pytest test_MODULE.py"""

from pathlib import Path

import pytest

from lwfm.sites.base import SiteContext
from lwfm.testing import SiteContract, SiteUnderTest, in_own_process

DRIVER = f"{Path(__file__).resolve().with_name('MODULE.py')}:SkeletonSite"


class TestSkeletonSite(SiteContract):
    @pytest.fixture(scope="class")
    def site(self, tmp_path_factory):
        home = tmp_path_factory.mktemp("home")
        options = {"directory": str(tmp_path_factory.mktemp("site"))}  # what sites.toml gives it
        driver = in_own_process(DRIVER, SiteContext("NAME", options, home, home / "repository"))
        yield SiteUnderTest(
            driver,
            directory=tmp_path_factory.mktemp("here"),  # on this host, for the files of these tests
            site_directory=str(tmp_path_factory.mktemp("there")),  # on the site, where jobs run and files are put
            patience_s=60,  # how long a small job may take
            # answer=lambda prompt, secret: "...",  # the answers to a login
        )
        driver.close()
'''


class Written(NamedTuple):
    """The two files, and what to add to ``sites.toml``."""

    driver: Path
    test: Path
    section: str


def write(name: str, directory: Path) -> Written:
    """Write the driver of a site and its test.

    Raises:
        InvalidRecord: this cannot be a name. Conflict: there is such a file. NotFound: the directory cannot be written to.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidRecord(f"{name!r} cannot be the name of a driver", hint="letters, digits, - and _, a letter first")
    module = f"{name.replace('-', '_').lower()}_site"
    kind = "".join(word[:1].upper() + word[1:] for word in re.split("[_-]", name))
    files = {
        directory / f"{module}.py": Path(skeleton.__file__).read_text(encoding="utf-8"),
        directory / f"test_{module}.py": _TEST,
    }
    for path in files:
        if os.path.lexists(path):
            raise Conflict(f"{path.name} is there already", hint="choose another name, or another directory")
    for path, text in files.items():
        for word, ours in (("skeleton://", f"{name.lower()}://"), ("Skeleton", kind)):
            text = text.replace(word, ours)
        text = re.sub(r"\bNAME_site\b|\bMODULE\b", module, text.replace("test_NAME_site", f"test_{module}"))
        text = (
            text.replace("test_MODULE", f"test_{module}")
            .replace("site NAME", f"site {name}")
            .replace('"NAME"', f'"{name}"')
        )
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise NotFound(f"cannot write {path}: {error.strerror}") from None
    driver, test = files
    section = (
        f"[{name}]\ndriver = {json.dumps(f'{driver}:{kind}Site', ensure_ascii=False)}\n"
        f"directory = {json.dumps(str(directory / f'{name}-site'), ensure_ascii=False)}\n"
    )
    return Written(driver, test, section)
