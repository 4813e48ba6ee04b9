"""The errors that this project raises on purpose; each is one line that a user can act on."""


class InputError(ValueError):
    """An input of the user is wrong. The message names the input, the mistake and the way out; exit code 2."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in work that can be gone on with. The message says how."""


class Failure(RuntimeError):
    """The work failed although the input was right. The message names the likely cause; exit code 1."""
