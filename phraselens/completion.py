"""Prints a script with which a shell completes commands, flags, and what flags take.

  ./run.sh completion bash > ~/.phraselens.bash      then in ~/.bashrc: source ~/.phraselens.bash
  ./run.sh completion zsh > ~/.phraselens.zsh        then in ~/.zshrc: source ~/.phraselens.zsh
  ./run.sh completion fish > ~/.phraselens.fish      then in config.fish: source ~/.phraselens.fish

The script completes `phraselens`, and `run.sh` in a clone. It holds everything, so that a shell
starts nothing to complete a word; print it again where there are new flags.
"""

import argparse
import dataclasses
import importlib
import importlib.util
import string
import sys
from collections.abc import Mapping, Sequence

from phraselens import commands
from schemas.base.errors import PhraseLensError, tell
from schemas.console import program
from schemas.console.parser import Parser, parser_of


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command.

    Attributes:
      name: with its dashes.
      help: what it does, in one line.
      choices: its values, where they are known.
      is_switch: whether it may stand without a value; the word after any other is one.
    """

    name: str
    help: str
    choices: tuple[str, ...]
    is_switch: bool


@dataclasses.dataclass(frozen=True)
class Completed:
    """What is completed after a command.

    Attributes:
      does: what the command does, in one line.
      flags: its flags.
      words: what may stand beside flags, where that is known.
    """

    does: str
    flags: tuple[Flag, ...]
    words: tuple[str, ...]


def completed() -> dict[str, Completed]:
    """Command, of one word or two → what is completed after it."""
    found = {}
    for name, command in commands.commands().items():
        if importlib.util.find_spec(command.module.partition(".")[0]) is None:
            continue  # it works on the files of a clone
        for words in [f"{name} {choice}" for choice in command.choices] or [name]:
            argv = commands.find(words.split())[1]
            parser = parser_of(importlib.import_module(command.module).run, argv)
            found[words] = _completed(command.does, parser, bool(command.choices))
    return found


def _completed(does: str, parser: Parser, is_sent: bool) -> Completed:
    """Of a job that is sent away, also what says where to: its runner's flags."""
    actions = list(parser._actions)
    if is_sent and parser.others:
        known = parser._option_string_actions
        actions += [a for a in parser.others()._actions if a.option_strings[0] not in known]
    words = [str(c) for a in actions if not a.option_strings for c in a.choices or ()]
    flags = [_flag(action) for action in actions if action.option_strings]
    return Completed(does, tuple(flags), tuple(words))


def _flag(action: argparse.Action) -> Flag:
    name = next(word for word in action.option_strings if word.startswith("--"))
    help = " ".join((action.help or "").replace("%%", "%").split())
    choices = tuple(filter(None, map(str, action.choices or ())))
    return Flag(name, help, choices, is_switch=action.nargs in (0, "?"))


def first_words(found: Mapping[str, Completed]) -> list[str]:
    return [*dict.fromkeys(words.partition(" ")[0] for words in found)]


def second_words(found: Mapping[str, Completed]) -> dict[str, list[str]]:
    """First word → what may follow it, of commands of two words."""
    seconds: dict[str, list[str]] = {}
    for words in found:
        first, space, second = words.partition(" ")
        if space:
            seconds.setdefault(first, []).append(second)
    return seconds


# What bash and zsh alike understand: it sets `found` to the words that fit, "" for a path.
_WORDS = string.Template("""\
_phraselens_words() { # PROGRAM FLAG WORD WORDS-BEFORE…
  local program=$$1 flag=$$2 word=$$3 first=$${4:-}
  local command switches flags others
  found=
  case $$program in
    *run.sh)
      # Other projects have a run.sh too.
      [ -d "$${program%run.sh}phraselens" ] || return 0
      others="$clone"
      ;;
  esac
  if [ $$# -eq 3 ]; then
    found="$firsts $$others --help --version"
    return 0
  fi
  command=$$first others=
  case $$first in
$pairs
  esac
  if [ -n "$$others" ]; then
    if [ $$# -eq 4 ]; then
      found=$$others
      return 0
    fi
    command="$$first $$5" others=
  fi
  case $$command in
$commands
  esac
  case "$$command $$flag" in
$values
  esac
  [ -z "$$found" ] || return 0
  case " $$switches " in
    *" $$flag "*) ;;
    *) case $$flag in --*) return 0 ;; esac ;; # its value: a path, perhaps
  esac
  case $$word in
    -*) found=$$flags ;;
    *) found=$$others ;;
  esac
}
""")

