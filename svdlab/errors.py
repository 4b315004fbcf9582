"""What svdlab raises. Each message says what came, what is allowed and what to do.

Where a caller would catch a builtin (`ValueError`, `OSError`), the class is also that builtin.
"""


class SvdlabError(Exception):
    """The root: `except svdlab.errors.SvdlabError` catches every error of svdlab's own."""


class InputError(SvdlabError, ValueError):
    """A value that cannot be used: a condition, an image, a manifest, a plan, a parameter."""


class CheckpointError(SvdlabError, OSError):
    """A checkpoint that is missing, gated, incomplete, or in a layout that cannot be loaded."""


class TraceError(SvdlabError, RuntimeError):
    """A hook that cannot capture or change what was asked, or a trace that lacks what is asked of it."""


class OutputError(SvdlabError, OSError):
    """A folder or file that cannot be written or read back."""


class BrokenClipError(SvdlabError, RuntimeError):
    """A clip that came out as NaN or black."""


class MissingExtraError(SvdlabError, ImportError):
    """An optional part that is not installed; the message names the extra."""


class OutOfMemoryError(SvdlabError, MemoryError):
    """Not even one clip fits into memory."""


class RunError(SvdlabError, RuntimeError):
    """A notebook or an executor's worker that failed; the message says where."""


class SweepInterrupted(SvdlabError, KeyboardInterrupt):
    """A sweep that was told to stop, after it had finished what was in hand."""
