"""Traps: a call that leaves the simulated world fails where it stands, and fails the run.

While `traps` is active in a thread, the functions that `forbidden` lists are replaced wherever a module holds them
(also under a name that it imported early), as are methods of classes. A replaced function that is called looks along
the stack for who called: the simulator, Trio, the import system, logging and test tools go on as if nothing were
there. Other threads do too. So the price is paid by the calls that are caught, and once at the start of a run: about
10 ms to look through a thousand modules. An audit hook would have seen more (calls from C), but stays in the process for
good and makes `sys._getframe` six times as slow.

Not seen: a function kept in a closure, a default argument or an object before the run; chance inside C libraries
(OpenSSL, so keys and signatures of `cryptography`); the order of sets of strings, and of addresses (`id`).
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
from _thread import LockType
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from inspect import CO_COROUTINE, CO_ITERABLE_COROUTINE
from queue import Empty
from types import ClassMethodDescriptorType, CodeType, FrameType, ModuleType
from typing import Any

import attrs

from prime.errors import DeterminismError, UsageError
from prime.sim import forbidden
from prime.sim.forbidden import Entry, Reason

_ACQUIRE: Callable[[Any, bool], bool] = LockType.acquire
"""The lock's own, whatever stands for it while a simulation runs."""

_KEEP_THEIR_OWN = frozenset({"threading", "queue"})
"""Modules whose early names stay: their clocks only end waits, and the lock that is waited for says more."""

_RUN_LOOP = "trio._core._run"
_STARTS = frozenset({"spawn_impl", "start_soon", "start"})
"""Where the run loop's module calls the function that is to be a task, to get its coroutine."""

_COROUTINE = CO_COROUTINE | CO_ITERABLE_COROUTINE


@contextmanager
def traps(where: Callable[[], str], caught: Callable[[DeterminismError], None]) -> Iterator[None]:
    """Set the traps for this thread while the block runs.

    `where` tells which node and actor runs now, for the text. `caught` hears of each error before it is raised, so that
    a run fails even where a supervisor outlives it. Raises `UsageError` where traps are set already: a process runs one
    simulation at a time.
    """
    guard = _Guard(threading.get_ident(), where, caught)
    if isinstance(sys.modules["time"].time, _Trap):
        raise UsageError(
            "a simulation runs in this process already",
            hint="run simulations one after the other, or in processes of their own",
        )
    with ExitStack() as undo:
        before = set(sys.modules)
        replaced = _functions(guard)
        _set_methods(guard, undo)
        undo.callback(_swap, {id(trap): trap.original for trap in replaced.values()}, _loaded_since(before), [])
        swapped: _Swapped = []
        undo.callback(_put_back, swapped)
        _swap(replaced, _loaded(), swapped)
        undo.callback(guard.retire)
        guard.active = True
        yield


@attrs.define(slots=True, eq=False)
class _Guard:
    """Who judges a call."""

    thread: int
    where: Callable[[], str]
    caught: Callable[[DeterminismError], None]
    active: bool = False

    def watches(self) -> bool:
        """Tell whether the thread that runs now is the one of the simulation."""
        return self.active and threading.get_ident() == self.thread

    def retire(self) -> None:
        """Let everything pass from now on: whoever still holds a trap holds the function it stands for."""
        self.active = False

    def judge(self, call: str, reason: Reason) -> None:
        """Raise `DeterminismError` if simulated code is what calls."""
        if not self.watches():
            return
        self.active = False  # what the callbacks below call is no part of the run
        try:
            caller = _caller(sys._getframe(2))  # noqa: SLF001 - the interpreter's own way to see who calls
            if caller is None:
                return
            where = ", ".join(filter(None, (self.where(), caller.task and f"task {caller.task}")))
            error = _error(call, reason, caller, where)
            self.caught(error)
        finally:
            self.active = True
        raise error


@attrs.frozen
class _Caller:
    """The innermost frame that is the program's own, and the function of a library that it called, if any.

    Where a library's function is the task, no frame is the program's own: `frame` is the task's, and `task` its name.
    """

    frame: FrameType
    through: str
    task: str = ""


