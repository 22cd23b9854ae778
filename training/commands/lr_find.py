"""Find a learning rate: a short range test from the beginning, its curve, and a suggestion in a sentence.

    gradcast lr-find --data sales.csv
    gradcast lr-find --config lstm.yaml --output rate.html

Nothing of the test is kept. It uses optimizer, clipping and batch size of the configuration.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands.options import add_config_arguments, add_output_arguments, print_json, read_config, say
from training.errors import ConfigurationError, Problem

WRITERS = (".png", ".svg", ".html")
MIN_STEPS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast lr-find`."""
    add_config_arguments(parser)
    parser.add_argument("--lowest", type=float, default=1e-6, metavar="RATE", help="rate of the first step (default: 1e-6)")
    parser.add_argument("--highest", type=float, default=10.0, metavar="RATE", help="rate of the last step (default: 10)")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="steps of the test (default: 200)")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"write the curve ({', '.join(WRITERS)})")
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Test, and say which rate to try."""
    _validate(options)
    config = read_config(options)
    from training.rate_finder import find_rate

    test = find_rate(config, say(options.quiet), options.lowest, options.highest, options.steps)
    if options.output is not None:
        _write(options.output, test)
        say(options.quiet)(f"curve written to {options.output}")
    if options.json:
        print_json(test.to_dict())
    else:
        print(test.sentence())
        if test.suggestion is not None:
            print(f"--set optimizer.learning_rate={test.suggestion:.2g}")
    return 0


def _validate(options: argparse.Namespace) -> None:
    problems = []
    if not 0 < options.lowest < options.highest < float("inf"):
        actual = f"{options.lowest:g} and {options.highest:g}"
        message = f"must be two rates above 0, the first below the second, but are {actual} instead."
        problems.append(Problem("rate_range_invalid", "--lowest, --highest", message))
    if options.steps < MIN_STEPS:
        message = f"must be at least {MIN_STEPS}, but is {options.steps} instead."
        problems.append(Problem("rate_steps_invalid", "--steps", message, "A curve of fewer points is noise."))
    if options.output is not None and options.output.suffix not in WRITERS:
        message = f"must end in {', '.join(WRITERS)}, but is {options.output.name} instead."
        problems.append(Problem("output_format", "--output", message))
    if problems:
        raise ConfigurationError(problems)


def _write(path: Path, test: Any) -> None:
    from training.plots import figure_to_png
    from training.rate_finder import plot_rate_test

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = plot_rate_test(test)
    if path.suffix == ".png":
        path.write_bytes(figure_to_png(figure))
        return
    from training.report.page import figure_block, figure_to_svg, html_page, section

    svg = figure_to_svg(figure, "rates", "training loss over learning rate")
    if path.suffix == ".svg":
        path.write_text(svg, encoding="utf-8")
        return
    caption = "Every step a higher rate. Left of the fall nothing is learned, right of the valley the network breaks."
    page = html_page("learning-rate test", section("Learning rate", figure_block(svg, caption), test.sentence()))
    path.write_text(page, encoding="utf-8")

