"""PyTorch as a contender: eager, with all threads or one; compiled; and as a CUDA graph."""

from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
from contenders import Contender
from problem import Problem, Weights


class Torch(Contender):
    """PyTorch's usual loop: rows by index_select, set_to_none, fused optimizer, no loss read."""

    engine = "eager"
    threads: int | None = None  # PyTorch's own choice: one for each core
    in_graph = False  # whether the optimizer's step is part of a CUDA graph

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        torch = self.torch = self.load()
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(problem.precision)
        # fp32 by products of bf16 is compared with fp32 itself: PyTorch has nothing between
        torch.set_float32_matmul_precision("high" if problem.precision == "tf32" else "highest")
        device_type = torch.device(problem.device).type
        # casts of weights are not kept: a graph must hold them, and they are used once a step
        self.autocast = torch.autocast(device_type, low, enabled=bool(low), cache_enabled=False)
        self.scaler = torch.amp.GradScaler(device_type, enabled=problem.precision == "fp16")
        self.x = torch.from_numpy(problem.x).to(problem.device)
        self.labels = torch.from_numpy(problem.labels).to(problem.device)
        linear = [torch.nn.Linear(a, b) for a, b in pairwise(problem.net.sizes)]
        with torch.no_grad():
            for layer, (w, b) in zip(linear, problem.weights(), strict=True):
                layer.weight.copy_(torch.from_numpy(w))
                layer.bias.copy_(torch.from_numpy(b))
        kinds = {"sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
        activation = kinds[problem.activation]
        layers = [part for layer in linear for part in (layer, activation())][:-1]
        self.linear = linear
        self.model = torch.nn.Sequential(*layers).to(problem.device)
        adam = problem.optimizer == "adam"
        settings: dict[str, Any] = {"lr": problem.lr}
        if adam:  # a CUDA graph cannot hold a number of steps that lies on the host
            settings |= {"eps": problem.eps, "capturable": self.in_graph}
        kind = torch.optim.Adam if adam else torch.optim.SGD
        # fused was as fast or faster than foreach and the default loop, Adam by a quarter
        self.optimizer = kind(self.model.parameters(), **settings, fused=True)
        self.cost = self.compiled(self._cost)

    @classmethod
    def load(cls) -> Any:
        """Import PyTorch and set its threads."""
        torch: Any = import_module("torch")
        if cls.threads:
            torch.set_num_threads(cls.threads)
        return torch

    def compiled(self, function: Any) -> Any:
        """Return the function as it is to be called."""
        return function

    def _cost(self, x: Any, labels: Any) -> Any:
        with self.autocast:
            return self.torch.nn.functional.cross_entropy(self.model(x), labels)

    def set_order(self, order: np.ndarray) -> None:
        """As in `Contender`."""
        self.order = self.torch.from_numpy(order).to(self.problem.device).split(self.batch)

    def _train(self, batches: Any) -> None:
        optimizer, cost, x, labels = self.optimizer, self.cost, self.x, self.labels
        for rows in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = cost(x.index_select(0, rows), labels.index_select(0, rows))
            if self.scaler.is_enabled():
                self.scaler.scale(loss).backward()
                self.scaler.step(optimizer)
                self.scaler.update()
            else:
                loss.backward()
                optimizer.step()

    def take(self, n: int) -> None:
        """As in `Contender`."""
        self._train(self.order[self.position : self.position + n])

    def epoch(self) -> None:
        """As in `Contender`."""
        self.begin_epoch()
        self._train(self.order)
        self.position = self.steps
        self.synchronize()

    def synchronize(self) -> None:
        """As in `Contender`."""
        if self.problem.device != "cpu":
            self.torch.cuda.synchronize()

    def weights(self) -> Weights:
        """As in `Contender`."""
        host = [
            [p.detach().cpu().numpy().copy() for p in layer.parameters()] for layer in self.linear
        ]
        return [(w, b) for w, b in host]

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """As in `Contender`."""
        return {"versions": {"torch": version("torch")}, "threads": cls.load().get_num_threads()}


class TorchOneThread(Torch):
    """The same with one thread, which is faster for small nets."""

    threads = 1


class TorchCompile(Torch):
    """The same with forward, loss and backward compiled by TorchInductor, for each batch size."""

    engine = "compile"
    mode = "max-autotune"  # on a GPU

    def compiled(self, function: Any) -> Any:
        """As in `Torch`; what was compiled for the net before is dropped, its number is limited."""
        self.torch.compiler.reset()
        mode = "default" if self.problem.device == "cpu" else self.mode
        return self.torch.compile(function, fullgraph=True, dynamic=False, mode=mode)


class TorchGraph(TorchCompile):
    """A CUDA graph of the whole step, from the rows of the batch to the update, compiled.

    The epoch's order lies on the device, and the graph itself counts which batch is next, so that
    the host does nothing but launch it.
    """

    engine = "graph"
    mode = "max-autotune-no-cudagraphs"
    in_graph = True
    steps_at_once = 1  # in the larger of its graphs

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        torch, device = self.torch, problem.device
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.table = torch.zeros((self.steps, self.batch), dtype=torch.int64, device=device)
        self.graphs: dict[int, Any] = {}

    def set_order(self, order: np.ndarray) -> None:
        """As in `Contender`; at the same address, which the graphs hold."""
        super().set_order(order)
        full = order[: self.steps * self.batch].reshape(self.steps, self.batch)
        self.table.copy_(self.torch.from_numpy(full))
        self.number.zero_()

    def _step(self) -> None:
        """The next step; nothing in it needs the host."""
        rows = self.table.index_select(0, self.number).view(-1)
        self._train([rows])
        self.number.add_(1)

    def _graph(self, steps: int) -> Any:
        """Return a graph of so many steps, after warming up, which leaves everything as it was."""
        if steps not in self.graphs:
            if not self.graphs:
                self._warm_up()
            self.graphs[steps] = self.capture(steps)
        return self.graphs[steps]

    def _warm_up(self) -> None:
        """Run steps before the first capture, as PyTorch asks for, and undo them."""
        torch = self.torch
        kept = [parameter.detach().clone() for parameter in self.model.parameters()]
        position = self.number.clone()
        self.aside(self._warm_steps)
        with torch.no_grad():
            for parameter, old in zip(self.model.parameters(), kept, strict=True):
                parameter.copy_(old)
            for state in self.optimizer.state.values():
                for array in state.values():
                    if torch.is_tensor(array):
                        array.zero_()
        self.number.copy_(position)

    def _warm_steps(self) -> None:
        for _ in range(3):
            self._step()

    def aside(self, work: Any) -> None:
        """Do work on a stream of its own, before and after what else is done."""
        cuda = self.torch.cuda
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            work()
        cuda.current_stream().wait_stream(stream)

    def capture(self, steps: int) -> Any:
        """Return a CUDA graph of so many steps."""
        graph = self.torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)  # gradients are then the graph's own
        with self.torch.cuda.graph(graph):
            for _ in range(steps):
                self._step()
        return graph

    def take(self, n: int) -> None:
        """As in `Contender`."""
        many, rest = divmod(n, self.steps_at_once)
        for count, steps in ((many, self.steps_at_once), (rest, 1)):
            for _ in range(count):
                self._graph(steps).replay()

    def epoch(self) -> None:
        """As in `Contender`; the smaller last batch has no graph."""
        self.begin_epoch()
        self.take(self.steps)
        self._train(self.order[self.steps :])
        self.position = self.steps
        self.synchronize()


class TorchGraph50(TorchGraph):
    """The same with 50 steps in a graph, and single ones for the rest."""

    engine = "graph-50"
    steps_at_once = 50
