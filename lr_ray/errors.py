"""The exceptions that users are meant to see: one line each, what is wrong and what would be right."""


class UserError(Exception):
    """Bad input, found before anything expensive started. Jobs print its one line and exit 2."""


class StageError(Exception):
    """A stage failed after it had started. Jobs print its one line and exit 1."""
