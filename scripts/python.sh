# Sourced by the other scripts. Sets PYTHON to an interpreter that has the packages of a requirements file: the one in
# PYTHON (default python3) if it has them all, else .venv, which is created or completed as needed from a package index.

has_packages() { # arguments: interpreter, requirements file
  "$1" - "$2" <<'PY' 2>/dev/null
import sys
from importlib.metadata import version
from pathlib import Path
from packaging.requirements import Requirement  # matplotlib depends on packaging, so a complete environment has it

def check(path: Path) -> None:
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r"):
            check(path.parent / line[2:].strip())
        elif line:
            requirement = Requirement(line)
            if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                sys.exit(1)

check(Path(sys.argv[1]))
sys.exit(sys.version_info < (3, 11))
PY
}

pick_python() { # argument: requirements file. Installs nothing; fails if no interpreter has all its packages.
  local candidate
  for candidate in "${PYTHON:-python3}" .venv/bin/python; do
    if has_packages "$candidate" "$1"; then use_python "$candidate" "$1"; return; fi
  done
  return 1
}

use_python() { # arguments: interpreter, requirements file
  if [ -n "${PYTHON:-}" ] && [ "$PYTHON" != "$1" ]; then
    echo "$PYTHON is not Python 3.11 or later with the packages of $2: using $1 instead" >&2
  fi
  PYTHON=$1
}

find_python() { # argument: requirements file. Installs its packages into .venv if no interpreter has them all.
  if pick_python "$1"; then return; fi
  if [ ! -x .venv/bin/python ]; then
    local base=${PYTHON:-python3}
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
      { echo "advmia needs Python 3.11 or later, but $base is not: set PYTHON to one, e.g. PYTHON=python3.12" >&2; exit 2; }
    echo "creating .venv with $base" >&2
    "$base" -m venv .venv || { echo "cannot create .venv with $base -m venv" >&2; exit 2; }
  fi
  echo "installing the packages of $1 into .venv (once; this takes some minutes)" >&2
  .venv/bin/python -m pip install --quiet -r "$1" || { echo "pip cannot install the packages of $1 into .venv" >&2; exit 2; }
  use_python .venv/bin/python "$1"
}

checkpoint_of() { # arguments: a training command without the interpreter. Prints the checkpoint that it writes.
  printf '%q ' "$@" | "$PYTHON" -m advmia where
}
