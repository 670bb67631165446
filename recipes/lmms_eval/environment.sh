#!/usr/bin/env bash
# Makes an environment with lynx and lmms-eval, which asks for an older av than lynx reads media with, and is
# therefore installed without what it asks for: bash recipes/lmms_eval/environment.sh runs/lmms_eval
set -euo pipefail
folder=${1:?say in which folder}
python=${PYTHON:-python3}
$python -m venv "$folder"
"$folder/bin/pip" install --quiet "${TORCH:-torch==2.13.0}"
"$folder/bin/pip" install --quiet --editable "$(dirname "$0")/../..[lmms]"
"$folder/bin/pip" install --quiet --no-deps lmms-eval==0.7.3
