#!/usr/bin/env bash
#
# How a program outside the pipeline follows a pause. AutoAppDev stops every process of the pipeline by itself, so the
# pipeline's own script needs none of this. A program that belongs to the work but was not started by the pipeline (a cron job, a
# watcher, a service next door) can look for the file PAUSE in the runtime directory: it is there while the pipeline is
# paused, and removed by a resume, a stop and every end.
#
# Run it in a second terminal, and pause the pipeline:
#
#   AUTOAPPDEV_RUNTIME_DIR=./runtime examples/checks-pause-file.sh [ROUNDS]
#
# AutoAppDev sets AUTOAPPDEV_RUNTIME_DIR for the pipeline only; elsewhere you name the directory yourself.
set -euo pipefail

rounds=${1:-120}
if [[ ! $rounds =~ ^[0-9]+$ ]]; then
  echo "usage: ${0##*/} [ROUNDS]" >&2
  exit 2
fi

pause_file=${AUTOAPPDEV_RUNTIME_DIR:-./runtime}/PAUSE
if [[ ! -d ${pause_file%/*} ]]; then
  # Without this a wrong path would look like "never paused".
  echo "there is no directory ${pause_file%/*}: set AUTOAPPDEV_RUNTIME_DIR to the server's runtime directory" >&2
  exit 1
fi

# The check stands between two pieces of work, where it is safe to wait: that is what the file is for.
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
