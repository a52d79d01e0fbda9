"""What each plot shows, in one sentence: captions and texts for those who cannot see it."""

from typing import NamedTuple


class Caption(NamedTuple):
    """Of a plot: what it is, for the alt text, and what one sees in it."""

    kind: str
    sentence: str


# in the order of the page: how it went, where it is wrong, what it has learned
CAPTIONS = {
    "history": Caption(
        "Line plots of loss and metrics over the epochs",
        "Loss and metrics after every epoch: a validation line that turns away from the training "
        "line is overfitting; the dashed line marks the best epoch.",
    ),
    "confusion_matrix": Caption(
        "Confusion matrix: true classes in rows, predicted classes in columns",
        "Each row is a true class, each column a predicted one, with the number of rows and their "
        "share of the true class: everything off the diagonal is a mistake.",
    ),
    "thresholds": Caption(
        "ROC curve and precision-recall curve",
        "What is found, and at the price of how many false alarms, if the threshold on the "
        "predicted probability moves from 1 to 0; the dashed line is guessing.",
    ),
    "predictions": Caption(
        "Scatter plot of predicted over true values",
        "Predicted against true values, one dot a row: the nearer to the dashed diagonal, the "
        "better.",
    ),
    "residuals": Caption(
        "Scatter plot of residuals over predicted values, and their histogram",
        "What the model missed, true less predicted value: a cloud without shape around zero is "
        "all noise, a bend or a funnel is something it could still learn.",
    ),
    "features": Caption(
        "Scatter plots of the rows in the first two principal components of each layer",
        "The same rows as the input and each hidden layer represent them, in the two directions "
        "in which they vary most: what lies mixed at the input comes apart on the way.",
    ),
    "first_layer": Caption(
        "Weights of the first layer's units, as images or a heat map",
        "What the units of the first layer look for: red inputs excite a unit, blue ones "
        "inhibit it.",
    ),
    "learning_rate": Caption(
        "Line plot of the learning rate over the epochs",
        "How large the steps were: the learning rate at the end of every epoch.",
    ),
    "gradient_norms": Caption(
        "Line plot of the gradient norm of each layer over the epochs",
        "How strongly the cost still pulls at each layer's weights: lines far below the output "
        "layer's are vanishing gradients.",
    ),
}
# of those that share a row of a wide page: a high one beside two others
SHAPES = {"first_layer": "tall", "learning_rate": "half", "gradient_norms": "half"}
