"""What can be added from outside the package, by name: six registries, and the modules that fill them.

A plugin is any importable module that registers something. `--plugins MODULE` names it, so does the
environment variable LR_RAY_PLUGINS (names between commas), and an installed package names its own in the
entry point group `lr_ray.plugins`. docs/extending.md has an example of each.
Exercised by `pytest tests/unit/test_extending.py`.
"""

import difflib
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from lr_ray.errors import UserError, named

VARIABLE = "LR_RAY_PLUGINS"
GROUP = "lr_ray.plugins"
_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in a submitted job; the environment asked for is in it
_SHOWN = 100  # characters of a name in an error

Value = TypeVar("Value")


class Registry:
    """Things of one kind by name: built in, registered by a plugin, or `my_module:object`."""

    def __init__(self, kind: str, built_in: Mapping[str, str], takes: str = "") -> None:
        """`built_in` maps names to `module:object`, imported when it is asked for.

        `takes`: what has a name is called with these, and anything else is refused; empty where it is not.

        A name such as `top:SHARE` takes a parameter: what has it is a function of the parameter's text
        that gives the thing, and raises ValueError saying what the parameter must be.
        """
        self.kind, self.built_in, self.takes = kind, dict(built_in), takes
        self._registered: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[Value], Value]:
        """A decorator that makes a function, a class or an object known by a name.

        Raises ValueError for a name that another object has, one of a form that nothing could ask for, and
        for what cannot be called so.
        """

        def add(value: Value) -> Value:
            if name in self.built_in or self._registered.get(name, value) is not value:
                raise ValueError(f"a {self.kind} {name!r} is there already")
            if ":" in name and self.takes.startswith("parameter"):
                word = name.partition(":")[0]
                raise ValueError(
                    f"a {self.kind} {name!r} has a colon, after which a parameter is given; give {word!r}"
                )
            takes = "parameter" if ":" in name and self.takes else self.takes
            self._registered[name] = self._callable(name, value, takes)
            return value

        return add

    def names(self) -> list[str]:
        """Built-in names, then those of the plugins."""
        _import_plugins()
        return [*self.built_in, *self._registered]

    def check(self, name: str) -> str:
        """The name. Raises ValueError with one line that lists the known ones when there is no such thing."""
        if name not in self.built_in or ":" in name:
            self._find(name)
        return name

    def get(self, name: str, option: str) -> Any:
        """What has the name. Raises UserError naming `option`, the setting that asked for it."""
        try:
            return self._find(name)
        except ValueError as error:
            raise UserError(f"{option}: {error}") from None

    def _find(self, name: str) -> Any:
        known, (word, colon, parameter) = self.names(), name.partition(":")
        if name in known and not colon:
            return self._load(name)
        form = next((other for other in known if other.startswith(f"{word}:")), None)
        if form is None and colon:
            return self._callable(name, self._of_module(name, known), self.takes)
        if form is None:
            raise ValueError(self._unknown(name, known))
        if not parameter:
            raise ValueError(f"{self.kind} {name!r} needs a parameter: {form}")
        try:
            found = self._load(form)(parameter)
        except ValueError as error:
            shown = name[:_SHOWN]
            raise ValueError(f"{self.kind} {shown!r}, {form}: {error}") from None
        return self._callable(name, found, self.takes)

    def _callable(self, name: str, value: Value, takes: str) -> Value:
        if takes and (wrong := uncallable(value, takes)):
            raise ValueError(f"{self.kind} {name[:_SHOWN]!r} {wrong}")
        return value

    def _load(self, name: str) -> Any:
        if name in self._registered:
            return self._registered[name]
        module, _, attribute = self.built_in[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def _of_module(self, name: str, known: list[str]) -> Any:
        """A user's `module:object`. Raises ValueError for what is more likely a slip in a known name."""
        module, _, attribute = name.partition(":")
        bare = f"{self.kind} {module!r} takes no parameter; leave it out"
        if module in self.built_in:
            raise ValueError(bare)
        try:
            return getattr(_import(module), attribute)
        except Exception as error:  # whatever a user's module raises
            missing = isinstance(error, ModuleNotFoundError) and error.name == module
            reason = f"{name[:_SHOWN]!r} cannot be imported: {error}"[: 5 * _SHOWN]
            if missing and _close(module, known):
                reason = bare if module in known else self._unknown(name, known)
            raise ValueError(reason) from None

    def _unknown(self, name: str, known: list[str]) -> str:
        close = _close(name.partition(":")[0], known)
        hint = f"did you mean {close}? Known" if close else "known"
        return (
            f"no {self.kind} {name[:_SHOWN]!r}; {hint}: {', '.join(known)}; a plugin's name needs "
            "--plugins MODULE, or give module:object of your own"
        )


def uncallable(value: Any, takes: str) -> str | None:
    """Why a value cannot be called with so many arguments, as its signature has it, if it cannot."""
    if not callable(value):
        return f"is of type {type(value).__name__}; must be a function or a class"
    try:
        inspect.signature(value).bind(*takes.split(", "))
    except TypeError as error:
        return f"cannot be called: {error}; must take ({takes})"
    except ValueError:  # of C, without a signature
        pass
    return None


def _close(word: str, known: list[str]) -> str | None:
    """The name that a word is most like, whatever its parameter."""
    names = {name.partition(":")[0]: name for name in reversed(known)}
    close = difflib.get_close_matches(word, names, n=1)
    return names[close[0]] if close else None


# A function of (parameter, split, seed) to rows: see lr_ray.problems.sources.
sources = Registry(
    "problem source",
    {"demo": "lr_ray.problems.sources:demo", "reasoning_gym": "lr_ray.problems.gym:rows"},
    "parameter, split, seed",
)
# Functions of steps to a mask, and of both to labels: see lr_ray.method.rules.
_RULES = "lr_ray.method.rules"
selections = Registry("selection rule", {
    "kl": f"{_RULES}:kl", "random": f"{_RULES}:random", "random_within": f"{_RULES}:random_within",
    "all": f"{_RULES}:every", "top:SHARE": f"{_RULES}:top", "entropy:SHARE": f"{_RULES}:entropy",
    "quadrant:NAME": f"{_RULES}:quadrant", "window:FIRST-LAST": f"{_RULES}:window",
    "first:STEPS": f"{_RULES}:first",
}, "steps")  # fmt: skip
labels = Registry("label rule", {
    "contrast": f"{_RULES}:contrast", "contrast:TEMPERATURE": f"{_RULES}:tempered",
    "expert": f"{_RULES}:expert", "greedy": f"{_RULES}:greedy",
}, "steps, keep")  # fmt: skip
# Objects that read and judge: see lr_ray.grading.graders. The pool knows the built-in ones by name.
graders = Registry("grader", {
    "reasoning_gym": "lr_ray.grading.gym:Verifier",
    "math": "", "choice": "", "exact": "", "number": "", "demo": "",
})  # fmt: skip
# Classes of lr_ray.training.engine.Backend and lr_ray.engines.engine.Engine, or functions that make one.
backends = Registry(
    "training backend", {"deepspeed": "lr_ray.training.engine:Engine"}, "expert, training"
)
engines = Registry(
    "inference engine",
    {"vllm": "lr_ray.engines.vllm:start"},
    "role, model, config, context, journal",
)


def load(names: Iterable[str]) -> None:
    """Imports plugins, by module name, here and in the Ray workers that this process will ask for.

    A module may lie in the current folder. Raises UserError for one that cannot be imported.
    """
    asked = dict.fromkeys([*_named(), *names])
    if asked:
        os.environ[VARIABLE] = ",".join(asked)
    _import_plugins()


def runtime_env() -> dict[str, Any]:
    """What a job's Ray workers need to import the same plugins; empty without one.

    Ray takes no variable from a job that it was submitted with already.
    """
    names = _named()
    if not names or VARIABLE in os.environ.get(_RAY_JOB, ""):
        return {}
    return {"env_vars": {VARIABLE: ",".join(names)}}


def _named() -> list[str]:
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def _import_plugins() -> None:
    for name in _named():
        _import_named(name)
    _import_installed()


@functools.cache
def _import_named(name: str) -> None:
    try:
        _import(name)
    except Exception as error:
        plain = isinstance(error, ImportError | SyntaxError | ValueError) and str(error)
        said = f"--plugins {name}: cannot be imported: {plain or named(error)}"[: 5 * _SHOWN]
        missing = isinstance(error, ModuleNotFoundError) and error.name
        if missing and f"{name}.".startswith(f"{missing}."):  # and not what it imports
            said += (
                "; give a module of the Python path or of the current folder, and on a cluster send it along "
                "(docs/extending.md)"
            )
        raise UserError(said) from None


@functools.cache
def _import_installed() -> None:
    from importlib import metadata

    for entry in metadata.entry_points(group=GROUP):
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            owner = entry.dist.name if entry.dist else "an installed package"
            said = f"plugin {entry.name} of {owner}: cannot be imported: {error}"
            raise UserError(said) from None


def _import(module: str) -> Any:
    """The module; the current folder comes last, so that it hides nothing that is installed."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except SystemExit:  # a script's; the command would end with its code
        raise ImportError(
            f"{module} ends the program; guard that by if __name__ == '__main__'"
        ) from None
