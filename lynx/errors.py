"""The one family of errors a user of `lynx` meets. Each message names what was given, what was expected,
what to do."""


class LynxError(Exception):
    """Base of every error that is the user's business; the UI and the CLI turn it into one sentence."""


class MediaError(LynxError):
    """A file, track or recording cannot be used as the sense it was given for."""


class AdapterError(LynxError):
    """An adapter does not fit the backbone, is incomplete, or is not in the format of `lynx_config.json`."""


class BackboneError(LynxError):
    """A backbone is unknown, unreadable, or cannot run here as asked."""


class DataError(LynxError):
    """A data set, a configuration or a checkpoint is not what it should be."""
