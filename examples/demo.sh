#!/usr/bin/env bash
#
# A pipeline to try AutoAppDev with. It only pretends to work, but it has the shape of a real one: steps one after the
# other, each with several child processes side by side, progress on stdout, warnings on stderr, two minutes in all.
#
#   demo.sh            about two minutes
#   demo.sh --fast     about six seconds
#   DEMO_SPEED=4 ...   four times as fast; a whole number from 1 to 100
#
# It ends with 0 when every step went well, and with 143 (128 + SIGTERM) when it was told to stop.
set -euo pipefail

speed=${DEMO_SPEED:-1}
if [[ ${1:-} == --fast ]]; then
  speed=20
elif (($# > 0)); then
  echo "usage: ${0##*/} [--fast]" >&2
  exit 2
fi
if [[ ! $speed =~ ^[1-9][0-9]{0,2}$ ]] || ((speed > 100)); then
  echo "DEMO_SPEED is '$speed'; it must be a whole number from 1 to 100" >&2
  exit 2
fi

step=starting
workers=()

# Asked to stop: say so and leave. Under AutoAppDev the workers have had their own TERM by now; one who runs this script
# by hand and presses Ctrl-C has reached this process only, so the workers are told from here.
leave() {
  trap '' TERM INT
  echo "demo: told to stop during '$step', leaving"
  ((${#workers[@]} == 0)) || kill "${workers[@]}" 2>/dev/null || true
  exit 143
}
trap leave TERM INT

# Rests for the given milliseconds, divided by the speed. Bash runs a trap only between two commands, so a plain `sleep`
# would hold TERM up until it is over; `wait` is interrupted at once.
rest() {
  local ms=$(($1 / speed))
  sleep "$((ms / 1000)).$(printf '%03d' $((ms % 1000)))" &
  wait "$!" || true
}

# One child process: works through its items and says how far it has come.
# The arguments are its name, the number of items, and the milliseconds each of them takes.
worker() {
  local name=$1 items=$2 ms=$3 item
  for ((item = 1; item <= items; item++)); do
    rest "$ms"
    if ((item % 5 == 0 || item == items)); then
      echo "  $step/$name: $item of $items"
    fi
  done
}

# Starts a worker in the background. Its process id is kept: `wait` without ids would forget how each one ended.
start() {
  worker "$@" &
  workers+=("$!")
}

# Waits until every worker of the step is gone. A step with a failed worker fails the pipeline.
finish_step() {
  local pid status failed=0
  for pid in "${workers[@]}"; do
    status=0
    wait "$pid" || status=$?
    if ((status != 0)); then
      # A stop sends TERM to every process; this one may see a worker end before it sees its own TERM.
      ((status != 143)) || rest $((500 * speed))
      echo "demo: a worker of '$step' ended with $status" >&2
      failed=1
    fi
  done
  workers=()
  if ((failed)); then
    echo "demo: step '$step' failed" >&2
    exit 1
  fi
  echo "step '$step' is done"
}

# Two kinds of lines that AutoAppDev shows as a bar and a list of steps; to everybody else they are lines of output.
# The arguments are the step's name, how much of all the work is done before it, and what it is about to do.
begin_step() {
  step=$1
  echo "::step $step"
  echo "::progress $2 $3"
  echo "step '$step': $3"
}

began=$SECONDS
echo "demo: run ${AUTOAPPDEV_RUN_ID:-(by hand)}, process $$, speed $speed"

begin_step prepare 0 "looking at the inputs"
start inventory 10 500
start settings 5 800
finish_step

begin_step fetch 5 "three downloads side by side"
start sources 20 1100
start assets 15 1200
start models 12 2000
rest 7000
echo "fetch: the mirror for 'models' is slow, going on" >&2
finish_step

begin_step build 25 "four compilers"
start core 30 1500
start server 25 1300
start client 20 1400
start docs 10 1500
rest 12000
echo "build: warning: 'client' uses a deprecated call" >&2
finish_step

begin_step test 62 "three suites"
start unit 25 900
start whole 15 1800
start slow 10 2500
rest 9000
echo "test: 'whole' case 7 took longer than usual" >&2
finish_step

begin_step package 88 "packing the results"
start archive 10 1200
start checksums 8 1000
finish_step

# A short-lived process of its own, for the sake of a real number at the end.
digest=$(printf '%s\n' core server client docs | sha256sum)
echo "::progress 100 the package is ready"
echo "demo: package ${digest:0:12} is ready after $((SECONDS - began)) s"
