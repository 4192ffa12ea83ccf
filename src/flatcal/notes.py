"""What is odd about a frame, collected while its header is read."""

from __future__ import annotations

from flatcal.frame import Caveat


class Notes:
    """Caveats and errors of one frame."""

    def __init__(self) -> None:
        self.caveats: list[Caveat] = []
        self.errors: list[Caveat] = []

    def copy(self) -> Notes:
        """The same caveats and errors, to which others may be added."""
        other = Notes()
        other.caveats, other.errors = [*self.caveats], [*self.errors]
        return other

    def caveat(self, slug: str, text: str) -> None:
        self.caveats.append(Caveat(slug, text))

    def error(self, slug: str, text: str) -> None:
        self.errors.append(Caveat(slug, text))
