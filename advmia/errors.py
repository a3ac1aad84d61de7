"""The one exception whose text is meant for the person at the terminal."""


class UserError(Exception):
    """Bad input: one line that says what was expected, what was got, where, and what to do.

    The command line prints it without a traceback and exits with status 2 (`advmia.cli.run`).
    """
