"""PyTorch as a contender: eager with all threads, eager with one, and compiled."""

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

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        torch = self.torch = self.load()
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
        settings = {"lr": problem.lr, "eps": problem.eps} if adam else {"lr": problem.lr}
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
        return self.torch.nn.functional.cross_entropy(self.model(x), labels)

    def set_order(self, order: np.ndarray) -> None:
        """As in `Contender`."""
        self.order = self.torch.from_numpy(order).to(self.problem.device).split(self.batch)

    def _train(self, batches: Any) -> None:
        optimizer, cost, x, labels = self.optimizer, self.cost, self.x, self.labels
        for rows in batches:
            optimizer.zero_grad(set_to_none=True)
            cost(x.index_select(0, rows), labels.index_select(0, rows)).backward()
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

    def compiled(self, function: Any) -> Any:
        """As in `Torch`; what was compiled for the net before is dropped, its number is limited."""
        self.torch.compiler.reset()
        return self.torch.compile(function, fullgraph=True, dynamic=False)
