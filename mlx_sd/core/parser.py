"""The parser of all command lines: strict names, other tools' spellings, and one line for each mistake."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from .errors import InputError
from .suggestions import closest

Words = Sequence[str]

_WITHOUT_MODULE = ("", "models", "studio", "doctor", "completion")
_NUMBER = re.compile(r"-\.?\d")
_LONG_DASHES = ("\u2013", "\u2014")  # what word processors and web pages make of --
_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "1", "0")


def program(command: str = "") -> str:
    """Returns how a command was started: "mlx-sd NAME" or, of a module, "python -m MODULE"."""
    if Path(sys.argv[0]).stem == "mlx-sd" or command in _WITHOUT_MODULE:
        return f"mlx-sd {command.removeprefix('mlx_sd.')}".strip()
    return f"python -m {command}"


class Spelling(NamedTuple):
    """Another tool's name of an option, without dashes: the same, written otherwise, or of another meaning."""

    action: argparse.Action
    words: Callable[[str], Words] | None = None  # value -> the words that mean it here
    hint: str | None = None  # of another meaning: the way out, with {value}


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations that knows other tools' names and reports a mistake in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"allow_abbrev": False} | kwargs))
        self._spellings: dict[str, Spelling] = {}
        self._forms: dict[str, re.Pattern[str]] = {}

    def add_spellings(
        self,
        action: argparse.Action,
        aliases: str = "",
        conversions: Mapping[str, Callable[[str], Words]] | None = None,
        false_friends: Mapping[str, str] | None = None,
        form: str | None = None,
    ) -> None:
        """Adds other tools' names, without dashes, for an option or a positional argument; help does not list them.

        aliases: names of the same meaning, separated by spaces. conversions: names whose value is said in other words
        here. false_friends: names of another meaning, with the way out. form: a regular expression for the values of
        an option that can stand alone; a word that does not match is no value of it.
        """
        self._spellings |= {name: Spelling(action) for name in aliases.split()}
        self._spellings |= {name: Spelling(action, words) for name, words in (conversions or {}).items()}
        self._spellings |= {name: Spelling(action, hint=hint) for name, hint in (false_friends or {}).items()}
        if form is not None:
            self._forms[action.dest] = re.compile(form, re.IGNORECASE)

    @property
    def spellings(self) -> Mapping[str, Spelling]:
        """Returns other tools' names of options, without dashes."""
        return self._spellings

    def parse_args(self, args: Words | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Returns the arguments; a mistake ends the process with one line and exit code 2."""
        reading = _Reading(self, sys.argv[1:] if args is None else args)
        try:
            words, texts, loose = reading.translate()
        except InputError as error:
            self.error(str(error))
        namespace, surplus = self.parse_known_args(words, namespace)
        for action, text in texts:
            first = getattr(namespace, action.dest)
            if first not in (None, text):
                self.error(f"the {action.dest} is there twice, as {first!r} and as --{action.dest} {text!r}")
            setattr(namespace, action.dest, text)
        if surplus:
            self.error(self._unexpected(surplus[0], namespace, loose))
        return namespace

    def error(self, message: str) -> NoReturn:
        """Exit code 2 after one line."""
        self.exit(2, f"{self.prog}: {message} (--help shows all options)\n")

    def action_of(self, name: str) -> argparse.Action | None:
        """Returns the action of an option string, such as --steps, or None."""
        return self._option_string_actions.get(name)

    def suggestion(self, word: str) -> str:
        """Returns " did you mean --NAME?" for an unknown option, or nothing where none is close."""
        name = _normal(word)
        visible = [option for option in self._option_string_actions if option.startswith("--")]
        completed = [option for option in visible if len(name) > 1 and option.startswith(f"--{name}")]
        if not completed:
            match = closest(name, [*(option[2:] for option in visible), *self._spellings])
            if match is not None:
                completed = [f"--{match}" if f"--{match}" in visible else _title(self._spellings[match].action)]
        return f"; did you mean {' or '.join(completed[:3])}?" if completed else ""

    def form_of(self, action: argparse.Action) -> re.Pattern[str] | None:
        """Returns the form of the values of an option that can stand alone."""
        return self._forms.get(action.dest) if action.nargs == "?" and action.option_strings else None

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """The value of a text; a number's mistake is said in plain words."""
        words = {int: "a whole number", float: "a number"}.get(action.type) if isinstance(action.type, type) else None
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError:
            if words is None:
                raise
            raise argparse.ArgumentError(action, f"must be {words}, not {arg_string!r}") from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            match = closest(str(value), choices)
            suggestion = f"did you mean {match!r}? " if match else ""
            raise argparse.ArgumentError(
                action, f"invalid choice: {value!r}; {suggestion}there are {', '.join(choices)}"
            )

    def _unexpected(self, word: str, namespace: Any, loose: Mapping[str, argparse.Action]) -> str:
        """The message for a word that is left over."""
        key, equals, value = word.partition("=")
        if equals and re.fullmatch(r"[A-Za-z][\w-]*", key) and (suggestion := self.suggestion(key)):
            return f"unexpected {word!r}{suggestion.replace('?', f' {value}?')}"
        positional = next((action for action in self._actions if not action.option_strings), None)
        message = f"unexpected {word!r}" + (
            "" if positional else "; values stand behind their options, as in --option value"
        )
        text = getattr(namespace, positional.dest, None) if positional else None
        if positional and text is not None:
            message += f": the {positional.dest} is {text!r} already"
            if word in loose:
                message += f", and {loose[word].option_strings[0]} takes {loose[word].metavar}, or nothing"
            else:
                message += "; put a text of several words between straight quotes"
        return message


class _Reading:
    """One reading of a command line: other tools' names become ours, and values stick to their options."""

    def __init__(self, parser: Parser, words: Words):
        self._parser, self._left = parser, list(words)
        self._words: list[str] = []
        self._texts: list[tuple[argparse.Action, str]] = []  # of positional arguments that came with a name
        self._loose: dict[str, argparse.Action] = {}  # words behind an option of which they are no value

    def translate(self) -> tuple[list[str], list[tuple[argparse.Action, str]], dict[str, argparse.Action]]:
        """Returns words for argparse, texts of positional arguments, and words that are no value of an option."""
        while self._left:
            word = self._left.pop(0)
            if word == "--":
                self._words += [word, *self._left]
                break
            self._add(word)
        return self._words, self._texts, self._loose

    def _add(self, word: str) -> None:
        if word.startswith(_LONG_DASHES) and self._name(f"--{word.lstrip(''.join(_LONG_DASHES))}"):
            raise InputError(f"{word!r} begins with a long dash; type --{word.lstrip(''.join(_LONG_DASHES))}")
        if not _is_option(word):
            self._words.append(word)
            return
        option, equals, attached = word.partition("=")
        name = self._name(option)
        if name is None and not word.startswith("--") and word[1:2] in self._parser.spellings:  # -n4
            option, name, equals, attached = word[:2], word[1:2], "=", word[2:].removeprefix("=")
        if name is None:
            raise InputError(f"unknown option {option}{self._parser.suggestion(option)}")
        spelling = self._parser.spellings.get(name)
        action = spelling.action if spelling else self._parser.action_of(name)
        assert action is not None
        if spelling and spelling.hint is not None:
            value = attached if equals else next((w for w in self._left[:1] if not _is_option(w)), "N")
            raise InputError(f"{option}: {spelling.hint.format(value=value)}")
        flag = _title(action) if spelling else name
        named = not action.option_strings  # a positional argument that comes with its name
        takes_value = action.nargs is None or named or (spelling is not None and spelling.words is not None)
        if takes_value and not equals and self._has_value():
            equals, attached = "=", self._left.pop(0)
        if takes_value and not equals:
            raise InputError(f"{option} needs a value")
        if spelling and spelling.words:
            self._words += spelling.words(attached)
        elif named:
            self._texts.append((action, attached))
        elif not takes_value and (form := self._parser.form_of(action)):
            self._add_optional(action, form, flag, attached if equals else None)
        else:
            if action.nargs == 0:
                self._check_alone(option, action, attached if equals else None)
            self._words.append(f"{flag}={attached}" if equals else flag)

    def _add_optional(self, action: argparse.Action, form: re.Pattern[str], flag: str, attached: str | None) -> None:
        """Adds an option that can stand alone, with its value where there is one."""
        if attached is None:
            attached = str(action.const)
            if self._left and not _is_option(self._left[0]):
                if form.fullmatch(self._left[0]):
                    attached = self._left.pop(0)
                else:
                    self._loose[self._left[0]] = action
        self._words.append(f"{flag}={attached}")

    def _check_alone(self, option: str, action: argparse.Action, attached: str | None) -> None:
        """Raises InputError where an option that takes no value has one."""
        value = attached
        if value is None and self._left and self._left[0].lower() in _BOOLEANS:
            value = self._left[0]
        if value is not None:
            names = " or ".join(name for name in action.option_strings if name.startswith("--"))
            raise InputError(f"{option} takes no value, so leave out {value!r}: {names} is all")

    def _has_value(self) -> bool:
        """Whether the next word is a value: text, a number, or what begins with a dash and is no option."""
        if not self._left or self._left[0] == "--":
            return False
        word = self._left[0]
        if not _is_option(word):
            return True
        return not (word.startswith("--") or re.fullmatch(r"-\w", word) or self._name(word.partition("=")[0]))

    def _name(self, option: str) -> str | None:
        """Returns our option string, or another tool's name, that an option means; None where it is unknown."""
        parser, name = self._parser, _normal(option)
        for string in (option, f"--{name}"):
            if parser.action_of(string):
                return string
        return name if name in parser.spellings else None


def _is_option(word: str) -> bool:
    """Whether a word is written as an option: not a number, not text with a space, not - alone."""
    return len(word) > 1 and word[0] == "-" and not _NUMBER.match(word) and " " not in word.partition("=")[0]


def _normal(option: str) -> str:
    """Returns an option's name without dashes in front, with dashes for underscores; one letter keeps its case."""
    name = option.lstrip("-").replace("_", "-")
    return name if len(name) == 1 else name.lower()


def _title(action: argparse.Action) -> str:
    """Returns how an argument is written on the command line."""
    return next((name for name in action.option_strings if name.startswith("--")), None) or f"--{action.dest}"
