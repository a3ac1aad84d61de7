# Functions for gpu.sh and cpu.sh, which source this file. They run benchmarks one after the other, each with a time limit,
# and collect the results in one JSON file. A part that fails is recorded as failed; the others still run. A part that the
# file already contains is replaced. ONLY="data simba" runs only these two parts, and PLAN=1 only prints the parts.

begin() { # FILE: the JSON file to write
  FILE=$1 FAILED=0 PART_NAMES=''
  PARTS=$(mktemp -d)
  trap 'rm -rf "$PARTS"' EXIT
  . scripts/python.sh
  # Prefer an environment that has the packages to compare with.
  if [ -z "${PYTHON:-}" ]; then
    pick_python requirements-test.txt || pick_python requirements.txt || PYTHON=python3
  fi
}

part() { # NAME LIMIT BENCHMARK ARGUMENTS...: runs python -m benchmarks.BENCHMARK for at most LIMIT seconds
  local name=$1 limit=$2 benchmark=$3 start=$SECONDS code=0
  shift 3
  PART_NAMES+=" $name"
  if [ -n "${ONLY:-}" ] && [[ " $ONLY " != *" $name "* ]]; then return; fi
  if [ -n "${PLAN:-}" ]; then echo "$name $limit $benchmark $*"; return; fi
  echo "== $name: python -m benchmarks.$benchmark $* (at most $limit s)"
  timeout --foreground -k 5 "$limit" "$PYTHON" -m "benchmarks.$benchmark" "$@" --out "$PARTS/$name.json" 2>&1 |
    tee "$PARTS/$name.log" || code=$?
  echo "$code $((SECONDS - start))" > "$PARTS/$name.status"
  if [ "$code" != 0 ]; then echo "$name failed (exit status $code)"; FAILED=$((FAILED + 1)); fi
  "$PYTHON" benchmarks/collect.py "$PARTS" "$FILE" # after each part, so that results are kept when this script is ended
}

finish() { # fails if ONLY names a part that does not exist, or if a part failed
  local name
  for name in ${ONLY:-}; do
    if [[ " $PART_NAMES " != *" $name "* ]]; then
      echo "ONLY: there is no part $name; the parts are:$PART_NAMES" >&2
      exit 2
    fi
  done
  if [ -n "${PLAN:-}" ]; then return; fi
  echo "$FILE ($SECONDS s, $FAILED parts failed)"
  [ "$FAILED" = 0 ]
}
