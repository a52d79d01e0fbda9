"""gpumlp trains multilayer perceptrons: NumPy on the CPU, CuPy on an NVIDIA GPU.

A network is a set of functions (`Sequential` of `Dense` layers), a loss says how good one of them
is, and gradient descent (an optimizer, run by a `Trainer`) picks the best. Importing this loads
NumPy and tqdm only; CuPy is loaded when a CUDA backend is asked for.
"""

from .backend import Backend, get_backend
from .callbacks import EarlyStopping, ProgressBar
from .errors import GpumlpError
from .events import Callback, History
from .layers import (
    ELU,
    GELU,
    Activation,
    Dense,
    Dropout,
    Identity,
    Layer,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from .losses import (
    BinaryCrossEntropy,
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    SoftmaxCrossEntropy,
)
from .model import Sequential, multilayer_perceptron
from .optimizers import SGD, Adagrad, Adam, AdamW, Momentum, Nesterov, Optimizer, RMSProp
from .parameters import Parameter
from .trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "ELU",
    "GELU",
    "SGD",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "Backend",
    "BinaryCrossEntropy",
    "Callback",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "GpumlpError",
    "History",
    "Huber",
    "Identity",
    "Layer",
    "LeakyReLU",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Momentum",
    "Nesterov",
    "Optimizer",
    "Parameter",
    "Poisson",
    "ProgressBar",
    "RMSProp",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SoftmaxCrossEntropy",
    "Softplus",
    "Tanh",
    "Trainer",
    "__version__",
    "get_backend",
    "multilayer_perceptron",
]
