"""No training: how far the gradient reaches at initialisation, how far the data needs it to, and what to change.

    gradcast preflight --data sales.csv
    gradcast preflight --config rnn.yaml --set model.initialization=orthogonal --json

The network is built as `train` would build it and measured on windows of its own data, in seconds.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from training.commands.options import add_config_arguments, add_output_arguments, print_json, read_config, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast preflight`."""
    add_config_arguments(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Prepare as `train` would, measure, and say what was found."""
    from training.allocator import keep_freed_memory

    keep_freed_memory()
    config = read_config(options)
    import torch

    from training.preflight import preflight
    from training.preparation import prepare
    from training.process_memory import MemoryGrowth, load_readers
    from training.thread_choice import choose_threads
    from training.threads import kept_threads

    # Whoever asks how far the data pays is told, also where training would not measure.
    asked = config.gradients.model_copy(update={"preset": "economy"})
    load_readers()
    with kept_threads():
        with MemoryGrowth() as preparation:
            prepared = prepare(config.model_copy(update={"gradients": asked}), may_train=False)
            torch.set_num_threads(choose_threads(prepared).num_threads)
        # What the instruments cost is what the fit will pay for its own.
        prepared = replace(prepared, config=prepared.config.model_copy(update={"gradients": config.gradients}))
        tell = say(options.quiet)
        for note in prepared.notes:
            tell(note)
        found = preflight(prepared, preparation)
    if options.json:
        print_json(found.to_dict())
    else:
        print(found.headline if options.quiet else f"\n{found.describe()}")
    return 0
