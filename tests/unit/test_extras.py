"""Libraries that come with an extra."""

import pytest

from flatcal.errors import ConfigError
from flatcal.extras import require_extra


def test_a_library_that_is_there_is_no_matter():
    require_extra("none", "numpy")


def test_a_library_that_is_missing_is_named_with_its_extra():
    with pytest.raises(ConfigError, match=r"no_such_module.*'flatcal\[such\]' \[missing-extra\]"):
        require_extra("such", "no_such_module")
