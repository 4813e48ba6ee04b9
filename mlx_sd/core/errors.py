"""The two ways a command ends badly."""


class InputError(ValueError):
    """Something the user gave is wrong: one line naming what, where and the way out (exit code 2)."""


class Failure(RuntimeError):
    """The work itself went wrong: one line naming the likely cause (exit code 1)."""
