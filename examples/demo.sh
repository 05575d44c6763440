#!/usr/bin/env bash
#
# A pipeline to try AutoAppDev with. It builds nothing, but it looks like real work: four steps, continuous progress, warnings on
# stderr, colours, a helper process that uses memory, and up to a third of one processor.
#
#   demo.sh            about 90 seconds, exit code 0
#   demo.sh --fail     fails in the third step, with exit code 1
#   demo.sh --fast     about six seconds
#   DEMO_SPEED=4 ...   four times as fast; a whole number from 1 to 100
#
# It needs bash and sleep(1). On SIGTERM it exits with 143 (128 + SIGTERM).
set -euo pipefail

speed=${DEMO_SPEED:-1} fails=
for argument; do
  case $argument in
    --fast) speed=15 ;;
    --fail) fails=1 ;;
    *) echo "usage: ${0##*/} [--fast] [--fail]" >&2; exit 2 ;;
  esac
done
if [[ ! $speed =~ ^[1-9][0-9]{0,2}$ ]] || ((speed > 100)); then
  echo "DEMO_SPEED is '$speed'; it must be a whole number from 1 to 100" >&2
  exit 2
fi

red=$'\e[31m' green=$'\e[32m' yellow=$'\e[33m' cyan=$'\e[36m' bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
step=start
helper=

# Handles TERM and Ctrl-C: prints a message, ends the helper and exits. AutoAppDev sends TERM to the helper too; Ctrl-C in a terminal does
# not reach it.
leave() {
  trap '' TERM INT
  echo "demo: told to stop during '$step', leaving"
  end_helper
  exit 143
}
trap leave TERM INT

# Starts a timer for the given milliseconds, divided by the speed.
start_timer() {
  local ms=$(($1 / speed))
  sleep "$((ms / 1000)).$(printf '%03d' $((ms % 1000)))" &
  timer=$!
}

# Waits for the given milliseconds. Bash runs a trap only between two commands, so a plain `sleep` would delay TERM; `wait` returns at once.
rest() {
  start_timer "$1"
  wait "$timer" || true
}

# Keeps the processor busy until the timer ends.
compute() {
  local n hash=5381
  start_timer "$1"
  while kill -0 "$timer" 2>/dev/null; do
    for ((n = 0; n < 500; n++)); do hash=$(((hash * 33 + n) & 0xffffffff)); done
  done
  wait "$timer" || true
}

# Starts a process that allocates one MiB of memory about three times a second, up to the given number. It waits by reading from a pipe into
# which nothing is written, because a `sleep` would start as a copy of this process with all its memory.
start_helper() {
  (
    trap - TERM INT
    exec {silent}<> <(:)
    chunk='' kept=()
    printf -v chunk '%1048576s' ''
    while :; do
      ((${#kept[@]} >= $1)) || kept+=("$chunk")
      read -r -t 0.3 -u "$silent" || true
    done
  ) &
  helper=$!
}

end_helper() {
  [[ -n $helper ]] || return 0
  kill "$helper" 2>/dev/null || true
  wait "$helper" 2>/dev/null || true
  helper=
}

# AutoAppDev shows `::step` lines as a list of steps and `::progress` lines as a progress bar. Without AutoAppDev they are ordinary output.
begin_step() {
  step=$1
  echo "::step $step"
  echo "$bold==> $step$plain"
}

# Runs part $n of $count of a step: its description, the percentages of the pipeline at which the step begins and ends, the duration of the part
# in milliseconds, and the percentage of the duration during which the processor is busy.
part() {
  local tenths=$(($2 * 10 + ($3 - $2) * 10 * n / count))
  echo "::progress $((tenths / 10)).$((tenths % 10)) $1"
  rest $(($4 * (100 - $5) / 100))
  compute $(($4 * $5 / 100))
}

began=$SECONDS
echo "demo: run ${AUTOAPPDEV_RUN_ID:-(by hand)}, process $$, speed $speed"

begin_step "Fetch dependencies"
packages=(openssl zlib sqlite libuv protobuf grpc abseil re2 fmt catch2 benchmark icu)
count=${#packages[@]}
for ((n = 1; n <= count; n++)); do
  name=${packages[n - 1]}
  part "Fetching $name ($n of $count)" 0 14 1000 10
  echo "  ${green}fetched$plain $name $dim$((n * 37 % 90 + 4)).$((n * 7 % 10)) MB$plain"
  ((n != 7)) || echo "mirror eu-2 is slow, going on with eu-1" >&2
done

begin_step "Compile"
start_helper 40
units=(core/arena core/hash core/queue io/file io/socket io/poll net/http net/tls net/proxy db/schema db/query db/index ui/window ui/theme)
count=$((${#units[@]} * 2))
for ((n = 1; n <= count; n++)); do
  unit=${units[(n - 1) / 2]}
  place=" ($(((n + 1) / 2)) of ${#units[@]})"
  ((n % 2)) || unit+=_test place=
  part "Compiling $unit.cc$place" 14 54 1250 35
  echo "  ${cyan}CXX$plain $unit.o"
  if ((n == 13)); then
    echo "net/http.cc:218:14: ${yellow}warning:$plain 'parse_header' is deprecated: use 'read_header' [-Wdeprecated-declarations]" >&2
    echo "  about this warning: https://en.cppreference.com/w/cpp/language/attributes/deprecated" >&2
  fi
done
end_helper

begin_step "Run tests"
suites=(arena hash queue file socket poll http tls proxy schema query index)
count=$((${#suites[@]} * 2)) passed=0
for ((n = 1; n <= count; n++)); do
  suite=${suites[(n - 1) / 2]}
  part "Testing $suite ($passed passed)" 54 88 1100 25
  if ((n == 15)) && [[ -n $fails ]]; then
    cat >&2 <<TRACE
${red}FAILED$plain tests/test_$suite.py::test_resumes_after_reset
Traceback (most recent call last):
  File "tests/test_$suite.py", line 84, in test_resumes_after_reset
    session = client.resume(ticket, timeout=2.0)
  File "client/session.py", line 131, in resume
    return self._handshake(ticket)
  File "client/session.py", line 167, in _handshake
    raise HandshakeError(f"unexpected message: {kind}")
client.errors.HandshakeError: unexpected message: certificate_request
TRACE
    echo "demo: 1 test failed, $passed passed" >&2
    exit 1
  fi
  passed=$((passed + 3 + n % 4))
  echo "  ${green}ok$plain test_$suite $dim($passed passed)$plain"
  ((n != 9)) || echo "test_socket took 1.9 s, longer than usual" >&2
done

begin_step "Package"
start_helper 20
files=(bin/server bin/client lib/core.so share/doc share/man LICENSE archive checksums)
count=${#files[@]}
for ((n = 1; n <= count; n++)); do
  name=${files[n - 1]}
  part "Packing $name ($n of $count)" 88 100 1300 15
  echo "  packed $name"
done
end_helper

echo "${green}${bold}demo: $passed tests passed, the package is ready after $((SECONDS - began)) s$plain"
