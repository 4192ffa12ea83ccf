"""A second look at the kinds of frame: whether their pixels are what their headers say.

Each frame is held against its siblings, the frames that it would be combined with. What does not
fit becomes a caveat with both values; nothing is changed.
"""

from flatcal.second_look.doubts import second_look

__all__ = ["second_look"]
