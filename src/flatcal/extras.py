"""Libraries that only some users need, and that come with an extra of the package."""

from __future__ import annotations

from importlib.util import find_spec

from flatcal.errors import ConfigError


def require_extra(name: str, module: str) -> None:
    """Refuse what needs a library that is not installed.

    Parameters
    ----------
    name : str
        The extra that brings it, for example dask.
    module : str
        The module that is imported.

    Raises
    ------
    ConfigError
        It names the extra, and how it is installed (missing-extra).
    """
    if find_spec(module) is None:
        raise ConfigError(
            "missing-extra",
            f"this needs {module}, of the extra [{name}], which is not installed; "
            f"pip install 'flatcal[{name}]'",
        )
