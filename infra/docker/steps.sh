#!/bin/sh
# The steps of the two images, so that they can be run, and are tested, without Docker:
#   steps.sh wheel SOURCE OUT       build headgate's wheel from a checkout
#   steps.sh install WHEEL VENV EXTRA...   an environment with the wheel and extras (aws, kafka, redis, uploads, ...)
#   steps.sh check VENV             whether what was installed works
set -eu
python=${PYTHON:-python3}
case "${1:-}" in
wheel)
  "$python" -m pip wheel --quiet --no-deps --wheel-dir "$3" "$2"
  ;;
install)
  wheel=$2 venv=$3
  shift 3
  "$python" -m venv "$venv"
  extras=$(echo "$*" | tr ' ' ',')
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel${extras:+[$extras]}"
  ;;
check)
  "$2/bin/python" -c "
import headgate, headgate.handlers
from headgate._native import core, parquet
parquet()
core.curl_transport('', 'check', core.SystemClock())
print('headgate', headgate.__version__, headgate.event_id({})[:8])"
  ;;
*)
  echo "expected: steps.sh wheel SOURCE OUT | install WHEEL VENV EXTRA... | check VENV" >&2
  exit 2
  ;;
esac
