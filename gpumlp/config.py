"""The configuration: every section and key, its type, its default and what it means."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from .data.builtin import BUILTIN
from .data.sources import ARRAYS, KINDS

Task = Literal["multiclass", "binary", "multilabel", "regression"]
Activation = Literal[
    "sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "identity"
]
Init = Literal[
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "normal",
    "uniform",
    "orthogonal",
    "zeros",
]
LossName = Literal["cross_entropy", "bce", "mse", "mae", "huber", "poisson"]
OptimizerName = Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"]
ScheduleName = Literal["constant", "step", "exponential", "cosine", "onecycle", "plateau"]
Metric = Literal[
    "accuracy", "top_3_accuracy", "macro_f1", "log_loss", "auc", "mse", "rmse", "mae", "r2"
]

# What suits a task; the first loss is "auto". A test compares all names with the modules they name.
TASK_LOSSES: dict[Task, tuple[LossName, ...]] = {
    "multiclass": ("cross_entropy",),
    "binary": ("bce",),
    "multilabel": ("bce",),
    "regression": ("mse", "mae", "huber", "poisson"),
}
TASK_METRICS: dict[Task, tuple[Metric, ...]] = {
    "multiclass": ("accuracy", "top_3_accuracy", "macro_f1", "log_loss", "auc"),
    "binary": ("accuracy", "macro_f1", "log_loss", "auc"),
    "multilabel": ("accuracy", "macro_f1", "auc"),
    "regression": ("mse", "rmse", "mae", "r2"),
}
DEFAULT_METRICS: dict[Task, tuple[Metric, ...]] = {
    "multiclass": ("accuracy",),
    "binary": ("accuracy", "auc"),
    "multilabel": ("accuracy", "macro_f1"),
    "regression": ("rmse", "mae", "r2"),
}
DEFAULT_LR: dict[OptimizerName, float] = {
    "sgd": 0.1,
    "momentum": 0.05,
    "nesterov": 0.05,
    "adagrad": 0.01,
    "rmsprop": 0.001,
    "adam": 0.001,
    "adamw": 0.001,
}
OPTIMIZER_KEYS: dict[OptimizerName, tuple[str, ...]] = {
    "momentum": ("momentum",),
    "nesterov": ("momentum",),
    "adagrad": ("eps",),
    "rmsprop": ("rho", "eps"),
    "adam": ("betas", "eps"),
    "adamw": ("betas", "eps"),
}
LOSS_KEYS: dict[LossName, tuple[str, ...]] = {"huber": ("delta",)}
SCHEDULE_KEYS: dict[ScheduleName, tuple[str, ...]] = {
    "constant": (),
    "step": ("gamma", "every_epochs"),
    "exponential": ("gamma", "every_epochs"),
    "cosine": ("floor",),
    "onecycle": ("peak_fraction",),
    "plateau": ("patience", "factor", "min_delta", "cooldown"),
}


def expects(what: str) -> WrapValidator:
    """Say "expected WHAT" about any value that does not fit, whichever way it does not."""

    def check(value: object, validate: ValidatorFunctionWrapHandler) -> object:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError("expected", f"expected {what}") from None

    return WrapValidator(check)


Count = Annotated[int, Field(gt=0), expects("a positive integer")]
AtLeastTwo = Annotated[int, Field(ge=2), expects("an integer >= 2")]
CountOrZero = Annotated[int, Field(ge=0), expects("an integer >= 0")]
Seed = Annotated[int, Field(ge=0, lt=2**63), expects("an integer from 0 to 2^63 - 1")]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
AtMostOne = Annotated[float, Field(gt=0, le=1)]
FolderName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$"),
    expects('1 to 100 letters, digits, ".", "_" or "-", the first not "."'),
]
Device = Annotated[
    str,
    Field(pattern=r"^(auto|cpu|cuda|cuda:[0-9]{1,4})$"),
    expects('"auto", "cpu", "cuda" or "cuda:N"'),
]
FILES = ".npz, .npy, .csv, .csv.gz, .parquet or IDX"
FILE = rf"(?i:.+({'|'.join(map(re.escape, KINDS))}))"
DataFile = Annotated[str, Field(pattern=rf"^{FILE}$"), expects(f"the path of a file: {FILES}")]
Source = Annotated[
    str,
    Field(pattern=rf"^(builtin:({'|'.join(BUILTIN)})|mnist|{ARRAYS}|{FILE})$"),
    expects(f'"builtin:NAME" with one of {", ".join(BUILTIN)}; "mnist"; or a file: {FILES}'),
]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
NameOrNames = Annotated[
    Annotated[str, Field(min_length=1)] | Annotated[Names, Field(min_length=1)],
    expects("a name or a list of names"),
]
BatchSize = Annotated[Count | Literal["full"], expects('a positive integer or "full"')]
ClassWeight = Annotated[
    Literal["balanced"] | dict[str, NotNegative],
    expects('"balanced" or a table of class = weight, each weight >= 0'),
]
Betas = Annotated[
    tuple[BelowOne, BelowOne],
    Field(strict=False),  # TOML has lists; strictness would ask for a tuple
    expects("two numbers, each >= 0 and < 1"),
]


class Section(BaseModel):
    """A table of the configuration: closed, read-only, and written without idle keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    decided_by: ClassVar[str] = ""  # the key that makes others idle

    def idle(self) -> dict[str, str]:
        """Keys that mean nothing beside the others, with the reason; giving one is a problem."""
        return {}

    @model_serializer(mode="wrap")
    def _without_idle_keys(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        idle = self.idle()
        return {k: v for k, v in write(self).items() if v is not None and k not in idle}


def _keys_of_others(owned: Mapping[Any, tuple[str, ...]], name: str) -> dict[str, str]:
    """The keys that belong to other rules than `name`, with whose they are."""
    owners: dict[str, list[str]] = {}
    for owner, keys in owned.items():
        for key in keys:
            owners.setdefault(key, []).append(owner)
    return {
        key: f"belongs to {' and '.join(names)}, not to {name}"
        for key, names in owners.items()
        if name not in names
    }


class Split(Section):
    """Rows set apart: a fraction of those at hand, or a file of their own."""

    decided_by = "path"
    fraction: Fraction | None = Field(default=None, description="part of the rows, 0 < f < 1")
    stratify: bool = Field(default=True, description="keep the proportions of the classes")
    shuffle: bool = Field(default=True, description="draw the rows; false takes the last ones")
    path: DataFile | None = Field(default=None, description="a file instead of a fraction")
    target: str | None = Field(
        default=None, description="beside path: its targets, where data.target is a file"
    )

    def idle(self) -> dict[str, str]:
        """A file of its own takes no rows from the others."""
        keys = ("fraction", "stratify", "shuffle") if self.path is not None else ()
        return dict.fromkeys(keys, "cannot be given together with path")


class Data(Section):
    """Where samples come from and how they are scaled and split."""

    source: Source = Field(description='"builtin:digits", "mnist", or the path of a file')
    path: str | None = Field(default=None, description="mnist: folder of the four IDX files")
    features: NameOrNames | None = Field(
        default=None, description="inputs: npz array (x), or columns (all that are nothing else)"
    )
    target: NameOrNames = Field(
        default="label", description="what to predict: array or column; for npy, IDX also a file"
    )
    sample_weight: str | None = Field(default=None, description="array or column of weights")
    categorical: Names = Field(
        default=(), description="tables: columns of numbers that are categories all the same"
    )
    missing: Literal["error", "mean"] = Field(
        default="error",
        description="tables: an empty cell is an error, or the training part's mean",
    )
    scale: Literal["none", "standard", "minmax"] = Field(
        default="standard", description="scaling of the inputs, fitted on the training part only"
    )
    target_scale: Literal["none", "standard"] = Field(
        default="none", description="regression: scaling of the targets, undone in predictions"
    )
    test: Split | None = Field(default=None, description="rows for the final test")
    val: Split | None = Field(default=None, description="rows for validation, of what remains")
    split_seed: Seed | None = Field(default=None, description="draws the splits instead of seed")


@dataclass(frozen=True)
class Layer:
    """A hidden layer with everything filled in; a `weight_decay` of None is the optimizer's."""

    units: int
    activation: Activation
    dropout: float
    init: Init
    init_gain: float
    bias: bool = True
    weight_decay: float | None = None
    max_norm: float | None = None


class LayerTable(Section):
    """One [[model.layers]]; what it leaves out is taken from [model]."""

    units: Count = Field(description="number of outputs")
    activation: Activation | None = Field(default=None, description="instead of the model's")
    dropout: BelowOne | None = Field(default=None, description="instead of the model's")
    init: Init | None = Field(default=None, description="instead of the model's")
    init_gain: Positive | None = Field(default=None, description="instead of the model's")
    bias: bool = Field(default=True, description="whether z = x Wᵀ + b has its b")
    weight_decay: NotNegative | None = Field(default=None, description="instead of the optimizer's")
    max_norm: Positive | None = Field(default=None, description="instead of the model's")


class Model(Section):
    """The network between inputs and outputs."""

    decided_by = "layers"
    task: Task = Field(default="multiclass", description="decides output layer, loss and metrics")
    hidden: Annotated[tuple[Count, ...], Field(strict=False)] = Field(
        default=(64,), description="units of each hidden layer; [] is a linear model"
    )
    layers: Annotated[tuple[LayerTable, ...], Field(strict=False)] | None = Field(
        default=None, description="hidden layers one by one, instead of hidden"
    )
    activation: Activation = Field(default="sigmoid", description="σ of the hidden layers")
    init: Init = Field(default="glorot_uniform", description="how weights are drawn")
    init_gain: Positive = Field(
        default=1.0, description="what hidden layers' drawn weights are multiplied by"
    )
    dropout: BelowOne = Field(default=0.0, description="probability that a hidden unit is dropped")
    max_norm: Positive | None = Field(default=None, description="limit of each unit's weight norm")

    def idle(self) -> dict[str, str]:
        """`layers` replaces `hidden`."""
        given = self.layers is not None
        return {"hidden": "cannot be given together with model.layers"} if given else {}

    @property
    def hidden_layers(self) -> tuple[Layer, ...]:
        """The hidden layers, from `hidden` or `layers`, with the model's values filled in.

        >>> Model(hidden=(3,), activation="tanh").hidden_layers[0].activation
        'tanh'
        """
        tables = self.layers
        if tables is None:
            tables = tuple(LayerTable(units=units) for units in self.hidden)
        shared = self.model_dump(include={"activation", "init", "init_gain", "dropout", "max_norm"})
        return tuple(Layer(**(shared | table.model_dump())) for table in tables)


class Loss(Section):
    """What training makes small."""

    decided_by = "name"
    name: Literal["auto", LossName] = Field(default="auto", description='"auto": by model.task')
    reduction: Literal["mean", "sum"] = Field(default="mean", description="over the samples")
    class_weight: ClassWeight | None = Field(default=None, description="weight of each class")
    label_smoothing: BelowOne = Field(default=0.0, description="share given to all classes alike")
    delta: Positive = Field(default=1.0, description="huber: where it turns from square to line")

    def idle(self) -> dict[str, str]:
        """The keys of the other losses."""
        return _keys_of_others(LOSS_KEYS, self.name)


class Optimizer(Section):
    """How gradients become steps."""

    decided_by = "name"
    name: OptimizerName = Field(default="adam", description="the rule")
    lr: Positive = Field(default=DEFAULT_LR["adam"], description="learning rate; default by name")
    momentum: BelowOne = Field(default=0.9, description="momentum, nesterov: share of the old step")
    betas: Betas = Field(default=(0.9, 0.999), description="adam, adamw: decay of both averages")
    rho: BelowOne = Field(default=0.99, description="rmsprop: decay of the average square")
    eps: Positive = Field(default=1e-8, description="adagrad, rmsprop, adam, adamw: against 0/0")
    weight_decay: NotNegative = Field(default=0.0, description="L2; adamw: decoupled, 0.01")
    l1: NotNegative = Field(default=0.0, description="L1 penalty of the weights")
    clip_norm: Positive | None = Field(default=None, description="limit of the gradient's norm")

    def idle(self) -> dict[str, str]:
        """The keys of the other optimizers."""
        return _keys_of_others(OPTIMIZER_KEYS, self.name)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults_of_name(cls, given: Any) -> Any:
        name = given.get("name") if isinstance(given, dict) else None
        lr = DEFAULT_LR.get(name) if isinstance(name, str) else None  # type: ignore[call-overload]
        decay = {"weight_decay": 0.01} if name == "adamw" else {}
        return given if lr is None else {"lr": lr, **decay, **given}


class Schedule(Section):
    """By what the learning rate is multiplied as training goes on."""

    decided_by = "name"
    name: ScheduleName = Field(default="constant", description="the rule")
    warmup_steps: CountOrZero = Field(default=0, description="steps of linear growth from 0")
    gamma: AtMostOne = Field(default=0.5, description="step, exponential: factor per every_epochs")
    every_epochs: Count = Field(default=10, description="step, exponential: epochs per gamma")
    floor: Share = Field(default=0.0, description="cosine: what remains of lr at the end, 0 to 1")
    peak_fraction: Fraction = Field(default=0.3, description="onecycle: where the peak lies")
    patience: CountOrZero = Field(
        default=5, description="plateau: epochs that may pass without progress"
    )
    factor: Fraction = Field(default=0.5, description="plateau: what lr is multiplied by")
    min_delta: NotNegative = Field(default=0.0, description="plateau: what counts as progress")
    cooldown: CountOrZero = Field(default=0, description="plateau: epochs of rest after a change")

    def idle(self) -> dict[str, str]:
        """The keys of the other schedules."""
        return _keys_of_others(SCHEDULE_KEYS, self.name)


class Train(Section):
    """How long and in which portions."""

    epochs: Count = Field(default=20, description="passes over the data")
    max_steps: Count | None = Field(default=None, description="end there if epochs last longer")
    batch_size: BatchSize = Field(default=64, description='rows per step, or "full"')
    accumulate: Count = Field(default=1, description="batches per update of the parameters")
    shuffle: bool = Field(default=True, description="new order of the rows in each epoch")
    engine: Literal["auto", "eager", "graph"] = Field(default="auto", description="how steps run")
    metrics: Annotated[tuple[Metric, ...], Field(strict=False)] | None = Field(
        default=None, description="what is reported besides the loss; default by model.task"
    )


class EarlyStopping(Section):
    """When to stop before the last epoch; without this section, never."""

    monitor: str = Field(default="val_loss", description="loss or a metric, val_ for validation")
    patience: Count = Field(default=10, description="epochs without progress")
    min_delta: NotNegative = Field(default=0.0, description="what counts as progress")
    restore_best: bool = Field(default=True, description="end with the best epoch's parameters")


class Checkpoint(Section):
    """When the state of a training is saved, from which it can go on; always at its end."""

    every_epochs: Count | None = Field(default=None, description="after each multiple of so many")
    every_steps: Count | None = Field(default=None, description="after each multiple of so many")
    every_seconds: Positive | None = Field(
        default=10.0, description="or more, where saving is slow; not by default beside others"
    )
    keep_last: AtLeastTwo = Field(default=2, description="generations: last, last-1, ...")
    keep_best: bool = Field(
        default=True,
        description="best: a model of the best epoch, by early_stopping.monitor or val_loss",
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out_seconds(cls, given: Any) -> Any:
        others = isinstance(given, dict) and {"every_epochs", "every_steps"} & given.keys()
        return {"every_seconds": None, **given} if others else given


class Log(Section):
    """What the run folder gets besides model, configuration and summary."""

    jsonl: bool = Field(default=True, description="metrics.jsonl: one object per epoch")
    csv: bool = Field(default=True, description="metrics.csv: one line per epoch")
    tensorboard: bool = Field(default=False, description="event files; needs tensorboardX")
    plots: Annotated[bool | Literal["auto"], expects('true, false or "auto"')] = Field(
        default="auto", description='plots/*.png; "auto": where matplotlib is installed'
    )
    gradient_norms: bool = Field(
        default=True, description="norm of each layer's weight gradient after every epoch"
    )


class Config(Section):
    """One run, complete; made by `gpumlp.config_file`, which also checks that keys fit together."""

    name: FolderName = Field(default="run", description="begins the name of the run folder")
    seed: Seed = Field(default=0, description="draws parameters, order of rows, dropout")
    device: Device = Field(default="auto", description='"auto", "cpu", "cuda" or "cuda:N"')
    precision: Literal["fp32", "tf32", "bf16", "fp16", "bf16x3", "bf16x6", "fp64"] = Field(
        default="fp32", description="of what matrix products read; fp64: of all arithmetic"
    )
    data: Data = Field(description="where samples come from")
    model: Model = Field(default_factory=Model, description="the network")
    loss: Loss = Field(default_factory=Loss, description="what training makes small")
    optimizer: Optimizer = Field(default_factory=Optimizer, description="the steps")
    schedule: Schedule = Field(default_factory=Schedule, description="the learning rate over time")
    train: Train = Field(default_factory=Train, description="how long, in which portions")
    early_stopping: EarlyStopping | None = Field(default=None, description="when to stop early")
    checkpoint: Checkpoint = Field(
        default_factory=Checkpoint, description="when what resuming needs is saved"
    )
    log: Log = Field(default_factory=Log, description="what the run folder gets")

    @property
    def loss_name(self) -> LossName:
        """The loss, with "auto" replaced by what it means for the task."""
        name = self.loss.name
        return TASK_LOSSES[self.model.task][0] if name == "auto" else name

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics to report: `train.metrics`, or the task's default."""
        named = self.train.metrics
        return DEFAULT_METRICS[self.model.task] if named is None else named


def known_keys(section: type[Section] = Config, prefix: str = "") -> dict[str, FieldInfo]:
    """Every section and key by its dotted name, as in "optimizer.lr", "model.layers[0].units"."""
    keys = {}
    for name, field in section.model_fields.items():
        keys[prefix + name] = field
        for index, table in _tables(field.annotation):
            keys |= known_keys(table, f"{prefix}{name}{index}.")
    return keys


def _tables(annotation: Any) -> Iterator[tuple[str, type[Section]]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield "", annotation
    index = "[0]" if get_origin(annotation) is tuple else ""
    for part in get_args(annotation):
        for inner, table in _tables(part):
            yield index + inner, table
