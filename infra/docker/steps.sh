#!/bin/sh
# The steps of the two images, so that they can be run, and are tested, without Docker:
#   steps.sh wheel SOURCE OUT       build headgate's wheel from a checkout
#   steps.sh install WHEEL VENV LOCK   an environment with what a lock file names (tools/locks/serve.txt), and the wheel
# Nothing is downloaded but the files whose hashes the lock files hold.
#   steps.sh check VENV             whether what was installed works
set -eu
python=${PYTHON:-python3}
case "${1:-}" in
wheel)
  tools=$(mktemp -d)
  "$python" -m venv "$tools"
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$2/tools/locks/wheel.txt"
  "$tools/bin/python" -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir "$3" "$2"
  rm -rf "$tools"
  ;;
install)
  "$python" -m venv "$3"
  "$3/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: -r "$4"
  "$3/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps "$2"
  "$3/bin/python" -m pip check
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
  echo "expected: steps.sh wheel SOURCE OUT | install WHEEL VENV LOCK | check VENV" >&2
  exit 2
  ;;
esac
