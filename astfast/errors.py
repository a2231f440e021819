"""What astfast raises. Every message names the input, what is wrong with it and what to do."""


class AstfastError(Exception):
    """Base class of every error that astfast raises on purpose."""


class AudioError(AstfastError, ValueError):
    """An audio input can't be used: not decodable, empty, wrong shape, dtype or rate, not finite."""


class CheckpointError(AstfastError):
    """A checkpoint can't be found, read or mapped to a model."""


class BackendError(AstfastError):
    """A backend, device or precision that was asked for can't run on this machine."""
