"""The parser of the commands that have a few options of their own."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from sharedmlp.cli.errors import exit_usage
from sharedmlp.utils.suggest import did_you_mean


class CommandParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` whose errors are one line, with a suggestion.

    Args:
        command: The name of the command.
        **options: Those of `argparse.ArgumentParser`.
    """

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(prog=f"sharedmlp {command}", allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        unknown = re.match(r"unrecognized arguments: ([^\s=]+)", message)
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            message = f"unknown option {unknown[1]}" + did_you_mean(unknown[1], options)
        elif choice:
            message += did_you_mean(choice[1], re.findall(r"[\w.-]+", choice[2]))
        elif "are required" in message:
            message += f"; see {self.prog} --help"
        exit_usage(message)
