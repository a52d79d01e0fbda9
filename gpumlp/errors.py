"""Errors a user can cause or meet; each class carries the exit code of the command line."""


class GpumlpError(Exception):
    """Base of every error that is not a bug: its text is shown without a traceback."""

    exit_code = 1


class ConfigError(GpumlpError):
    """A wrong command line or configuration."""

    exit_code = 2


class DataError(GpumlpError):
    """Data that cannot be used; the text names the file, and the row and column where it can."""

    exit_code = 3


class DivergedError(GpumlpError):
    """Training produced NaN or infinity."""

    exit_code = 4


class DeviceError(GpumlpError):
    """A device that is missing or out of memory."""

    exit_code = 5


class FileError(GpumlpError):
    """A file system that is full, unreadable, or in the way."""

    exit_code = 6


class StateError(GpumlpError, ValueError):
    """The state of a training that is none, or that of another training."""

    exit_code = 6


class CheckFailed(GpumlpError):  # noqa: N818 - named for what happened, as the exit code is
    """A check that was asked for found something wrong."""

    exit_code = 7
