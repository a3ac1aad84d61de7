# Sourced by the other scripts: sets PYTHON to an interpreter that has the packages of a requirements file.
# The interpreter at hand is taken if it has them all; else .venv is made or completed, which needs a package index.

has_packages() { # interpreter, requirements file
  "$1" - "$2" <<'PY' 2>/dev/null
import sys
from importlib.metadata import version
from pathlib import Path
from packaging.requirements import Requirement  # Matplotlib needs it: where it is missing, so is Matplotlib

def check(path: Path) -> None:
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r"):
            check(path.parent / line[2:].strip())
        elif line:
            wanted = Requirement(line)
            if not wanted.specifier.contains(version(wanted.name), prereleases=True):
                sys.exit(1)

check(Path(sys.argv[1]))
sys.exit(sys.version_info < (3, 10))
PY
}

pick_python() { # requirements file; fails where no interpreter has it all, and installs nothing
  local candidate
  for candidate in "${PYTHON:-python3}" .venv/bin/python; do
    if has_packages "$candidate" "$1"; then take_python "$candidate" "$1"; return; fi
  done
  return 1
}

take_python() { # interpreter, requirements file
  if [ -n "${PYTHON:-}" ] && [ "$PYTHON" != "$1" ]; then
    echo "$PYTHON is no Python 3.10 or later with the packages of $2: taking $1" >&2
  fi
  PYTHON=$1
}

find_python() { # requirements file
  if pick_python "$1"; then return; fi
  if [ ! -x .venv/bin/python ]; then
    local base=${PYTHON:-python3}
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
      { echo "advmia needs Python 3.10 or later; $base is not: set PYTHON to one" >&2; exit 2; }
    echo "making .venv" >&2
    "$base" -m venv .venv || { echo "could not make .venv with $base -m venv" >&2; exit 2; }
  fi
  echo "installing $1 into .venv (some minutes, once)" >&2
  .venv/bin/python -m pip install --quiet -r "$1" || { echo "pip could not install $1 into .venv" >&2; exit 2; }
  take_python .venv/bin/python "$1"
}
