#!/usr/bin/env bash
#
# A pipeline that fails: it works for about three seconds, says on stderr what went wrong, and ends with exit code 3.
# The run is then `failed`, and its exit code stands in the history: `autoappdev runs`.
set -euo pipefail

for item in 1 2 3; do
  echo "item $item of 5"
  sleep 1
done
echo "item 4 of 5 cannot be read: giving up" >&2
exit 3
