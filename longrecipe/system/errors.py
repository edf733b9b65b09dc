"""Errors of others, in one line."""


def reason(error: BaseException) -> str:
    """The first line of an error's message, or its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
