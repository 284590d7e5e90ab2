"""The one way in which an import ends early."""

# base/exit_code.h
EXIT_OK = 0
EXIT_USAGE = 64
EXIT_BAD_INPUT = 65
EXIT_UNAVAILABLE = 69
EXIT_INTERNAL = 70
EXIT_OS = 71
EXIT_CONFIGURATION = 78
EXIT_INTERRUPTED = 130


class ImportRefused(Exception):
    """The message says what was found and what was expected; the exit code is a program's."""

    def __init__(self, message, exit_code=EXIT_BAD_INPUT):
        super().__init__(message)
        self.exit_code = exit_code


def shown(text, most=80):
    """A value of a file for a message: printable and short. Of a container only its type: it may be without end."""
    if text is not None and not isinstance(text, (str, int, float)):
        return type(text).__name__
    text = str(text)
    cut = text if len(text) <= most else text[:most] + "..."
    return cut.encode("unicode_escape").decode("ascii")
