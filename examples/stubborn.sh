#!/usr/bin/env bash
#
# A pipeline that refuses to stop: it ignores TERM, and its helper runs in a separate session, which signals to the script's
# process group do not reach. Start it, and stop it with a short grace: neither process is left.
#
#   autoappdev start stubborn.sh
#   autoappdev stop --grace 2
#
# Without a stop, the script exits after five minutes, and AutoAppDev ends the helper.
set -euo pipefail

trap 'echo "stubborn: TERM is here, I stay"' TERM

# `setsid` creates a new session. The parentheses and the `&` inside leave the helper without a living parent, so it would
# normally become a child of process 1. The shim is the child subreaper and adopts such orphans.
(setsid bash -c 'trap "" TERM; echo "helper: process $$, session of my own"; while :; do sleep 1; done' &)

end=$((SECONDS + 300))
while ((SECONDS < end)); do
  # In the background, so that the trap runs at once. TERM to every process ends the sleep, but not the script.
  sleep 1 &
  wait "$!" || true
done
echo "stubborn: done, and the helper goes with me"
