#!/usr/bin/env bash
#
# Shows how a program outside the pipeline can follow a pause. AutoAppDev stops every process of the pipeline itself, so
# the pipeline's script does not need this. A related program that the pipeline did not start (a cron job, a watcher, another
# service) can check for the file PAUSE in the runtime directory. The file exists while the pipeline is paused; a resume, a
# stop and every other end of the run remove it.
#
# Run this in a second terminal, and pause the pipeline:
#
#   AUTOAPPDEV_RUNTIME_DIR=./runtime examples/checks-pause-file.sh [ROUNDS]
#
# AutoAppDev sets AUTOAPPDEV_RUNTIME_DIR for the pipeline only. Everywhere else, set it yourself.
set -euo pipefail

rounds=${1:-120}
if [[ ! $rounds =~ ^[0-9]+$ ]]; then
  echo "usage: ${0##*/} [ROUNDS]" >&2
  exit 2
fi

pause_file=${AUTOAPPDEV_RUNTIME_DIR:-./runtime}/PAUSE
if [[ ! -d ${pause_file%/*} ]]; then
  # Without this check, a wrong path would look like a pipeline that is never paused.
  echo "there is no directory ${pause_file%/*}: set AUTOAPPDEV_RUNTIME_DIR to the server's runtime directory" >&2
  exit 1
fi

# Check between two pieces of work, where it is safe to wait.
waited=0
for ((round = 1; round <= rounds; round++)); do
  while [[ -e $pause_file ]]; do
    ((waited)) || echo "the pipeline is paused, waiting"
    waited=1
    sleep 0.2
  done
  ((waited == 0)) || echo "the pipeline goes on, so do I"
  waited=0
  echo "round $round of $rounds"
  sleep 1
done
