"""CUDA graphs: calls captured from CuPy's streams once, then launched as one.

Nothing may be allocated while a stream is captured: the pool would hand the memory out again while
the graph still writes to it. So calls are bound to their memory before, and it is checked.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .launch import DeviceCall
from .schedule import Placed, schedule

LONGEST_GRAPH = 2000  # nodes
WORTH_A_LAUNCH = 200e-6  # seconds of work that make the host's time for a launch small
NODE_SECONDS = 2e-6  # what a small call takes in a graph, about
FLOPS, BYTES = 25e12, 2e12  # per second, about: only used to choose how many steps make a graph


class Capture:
    """The streams of one device on which calls are captured.

    Args:
        cupy: the module.
        branches: how many calls may run at the same time.
    """

    def __init__(self, cupy: Any, branches: int) -> None:
        self._cupy = cupy
        self.streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(branches)]

    def graph(self, calls: Sequence[DeviceCall], times: int = 1) -> Any:
        """Return a CUDA graph of calls, `times` times one after another.

        Raises RuntimeError where memory was allocated meanwhile, which is a bug.
        """
        cuda, main = self._cupy.cuda, self.streams[0]
        placed = schedule(calls, len(self.streams))
        allocations: list[int] = []
        with main, watch_allocations(cuda, allocations):
            main.begin_capture()
            try:
                for _ in range(times):
                    self._once(calls, placed)
            except BaseException:
                with suppress(Exception):  # the stream must be usable again; the first error counts
                    main.end_capture()
                raise
            graph = main.end_capture()
        if allocations:
            raise RuntimeError(f"{sum(allocations)} bytes were allocated in a capture")
        return graph

    def _once(self, calls: Sequence[DeviceCall], placed: Sequence[Placed]) -> None:
        """Run calls on their branches, which leave the first one here and come back to it."""
        main, *others = self.streams
        used = {place.branch for place in placed}
        events: dict[int, Any] = {}
        start = self._event(main) if len(used) > 1 else None
        for branch, stream in enumerate(others, 1):
            if branch in used:
                stream.wait_event(start)
        waited_for = {call for place in placed for call in place.after}
        last: dict[int, int] = {}
        for number, (call, place) in enumerate(zip(calls, placed, strict=True)):
            stream = self.streams[place.branch]
            for other in place.after:
                stream.wait_event(events[other])
            with stream:
                call()
            last[place.branch] = number
            if number in waited_for:
                events[number] = self._event(stream)
        for branch in used - {0}:
            main.wait_event(self._event(self.streams[branch]))

    def _event(self, stream: Any) -> Any:
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(stream)
        return event

    def seconds(self, calls: Sequence[DeviceCall], times: int, repeats: int = 3) -> float:
        """Return the shortest time of calls run once, of `repeats` graphs of so many runs."""
        cuda, graph, shortest = self._cupy.cuda, self.graph(calls, times), float("inf")
        for _ in range(repeats + 1):  # the first one is slower
            began, ended = cuda.Event(), cuda.Event()
            began.record()
            graph.launch()
            ended.record()
            ended.synchronize()
            shortest = min(shortest, 1e-3 * float(cuda.get_elapsed_time(began, ended)))
        return shortest / times


def watch_allocations(cuda: Any, sizes: list[int]) -> Any:
    """Return a context in which the size of every allocation from CuPy's pool is noted."""

    class Watch(cuda.MemoryHook):  # type: ignore[misc]
        name = "gpumlp.capture"

        def malloc_postprocess(self, **about: Any) -> None:
            sizes.append(int(about["mem_size"]))

    return Watch()


class CapturedCalls:
    """Calls as CUDA graphs: one of a single run, and one of as many as are worth a launch.

    They are captured when they are first run, after `improve` has replaced some of them.
    """

    def __init__(
        self,
        capture: Capture,
        calls: Sequence[DeviceCall],
        improve: Callable[[Sequence[DeviceCall]], list[DeviceCall]],
    ) -> None:
        self.calls, self._capture, self._improve = [*calls], capture, improve
        self.runs_at_once = 1
        self._graphs: dict[int, Any] = {}

    def __call__(self, times: int = 1) -> None:
        """Run them `times` times, on CuPy's current stream."""
        if times and not self._graphs:
            self.calls = self._improve(self.calls)
            self.runs_at_once = runs_at_once(self.calls)
        many, rest = divmod(times, self.runs_at_once)
        for count, graph_of in ((many, self.runs_at_once), (rest, 1)):
            if count and graph_of not in self._graphs:
                self._graphs[graph_of] = self._capture.graph(self.calls, graph_of)
            for _ in range(count):
                self._graphs[graph_of].launch()


def runs_at_once(calls: Sequence[DeviceCall]) -> int:
    """Return how many runs of calls make a graph that is worth a launch, and not too long."""
    seconds = sum(max(NODE_SECONDS, call.operations / FLOPS, call.nbytes / BYTES) for call in calls)
    return max(1, min(LONGEST_GRAPH // len(calls), round(WORTH_A_LAUNCH / seconds)))
