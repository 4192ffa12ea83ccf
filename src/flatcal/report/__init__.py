"""Pictures and reports made from frames and from the result of a run."""
