"""The version, in one place for the package, the build and the headers of outputs."""

__version__ = "0.1.0"
