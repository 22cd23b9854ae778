#!/bin/bash
# Make one virtual environment per library that fit_speed.py and serving/run.py compare with, below benchmarks/.peers/ (ignored by git).
# usage: benchmarks/setup_peers.sh [NAME...]     names: neuralforecast darts gluonts pytorch-forecasting litserve bentoml; default: the first four
# Every environment gets the same torch as constraints.txt, so that the libraries are compared and not their torch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
peers=benchmarks/.peers
mkdir -p "$peers"
grep '^torch==' constraints.txt >"$peers/constraints.txt"

declare -A packages=(
    [neuralforecast]="neuralforecast==3.3.0"
    [darts]="darts==0.48.1 pytorch-lightning"
    [gluonts]="gluonts[torch]==0.17.0"
    [litserve]="litserve==0.2.19 torch safetensors numpy"
    [bentoml]="bentoml==1.4.40 torch safetensors numpy"
    [pytorch-forecasting]="pytorch-forecasting==1.8.0"
)

for name in "${@:-neuralforecast darts gluonts pytorch-forecasting}"; do
    for peer in $name; do
        [ -n "${packages[$peer]:-}" ] || { echo "unknown peer: $peer (known: ${!packages[*]})" >&2; exit 2; }
        venv=$peers/$peer
        [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
        # shellcheck disable=SC2086  # several requirements in one string
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -c "$peers/constraints.txt" ${packages[$peer]} psutil pyarrow
        "$venv/bin/python" -m pip freeze >"$peers/$peer.freeze.txt"
        echo "$peer: $(grep -iE "^(${packages[$peer]%%[=[]*}|torch)==" "$peers/$peer.freeze.txt" | tr '\n' ' ')"
    done
done