def _error(call: str, reason: Reason, caller: _Caller, where: str) -> DeterminismError:
    code = caller.frame.f_code
    place = f"{code.co_filename}:{caller.frame.f_lineno} in {code.co_qualname}"
    through = f"{caller.through} calls {call}, which" if caller.through not in {"", call} else call
    return DeterminismError(
        f"{through} {reason.what} ({place}{', ' if where else ''}{where})",
        hint=reason.hint,
        call=call,
        place=place,
        where=where,
    )


def _caller(called: FrameType) -> _Caller | None:
    """Return the code that is to blame; `None` if that is none of the simulated."""
    found: FrameType | None = None
    frame: FrameType | None = called
    through, last = "", called
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == _RUN_LOOP and found is not None:
            return _Caller(found, through)
        if module == _RUN_LOOP and frame.f_code.co_name in _STARTS and last is not frame:
            through, last, frame = "", frame, frame.f_back  # a bare function as a task: who starts it calls it
            continue
        if module == _RUN_LOOP:  # further out is who runs the simulation
            return _Caller(last, through, _task(last)) if _is_step(last, frame) else None
        top = module.partition(".")[0]
        if top in forbidden.MACHINERY:
            return None
        if found is None:
            if _runs(module):
                return None
            if top in sys.stdlib_module_names or top == "trio":
                through = f"{module}.{frame.f_code.co_qualname}"
            elif not _is_generated(frame.f_code):
                found = frame
        last, frame = frame, frame.f_back
    return _Caller(found or last, through)


def _is_step(inner: FrameType, outer: FrameType) -> bool:
    """Tell whether `inner` is a task at work: a library's function can be a task, with no frame of the program's own."""
    return outer.f_code.co_name == "unrolled_run" and bool(inner.f_code.co_flags & _COROUTINE)


