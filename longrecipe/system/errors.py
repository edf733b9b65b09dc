"""Errors of several packages, and one-line summaries of errors."""


class DivergedError(ValueError):
    """Training gave a loss, gradient or weight that is not finite, or an unusable model."""


def reason(error: BaseException) -> str:
    """The first line of an error's message, or its class if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
