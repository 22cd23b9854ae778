"""One file per verb: `add_arguments` describes it without importing anything heavy, `run` does it."""
