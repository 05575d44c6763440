#!/usr/bin/env bash
#
# A pipeline that does not want to go: it ignores TERM, and its helper runs in a session of its own, where a signal to
# the script's process group does not reach it. Start it, stop it with a short grace and look: neither of the two is left.
#
#   autoappdev start stubborn.sh
#   autoappdev stop --grace 2
#
# Without a stop it ends by itself after five minutes, and its helper with it.
set -euo pipefail

trap 'echo "stubborn: TERM is here, I stay"' TERM

# `setsid` makes a new session; the parentheses and the `&` inside leave the helper without a living parent, so it is
# nobody's child by the usual rules. AutoAppDev adopts such orphans and knows them.
(setsid bash -c 'trap "" TERM; echo "helper: process $$, session of my own"; while :; do sleep 1; done' &)

end=$((SECONDS + 300))
while ((SECONDS < end)); do
  # In the background, so that the trap does not have to wait for it; a TERM to everything ends the sleep, not the script.
  sleep 1 &
  wait "$!" || true
done
echo "stubborn: done, and the helper goes with me"
