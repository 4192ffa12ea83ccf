"""Running a plan: threads over frames and row bands, resuming, and the headers of outputs."""
