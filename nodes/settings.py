"""Where a setting comes from: the command line, else the environment, else the TOML file, else the default.

    --slots 4    beats    ZSERVE_SLOTS=4    beats    slots = 4 in the file    beats    64

Every long option has an environment variable (``--log-level``: ZSERVE_LOG_LEVEL) and a key of the TOML file
(``log-level`` or ``log_level``).  Keys at the top of the file are for every command that has such an option; those in a
table named after a command (``[run]``, ``[node]``) are for that one.  Click does the precedence; this file feeds it.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

__all__ = ["Setting", "SettingsError", "defaults_from_file", "setting"]

# Kubernetes sets ZSERVE_PORT=tcp://10.0.0.1:8000 in every pod near a service that is named "zserve".
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://.*")


class SettingsError(click.UsageError):
    """The settings file cannot be used."""


class Setting(click.Option):
    """An option that can also be given as ZSERVE_<ITS LONG NAME>."""

    def __init__(self, param_decls: Sequence[str] | None = None, **attributes: Any) -> None:
        super().__init__(param_decls, **attributes)
        if self.envvar is None and not self.hidden:
            self.envvar = "ZSERVE_" + max(self.opts, key=len).lstrip("-").replace("-", "_").upper()

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        if value is not None and self.envvar == "ZSERVE_PORT" and _SERVICE_LINK.fullmatch(value):
            return None
        return value


setting = functools.partial(click.option, cls=Setting)
"""``click.option`` for settings."""


def defaults_from_file(path: Path, commands: Mapping[str, click.Command]) -> dict[str, dict[str, Any]]:
    """The content of a settings file, as click's ``default_map``: command -> option -> value.

    Raises :class:`SettingsError` for a file that cannot be read, and for a key that no command knows.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} is not valid TOML: {error}") from None
    options = {name: _options(command) for name, command in commands.items()}
    everywhere = {key: value for key, value in content.items() if key not in commands}
    known_anywhere = {key for known in options.values() for key in known}
    for key in everywhere:
        if _key(key) not in known_anywhere:
            raise SettingsError(f"{path}: unknown setting {key!r}; settings are: {', '.join(sorted(known_anywhere))}")
    result: dict[str, dict[str, Any]] = {}
    for command, known in options.items():
        table = content.get(command, {})
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: {command} must be a table ([{command}]), not {table!r}")
        for key in table:
            if _key(key) not in known:
                listed = ", ".join(sorted(known))
                raise SettingsError(f"{path}: unknown setting {key!r} in [{command}]; it has: {listed}")
        merged = {**everywhere, **table}
        result[command] = {known[_key(key)]: value for key, value in merged.items() if _key(key) in known}
    return result


def _options(command: click.Command) -> dict[str, str]:
    """The settings of *command*: long name without dashes in front -> the name that click knows it by."""
    return {
        max(parameter.opts, key=len).lstrip("-"): str(parameter.name)
        for parameter in command.params
        if isinstance(parameter, Setting) and not parameter.hidden
    }


def _key(key: str) -> str:
    return key.replace("_", "-")
