"""The version, as setuptools-scm wrote it when this was installed. Imports nothing, so that telling it is quick."""

try:
    from emulation._version import version
except ImportError:  # a checkout that was never installed
    version = "unknown (not installed)"

__all__ = ["version"]
