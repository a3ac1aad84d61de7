# Sourced by gpu.sh and cpu.sh: runs benchmarks one by one, each under its own time limit, into one file.
# A part that fails is recorded as failed and stops nothing. A part that the file has already is replaced as it is run
# again; each says when and where it ran. ONLY="data simba" runs those parts alone.

begin() { # the file to write
  FILE=$1 FAILED=0 KNOWN=''
  PARTS=$(mktemp -d)
  trap 'rm -rf "$PARTS"' EXIT
  . scripts/python.sh
  # With the peers where there are any.
  if [ -z "${PYTHON:-}" ]; then
    pick_python requirements-test.txt || pick_python requirements.txt || PYTHON=python3
  fi
}

part() { # name, time limit in seconds, benchmark, its arguments
  local name=$1 limit=$2 benchmark=$3 start=$SECONDS code=0
  shift 3
  KNOWN+=" $name"
  if [ -n "${ONLY:-}" ] && [[ " $ONLY " != *" $name "* ]]; then return; fi
  echo "== $name: python -m benchmarks.$benchmark $* (at most $limit s)"
  timeout --foreground -k 5 "$limit" "$PYTHON" -m "benchmarks.$benchmark" "$@" --out "$PARTS/$name.json" 2>&1 |
    tee "$PARTS/$name.log" || code=$?
  echo "$code $((SECONDS - start))" > "$PARTS/$name.status"
  if [ "$code" != 0 ]; then echo "$name failed (exit status $code)"; FAILED=$((FAILED + 1)); fi
  "$PYTHON" benchmarks/collect.py "$PARTS" "$FILE" # after each: whoever ends this script keeps what there is
}

finish() {
  local name
  for name in ${ONLY:-}; do
    if [[ " $KNOWN " != *" $name "* ]]; then
      echo "ONLY: there is no part $name; there are$KNOWN" >&2
      exit 2
    fi
  done
  echo "$FILE ($SECONDS s, $FAILED parts failed)"
  [ "$FAILED" = 0 ]
}
