#!/usr/bin/env bash
#
# A pipeline that fails: it works for about three seconds, prints an error on stderr, and exits with 3.
# The history (`autoappdev runs`) then shows the run as `failed`, with its exit code.
set -euo pipefail

for item in 1 2 3; do
  echo "item $item of 5"
  sleep 1
done
echo "item 4 of 5 cannot be read: giving up" >&2
exit 3
