"""What all tests need."""

import signal


def pytest_configure() -> None:
    """In the background of a script SIGINT is ignored, and so it would be in the jobs that tests interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
