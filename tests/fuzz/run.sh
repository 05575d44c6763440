#!/usr/bin/env bash
#
# Fuzzes every target, one after another, for this number of seconds in all; `make fuzz SECONDS=600` calls it. Fails if anything was found.
#
#   tests/fuzz/run.sh 600 [target…]     fuzzes all targets, or the named ones
#   tests/fuzz/run.sh keep [target…]    rewrites corpus/TARGET.tgz with the few inputs, from the archive and from earlier runs, that the same
#                                       coverage needs beside the named ones in corpus/TARGET/
#
# Inputs that are found on the way are kept below tests/fuzz/target/corpus, for the next run. An input that breaks a property goes to
# tests/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if ! command -v rustup >/dev/null || ! rustup run nightly rustc --version >/dev/null 2>&1; then
  echo "fuzz: a nightly compiler is missing, which the fuzzer's instrumentation needs; to get it, with rustup (https://rustup.rs): rustup toolchain install nightly --profile minimal" >&2
  exit 1
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "fuzz: cargo-fuzz is missing; to get it: cargo install --locked cargo-fuzz" >&2
  exit 1
fi

what=${1:?how many seconds in all, or keep}
shift
targets=("$@")
((${#targets[@]} > 0)) || targets=(corpus/*/)
targets=("${targets[@]#corpus/}")
targets=("${targets[@]%/}")

# Without a sanitizer, because the fuzzed code contains no unsafe code and runs twice as fast without one. Overflows and debug
# assertions are checked.
cargo +nightly fuzz build --fuzz-dir . --sanitizer none
bin=target/$(rustup run nightly rustc -vV | sed -n 's/^host: //p')/release

# Longer inputs find nothing more and take longer. The limits of a head are higher than the others.
length_max() {
  case $1 in
  head) echo 20000 ;;
  log) echo 2048 ;;
  *) echo 4096 ;;
  esac
}

# Unpacks the inputs that were found earlier for a target to target/found/TARGET.
unpack() {
  rm -rf "target/found/$1"
  mkdir -p "target/found/$1"
  # A new target has no archive.
  [[ ! -f corpus/$1.tgz ]] || tar -xzf "corpus/$1.tgz" -C "target/found/$1"
}

# Prints how many edges the inputs in these folders reach.
edges() {
  "$bin/$1" -runs=0 -max_len="$(length_max "$1")" "${@:2}" 2>&1 | grep -ao 'cov: [0-9]*' | tail -n 1 | cut -d ' ' -f 2
}

if [[ $what == keep ]]; then
  printf '%-12s %12s %12s %12s %12s\n' target "inputs before" "inputs after" "edges before" "edges after"
  for target in "${targets[@]}"; do
    unpack "$target"
    all=("corpus/$target" "target/found/$target" "target/corpus/$target") kept=target/kept/$target
    rm -rf "$kept"
    mkdir -p "${all[@]}" "$kept"
    cp "corpus/$target"/* "$kept"
    # By edges alone: with hit counts, ten times as many inputs would be kept, which the next run finds again in seconds. Run
    # twice, because some edges also depend on the inputs before, so the second run adds what the first one missed.
    for _ in 1 2; do
      if ! "$bin/$target" -set_cover_merge=1 -use_counters=0 -max_len="$(length_max "$target")" "$kept" "${all[@]}" >"target/$target.log" 2>&1; then
        echo "fuzz: the fuzzer failed, corpus/$target.tgz is as it was; what it says is in tests/fuzz/target/$target.log" >&2
        exit 1
      fi
    done
    printf '%-12s %12s %12s %12s %12s\n' "$target" "$(find "${all[@]:0:2}" -type f | wc -l)" "$(find "$kept" -type f | wc -l)" \
      "$(edges "$target" "${all[@]}")" "$(edges "$target" "$kept")"
    for named in "corpus/$target"/*; do
      rm "$kept/${named##*/}"
    done
    # The same inputs make the same archive.
    find "$kept" -type f -printf '%f\n' | LC_ALL=C sort |
      tar --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=644 -C "$kept" -T - -c | gzip -9n >"$kept.tgz"
    mv "$kept.tgz" "corpus/$target.tgz"
  done
  exit 0
fi

each=$((what / ${#targets[@]}))
((each > 0)) || { echo "fuzz: $what seconds are less than one for each of ${#targets[@]} targets" >&2; exit 1; }
echo "fuzz: ${#targets[@]} targets, $each seconds each"
failed=()
printf '%-12s %12s %10s %8s %9s %8s\n' target executions per-second edges inputs found
for target in "${targets[@]}"; do
  mkdir -p "target/corpus/$target" "artifacts/$target"
  unpack "$target"
  log=target/$target.log
  before=$(find "artifacts/$target" -type f | wc -l)
  options=(-max_total_time="$each" -max_len="$(length_max "$target")" -timeout=60 -report_slow_units=60 -rss_limit_mb=2048 -print_final_stats=1
    -artifact_prefix="artifacts/$target/")
  [[ ! -f dictionaries/$target.dict ]] || options+=(-dict="dictionaries/$target.dict")
  status=0
  "$bin/$target" "${options[@]}" "target/corpus/$target" "corpus/$target" "target/found/$target" >"$log" 2>&1 || status=$?
  found=$(($(find "artifacts/$target" -type f | wc -l) - before))
  stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -n 1; }
  progress() { grep -ao "$1: [0-9]*" "$log" | tail -n 1 | cut -d ' ' -f 2; }
  printf '%-12s %12s %10s %8s %9s %8s\n' "$target" "$(stat number_of_executed_units)" "$(stat average_exec_per_sec)" "$(progress cov)" \
    "$(progress corp)" "$found"
  if ((status != 0 || found > 0)); then
    failed+=("$target")
    echo "  the fuzzer ended with $status; what it says is in tests/fuzz/$log, the inputs in tests/fuzz/artifacts/$target" >&2
  fi
done
if ((${#failed[@]} > 0)); then
  echo "fuzz: FOUND something in: ${failed[*]}" >&2
  exit 1
fi
echo "fuzz: nothing found"