_BASH = string.Template("""\
# Completes phraselens in bash: source it.
$words
_phraselens() {
  local word=$${COMP_WORDS[COMP_CWORD]} flag=$${COMP_WORDS[COMP_CWORD - 1]} found
  if [ "$$word" = "=" ]; then # --flag=
    word=
  elif [ "$$flag" = "=" ]; then # --flag=VALUE
    flag=$${COMP_WORDS[COMP_CWORD - 2]}
  fi
  _phraselens_words "$$1" "$$flag" "$$word" "$${COMP_WORDS[@]:1:COMP_CWORD - 1}"
  COMPREPLY=($$(compgen -W "$$found" -- "$$word"))
}
complete -o default -F _phraselens phraselens run.sh ./run.sh
""")

_ZSH = string.Template("""\
#compdef phraselens run.sh
# Completes phraselens in zsh: source it after compinit.
$words
_phraselens() {
  local word=$${words[CURRENT]} flag=$${words[CURRENT - 1]} program=$${words[1]} found
  local -a before=("$${(@)words[2,CURRENT - 1]}")
  case $$word in
    --*=*)
      flag=$${word%%=*} word=$${word#*=}
      compset -P '*='
      ;;
  esac
  _phraselens_words "$$program" "$$flag" "$$word" "$${before[@]}"
  if [ -n "$$found" ]; then
    compadd -- $${=found}
  else
    _files
  fi
}
compdef _phraselens phraselens run.sh
""")

_FISH = string.Template("""\
# Completes phraselens in fish.
function __phraselens_at # whether the command's first words are WORDS, and the cursor behind them
  set -l typed (commandline -opc)
  # Other projects have a run.sh too.
  if string match -q '*run.sh' -- $$typed[1]
    test -d (string replace -r 'run\\.sh$$' phraselens -- $$typed[1]); or return 1
  end
  set -l last (math (count $$argv) + 1)
  test (count $$typed) -ge $$last; or return 1
  test $$last -eq 1; or test "$$typed[2..$$last]" = "$$argv"
end
function __phraselens_next # whether the cursor is in the word behind WORDS
  __phraselens_at $$argv; and test (count (commandline -opc)) -eq (math (count $$argv) + 1)
end
for program in phraselens run.sh
$lines
end
complete -c run.sh -n __phraselens_next -f -a '$clone'
""")


def _case(pattern: str, **variables: str) -> str:
    values = " ".join(f'{name}="{value}"' for name, value in variables.items())
    return f"    {pattern}) {values} ;;"


def _words(found: Mapping[str, Completed]) -> str:
    known, values = [], []
    for words, of in found.items():
        switches = " ".join(flag.name for flag in of.flags if flag.is_switch)
        flags = " ".join(flag.name for flag in of.flags)
        known.append(_case(f'"{words}"', switches=switches, flags=flags, others=" ".join(of.words)))
        for flag in of.flags:
            if flag.choices:
                values.append(_case(f'"{words} {flag.name}"', found=" ".join(flag.choices)))
    pairs = [_case(first, others=" ".join(of)) for first, of in second_words(found).items()]
    return _WORDS.substitute(
        clone=" ".join(program.OF_RUN_SH),
        firsts=" ".join(first_words(found)),
        pairs="\n".join(pairs),
        commands="\n".join(known),
        values="\n".join(values),
    )


def bash(found: Mapping[str, Completed]) -> str:
    return _BASH.substitute(words=_words(found))


def zsh(found: Mapping[str, Completed]) -> str:
    return _ZSH.substitute(words=_words(found))


def fish(found: Mapping[str, Completed]) -> str:
    lines = ["  complete -c $program -n __phraselens_next -f -a '--help --version'"]
    for first, seconds in second_words(found).items():
        lines.append(f"  complete -c $program -n __phraselens_next -f -a {first}")
        for second in seconds:
            does = _quoted(found[f"{first} {second}"].does)
            at = f"-n '__phraselens_next {first}'"
            lines.append(f"  complete -c $program {at} -f -a {second} -d {does}")
    for words, of in found.items():
        if " " not in words:
            at = "-n __phraselens_next"
            lines.append(f"  complete -c $program {at} -f -a {words} -d {_quoted(of.does)}")
        at = f"-n '__phraselens_at {words}'"
        if of.words:
            lines.append(f"  complete -c $program {at} -f -a {_quoted(' '.join(of.words))}")
        for flag in of.flags:
            value = f" -f -a {_quoted(' '.join(flag.choices))}" if flag.choices else ""
            value = "" if flag.is_switch else f" -r{value}"
            line = f"  complete -c $program {at} -l {flag.name[2:]}{value} -d {_quoted(flag.help)}"
            lines.append(line)
    return _FISH.substitute(lines="\n".join(lines), clone=" ".join(program.OF_RUN_SH))


def _quoted(text: str) -> str:
    """A text in fish's single quotes, without line breaks."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def run(argv: Sequence[str] | None = None) -> int:
    parser = Parser("completion", __doc__)
    parser.add_argument("shell", choices=tuple(SHELLS), help="the shell that will read it")
    try:
        args = parser.read(argv)
        print(SHELLS[args.shell](completed()), end="")
    except PhraseLensError as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(run())
