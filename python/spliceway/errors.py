"""Every exception that spliceway raises on purpose, in one tree."""


class SplicewayError(Exception):
    """Base of all errors raised by spliceway. The text is one clear sentence."""


class SettingsError(SplicewayError):
    """A command-line flag, environment variable or argument has an unusable value."""


class ManifestError(SplicewayError):
    """A manifest cannot be read at all (not found, not text, malformed YAML or JSON)."""


class SourceError(SplicewayError):
    """A source of Services cannot be started (no kubeconfig, refused credentials)."""


class EngineError(SplicewayError):
    """The engine refused a call."""


class EngineClosedError(EngineError):
    """The engine was closed, or never started, and the call needs its workers."""


class EngineForkedError(EngineError):
    """The engine belongs to the parent process: worker threads do not survive fork(2)."""


class FrontendError(SplicewayError, OSError):
    """A frontend's socket cannot be opened (port in use, address not local, not permitted)."""


class NodeError(SplicewayError):
    """The agent cannot go on as the service proxy of its Node: it was deleted, or is not what it was at start."""


class AgentUnreachableError(SplicewayError):
    """No running agent answers on the state socket."""
