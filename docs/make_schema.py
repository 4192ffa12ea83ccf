"""Write docs/plan.schema.json, the schema of what ``flatcal plan --json`` prints."""

import json
from pathlib import Path

from flatcal.plan import Plan


def schema_text() -> str:
    """The JSON schema of a plan."""
    return json.dumps(Plan.model_json_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    path = Path(__file__).with_name("plan.schema.json")
    path.write_text(schema_text(), encoding="utf-8")
