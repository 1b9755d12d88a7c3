"""Where an error becomes what a person sees: one line of what went wrong, one of what to do, and an exit code.

The exit codes are those of the classes in ``lwfm.errors``; ``docs/cli.md`` lists them.
"""

from __future__ import annotations

import os
import sys

import click

from ..errors import LwfmError, SiteError
from .text import harmless, harmless_lines

EXIT_FAILED_JOBS = 11
"""The command did what it should, but a job it waited for did not end well."""
EXIT_NOT_ALL = SiteError.exit_code
"""A sync did its work, but not all files came that were asked for."""
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def report(error: BaseException, *, debug: bool) -> int:
    """Tell the person about ``error``, and return the exit code that belongs to it."""
    if isinstance(error, BrokenPipeError):
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    if debug and not isinstance(error, (KeyboardInterrupt, click.exceptions.Abort)):
        import traceback

        told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        print(harmless_lines(told), end="", file=sys.stderr)
    message, hint, code = _describe(error)
    try:
        if message:
            print(f"lwfm: {harmless(message)}", file=sys.stderr)
        if hint:
            print(f"  → {harmless(hint)}", file=sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
    except OSError:  # stdout is on a full disk: the error being reported says so, or an earlier one
        _silence_stdout()
    return code


def _describe(error: BaseException) -> tuple[str, str | None, int]:
    if isinstance(error, LwfmError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.exceptions.Abort)):
        return "interrupted", None, EXIT_INTERRUPTED
    if isinstance(error, click.UsageError):
        context = error.ctx
        return _sentence(error.format_message()), f"see: {context.command_path} --help" if context else None, 2
    if isinstance(error, click.ClickException):
        return _sentence(error.format_message()), None, error.exit_code
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or error}", None, 1
    return (
        f"unexpected {type(error).__name__}: {error}",
        "this is a mistake in lwfm; --debug (before the command) shows where: please report it",
        EXIT_BUG,
    )


def _sentence(message: str) -> str:
    """click's message in our way: one line, no capital, no full stop."""
    line = " ".join(message.split()).rstrip(".")
    return line[:1].lower() + line[1:] if line[1:2].islower() else line


def _silence_stdout() -> None:
    """Nobody reads any more: what is still buffered goes nowhere, without a complaint when the interpreter ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError):
        pass  # not a file at all, as in a test
    finally:
        os.close(null)
