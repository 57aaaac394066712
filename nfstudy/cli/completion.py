"""`completion SHELL`: a script with which a shell completes commands, options, their values, studies and files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from nfstudy.study.find import shipped_studies


def completion(options: argparse.Namespace) -> int:
    """Print the script of a shell."""
    from nfstudy.cli.parser import make_parser

    commands = _commands(make_parser())
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[options.shell](commands), end="")
    return 0


def _commands(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Return command -> (its help, its parser)."""
    action = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
    return {name: (helps.get(name, ""), each) for name, each in action.choices.items()}


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        if long := next((option for option in action.option_strings if option.startswith("--")), None):
            yield long, action


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """Return the words that may stand for a positional argument: its choices, or the shipped studies."""
    found: list[str] = []
    for action in parser._actions:
        if not action.option_strings:
            found += map(str, action.choices or ())
            found += shipped_studies() if _is_study(action) else ()
    return found


def _is_study(action: argparse.Action) -> bool:
    return "STUDY" in str(action.metavar).split("|")


def _bash(commands: dict[str, tuple[str, argparse.ArgumentParser]]) -> str:
    lines = ['# bash completion of nfstudy; in ~/.bashrc: eval "$(nfstudy completion bash)"', "_nfstudy() {"]
    lines += ['  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" options="" words=""']
    lines += ["  COMPREPLY=()", '  if [ "$COMP_CWORD" -eq 1 ]; then']
    lines += [f'    COMPREPLY=($(compgen -W "{" ".join(commands)} --help --version" -- "$word"))', "    return", "  fi"]
    lines += ['  case "${COMP_WORDS[1]}" in']
    for name, (_, parser) in commands.items():
        options = " ".join(option for option, _ in _options(parser))
        lines += [f"  {name})", f'    options="{options}" words="{" ".join(_words(parser))}"', '    case "$before" in']
        for option, action in _options(parser):
            if action.choices:
                choices = " ".join(map(str, action.choices))
                lines += [f'    {option}) COMPREPLY=($(compgen -W "{choices}" -- "$word")); return ;;']
            elif _is_study(action):
                lines += [f'    {option}) words="{" ".join(shipped_studies())}" ;;']
        lines += ["    esac", "    ;;"]
    lines += ["  esac", '  case "$word" in', '  -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;']
    lines += ['  *) COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word")) ;;', "  esac", "}"]
    return "\n".join([*lines, "complete -o filenames -F _nfstudy nfstudy", ""])


def _zsh(commands: dict[str, tuple[str, argparse.ArgumentParser]]) -> str:
    head = '# zsh completion of nfstudy; in ~/.zshrc: eval "$(nfstudy completion zsh)"'
    script = "\n".join(_bash(commands).splitlines()[1:])
    return f"{head}\nautoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{script}\n"


def _fish(commands: dict[str, tuple[str, argparse.ArgumentParser]]) -> str:
    lines = ["# fish completion of nfstudy; nfstudy completion fish > ~/.config/fish/completions/nfstudy.fish"]
    for name, (told, parser) in commands.items():
        lines.append(f"complete -c nfstudy -f -n __fish_use_subcommand -a {name} -d {_quoted(told)}")
        at = f"complete -c nfstudy -n {_quoted(f'__fish_seen_subcommand_from {name}')}"
        if words := _words(parser):
            lines.append(f"{at} -a {_quoted(' '.join(words))}")
        for option, action in _options(parser):
            values = f" -x -a {_quoted(' '.join(map(str, action.choices)))}" if action.choices else ""
            values = f" -r -a {_quoted(' '.join(shipped_studies()))}" if _is_study(action) else values
            value = values or (" -r" if action.nargs != 0 else "")
            lines.append(f"{at} -l {option[2:]}{value} -d {_quoted((action.help or '').replace('%%', '%'))}")
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
