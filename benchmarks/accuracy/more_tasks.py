"""More tasks for the table of peers, and a way to run the peers' scripts on them.

usage: benchmarks/accuracy/more_tasks.py SCRIPT [ARGUMENT ...]

SCRIPT is one of the peers' (run_peer.py, score.py) or gradcast_column.py; it runs as it is, in this process, with these
tasks beside its own. The data are those of the peers' folder (ACC_DATA); contexts are what the season suggests to a user.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType

WEEK, DATED = ("hour", "dow", "doy"), ("dow", "dom", "doy")
DAY = ("hour", "dow")


def extend(tasks: ModuleType) -> None:
    """Add to the tasks of the peers' module."""
    task = tasks.T
    tasks.TASKS.update({
        "bike_sharing": task("demo/bike_sharing_hourly.csv", "h", 168, 168, 24, 28, 24, (*WEEK, "holiday", "workingday")),
        "electricity_portugal": task("classic/electricity_portugal_mean_hourly.csv.gz", "h", 168, 168, 24, 28, 24, WEEK),
        "taylor_load": task("classic/taylor_uk_load_30min.csv", "30min", 336, 336, 48, 7, 48, DAY),
        "chicago_ridership": task("classic/chicago_l_ridership_daily.csv", "D", 7, 70, 28, 12, 28, DATED),
        "us_employment": task("classic/us_employment_monthly.csv", "MS", 12, 24, 12, 1, 1, ("month",)),
        "wikipedia_traffic": task("classic/wikipedia_traffic_daily.csv", "D", 7, 70, 28, 2, 28, DATED),
    })  # fmt: skip
    # Added after the defaults were settled: no setting was chosen on these.
    tasks.TASKS.update({
        "nyc_taxi": task("classic/nyc_taxi_30min.csv", "30min", 336, 336, 48, 14, 48, DAY),
        "sf_traffic": task("classic/sf_traffic_occupancy_hourly.csv.gz", "h", 168, 168, 24, 28, 24, WEEK),
        "solar_wind": task("classic/aus_solar_wind_power_hourly.csv.gz", "h", 24, 168, 24, 28, 24, WEEK),
        "us_gasoline": task("classic/us_gasoline_weekly.csv", "W-MON", 52, 104, 13, 8, 13, ("doy",)),
        "epf_prices": task("classic/epf_prices_hourly_exog.csv.gz", "h", 24, 168, 24, 7, 24, (*DAY, "Exogenous1", "Exogenous2")),
        "ercot_load": task("classic/ercot_load_hourly.csv.gz", "h", 24, 168, 24, 7, 24, DAY),
        "us_macro": task("classic/us_macro_quarterly.csv", "QS", 4, 16, 8, 1, 1, ("month",)),
        "elnino": task("classic/elnino_sst_monthly.csv", "MS", 12, 36, 12, 4, 12, ("month",)),
        "co2": task("classic/co2_mauna_loa_weekly.csv", "W-SAT", 52, 104, 26, 4, 26, ("doy",)),
        "peyton_manning": task("classic/peyton_manning_daily.csv", "D", 7, 70, 28, 12, 28, DATED),
    })  # fmt: skip


def main() -> None:
    """Run the script."""
    script = Path(sys.argv[1]).resolve()
    del sys.argv[0]
    folder = script.parent
    if not (folder / "tasks.py").exists():  # our own column: the peers' folder is its first argument
        folder = Path(sys.argv[1]).resolve()
    sys.path[:0] = [str(script.parent), str(folder)]
    import tasks

    extend(tasks)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
