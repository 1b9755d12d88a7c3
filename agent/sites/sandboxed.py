"""Run as a script by the Python of a virtual environment: lets it import ``lwfm`` from where this file lies, and nothing beside it.

The packages that lwfm needs elsewhere lie beside it too; on ``sys.path`` they would get in the way of the environment's own.
"""

import os
import sys

if sys.version_info < (3, 9):  # noqa: UP036 (this runs on any)
    sys.stderr.write("lwfm: this is Python %d.%d; drivers need 3.9 or newer\n" % sys.version_info[:2])  # noqa: UP031
    sys.exit(2)


def main():
    # type: () -> int
    """Make lwfm importable, and be the process of a driver."""
    import importlib.util

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = importlib.util.spec_from_file_location(
        "lwfm", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    if spec is None or spec.loader is None:
        raise ImportError(package)
    module = importlib.util.module_from_spec(spec)
    sys.modules["lwfm"] = module
    spec.loader.exec_module(module)
    from lwfm.sites.host import main as host

    return host(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