def _task(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"


def _runs(module: str) -> bool:
    """Tell whether a module is part of what runs the simulation."""
    return _is(module, forbidden.RUNNERS) and not _is(module, forbidden.SIMULATED)


def _is(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _is_generated(code: CodeType) -> bool:
    return code.co_filename.startswith("<attrs generated")


@attrs.define(slots=True, eq=False)
class _Trap:
    """Stands for a function. No function itself: kept as a class attribute, it must not turn into a method."""

    guard: _Guard
    original: Callable[..., Any]
    call: str
    reason: Reason
    unless: int | None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not _allows(self.unless, args):
            self.guard.judge(self.call, self.reason)
        return self.original(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def _functions(guard: _Guard) -> dict[int, _Trap]:
    """Return the traps for functions, by the address of what each stands for."""
    found: dict[int, _Trap] = {}
    for entry in forbidden.TABLE:
        module = _module(entry.module)
        for name in entry.names:
            original = getattr(module, name, None)
            if original is not None:
                found[id(original)] = _Trap(guard, original, entry.told(name), entry.reason, entry.unless)
    for shared in forbidden.SHARED_BY:
        home = _module(shared.module) if shared.module.partition(".")[0] in sys.modules else None
        for name, value in _methods_of(getattr(home, shared.generator, None), home):
            found[id(value)] = _Trap(guard, value, f"{shared.module}.{name}", forbidden.SHARED, None)
    return found


def _methods_of(generator: object, home: ModuleType | None) -> Iterator[tuple[str, Any]]:
    """Yield the functions of a module that are methods of one object."""
    for name, value in list(vars(home).items()) if home is not None and generator is not None else ():
        if getattr(value, "__self__", None) is generator:
            yield name, value


def _module(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:  # not in this build of Python, or not on this system
        return None


_Namespace = dict[str, Any]
_Swapped = list[tuple[_Namespace, str, Any]]


def _loaded() -> Iterator[_Namespace]:
    """Yield what each module holds, but for the machinery and the runners, which keep what they have."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in forbidden.MACHINERY and name not in _KEEP_THEIR_OWN and not _runs(name):
            yield from _names(module)


def _loaded_since(before: set[str]) -> Iterator[_Namespace]:
    """Yield what each module holds that was imported meanwhile; it may have imported traps."""
    for name, module in list(sys.modules.items()):
        if name not in before:
            yield from _names(module)


def _names(module: ModuleType) -> Iterator[_Namespace]:
    names = getattr(module, "__dict__", None)
    if type(names) is dict:
        yield names


def _swap(replacements: dict[int, Any], namespaces: Iterator[_Namespace], swapped: _Swapped) -> None:
    """Replace each value whose address is a key, and note what stood where."""
    keys = replacements.keys()
    for names in namespaces:
        if keys.isdisjoint(map(id, list(names.values()))):  # at the speed of C: most modules hold none
            continue
        for name, value in list(names.items()):
            replacement = replacements.get(id(value))
            if replacement is not None:
                swapped.append((names, name, value))
                names[name] = replacement


def _put_back(swapped: _Swapped) -> None:
    for names, name, value in swapped:
        if isinstance(names.get(name), _Trap):  # else the program has put something of its own there
            names[name] = value


# ------------------------------------------------------------------------------------------------------------ methods


def _set_methods(guard: _Guard, undo: ExitStack) -> None:
    for entry, make in (*((e, _method) for e in forbidden.TABLE), *((e, _waiting) for e in forbidden.WAITING)):
        for name in entry.names:
            owner_name, _, method = name.partition(".")
            owner = getattr(_module(entry.module), owner_name, None) if method else None
            if isinstance(owner, type) and method in vars(owner):
                call = entry.told(name)
                original = vars(owner)[method]
                _assign(owner, method, make(guard, call, entry, original))
                undo.callback(_assign, owner, method, original)


def _method(guard: _Guard, call: str, entry: Entry, original: Any) -> Any:
    """Return what stands for a method, or for a class method."""
    if isinstance(original, ClassMethodDescriptorType):
        return classmethod(_method(guard, call, entry, _unbound(original)))

    @functools.wraps(original)
    def trap(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _allows(entry.unless, args):
            guard.judge(call, entry.reason)
        return original(self, *args, **kwargs)

    return trap


def _unbound(original: ClassMethodDescriptorType) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(cls: type, *args: Any, **kwargs: Any) -> Any:
        return original.__get__(None, cls)(*args, **kwargs)

    return call


def _allows(unless: int | None, args: tuple[Any, ...]) -> bool:
    return unless is not None and len(args) > unless and args[unless] is not None


def _waiting(guard: _Guard, call: str, entry: Entry, original: Any) -> Any:
    """Return what stands for a method that may wait: it tries without waiting first."""
    attempt = _attempt(original)

    @functools.wraps(original)
    def trap(self: Any, *args: Any, **kwargs: Any) -> Any:
        if guard.watches() and _may_wait(*args, **kwargs):
            is_done, result = attempt(self)
            if is_done:
                return result
            guard.judge(call, entry.reason)
        return original(self, *args, **kwargs)

    return trap


def _may_wait(block: object = True, timeout: float | None = None, *, blocking: object = True) -> bool:  # noqa: FBT002
    return bool(block) and bool(blocking) and timeout != 0


def _attempt(original: Any) -> Callable[[Any], tuple[bool, Any]]:
    """Return how to do it without waiting: whether that was possible, and what came of it."""
    if original.__name__ == "get":

        def get(queue: Any) -> tuple[bool, Any]:
            try:
                return True, original(queue, False)
            except Empty:
                return False, None

        return get

    def acquire(lock: Any) -> tuple[bool, Any]:
        is_ours = _ACQUIRE(lock, False)
        return is_ours, is_ours

    return acquire


def _assign(owner: type, name: str, value: Any) -> None:
    """Set an attribute of a class, also of one written in C, which forbids it."""
    try:
        setattr(owner, name, value)
    except TypeError:
        forget = _forget()
        if forget is not None:
            gc.get_referents(owner.__dict__)[0][name] = value  # the dict behind the read-only view
            forget(owner)


def _forget() -> Callable[[type], object] | None:
    """Return what tells the interpreter that a class has changed, so that it looks again; none outside CPython."""
    try:
        from ctypes import py_object, pythonapi
    except ImportError:
        return None
    return lambda owner: pythonapi.PyType_Modified(py_object(owner))
