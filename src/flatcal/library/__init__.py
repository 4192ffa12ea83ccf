"""The library of masters: what one night made, kept to serve nights that lack their own.

A library is a table in a database and a folder of files. The table is in SQLite for one
observer, in PostgreSQL for an observatory; the files are copies, named after their content, so
that a library does not depend on the output folders of runs. Everything about a master is read
from its own header: from the files alone a lost table can be made again.
"""

from __future__ import annotations

from flatcal.library.catalogue import Library, replaced_note
from flatcal.library.opening import default_library, open_library

__all__ = ["Library", "default_library", "open_library", "replaced_note"]
