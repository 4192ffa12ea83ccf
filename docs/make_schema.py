"""Write the JSON schemas: plan.schema.json and config.schema.json.

The first is of what ``flatcal plan --json`` prints, the second of a settings file. Run it after a
change of their models: ``python docs/make_schema.py``.
"""

import json
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from flatcal.plan import Plan
from flatcal.recipe import Config

SCHEMAS: Final[dict[str, type[BaseModel]]] = {
    "plan.schema.json": Plan,
    "config.schema.json": Config,
}


def schema_text(model: type[BaseModel]) -> str:
    """The JSON schema of a model."""
    return json.dumps(model.model_json_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, model in SCHEMAS.items():
        Path(__file__).with_name(name).write_text(schema_text(model), encoding="utf-8")
