"""The exception for errors that a user can correct."""


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, what was expected, and what to do.

    The command line prints the message without a traceback and exits with status 2 (see `advmia.cli.run`).
    """
