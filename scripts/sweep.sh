# Sourced by sweep_eps.sh and reproduce.sh. They call run_sweep with their settings and then the user's flags; later flags
# win. A sweep trains and tests each network, then makes tables of all results. The commands themselves skip what their
# records show as finished, so the same command continues a sweep that was stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/survey/settings.sh # for find_python, and the survey's MODELS, EPSILONS and CLASSIFIER

run_sweep() {
  read_flags "$@"
  if [ -n "$DRY_RUN" ]; then
    pick_python requirements.txt || fail "--dryRun needs a Python 3.11 or later with the packages of requirements.txt: set PYTHON to one"
  else
    find_python requirements.txt
  fi
  plan_steps
  if [ -n "$DRY_RUN" ]; then
    printf '%s\n' "${COMMANDS[@]}"
  else
    run_steps
  fi
}

fail() {
  echo "${0##*/}: error: $1" >&2
  exit 2
}

read_flags() {
  DATASET='' NETWORKS=() METHODS=() TRAIN_EPS=() SEEDS=() OUT='' DRY_RUN=''
  TRAIN_FLAGS=() TEST_FLAGS=() ALL_FLAGS=()
  local flag values seed
  while [ $# -gt 0 ]; do
    flag=$1 values=()
    shift
    [[ $flag == -* ]] || fail "expected a flag, got $flag (see ${0##*/} --help)"
    if [[ $flag == --*=* ]]; then values=("${flag#*=}") flag=${flag%%=*}; fi
    while [ $# -gt 0 ] && [[ $1 != --* ]]; do
      values+=("$1")
      shift
    done
    case ${flag,,} in # in any letter case, as the commands accept them
      --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "scripts/${0##*/}" && exit ;; # $0 may be relative to another folder
      --dryrun) DRY_RUN=yes ;;
      --dataset) DATASET=${values[*]} ;;
      --model | --models) NETWORKS=("${values[@],,}") ;;
      --method | --methods) METHODS=("${values[@],,}") ;;
      --eps) TRAIN_EPS=("${values[@]}") ;;
      --seeds) read -ra SEEDS <<<"${values[*]}" ;;
      --out) OUT=${values[*]} ;;
      # Flags that only the training or only the test command takes.
      --epoch | --lr | --wd | --init | --valfraction | --validateevery | --beta | --gamma | --hatstep | --saveevery) TRAIN_FLAGS+=("$flag" "${values[@]}") ;;
      --attacks | --epsilons | --restarts | --eightbit | --autobatch) TEST_FLAGS+=("$flag" "${values[@]}") ;;
      *) ALL_FLAGS+=("$flag" "${values[@]}") ;;
    esac
  done
  if [ -z "$DATASET" ] || [ -z "$OUT" ] || [ ${#NETWORKS[@]} = 0 ] || [ ${#METHODS[@]} = 0 ] || [ ${#TRAIN_EPS[@]} = 0 ]; then
    fail "give a data set, a model, a method, a training eps and an output folder (see ${0##*/} --help)"
  fi
  for seed in "${SEEDS[@]}"; do
    [[ $seed =~ ^(0|[1-9][0-9]*)$ ]] || fail "--seeds takes whole numbers, got $seed"
  done
}

# Prints a line `model method eps seed` per network, with seed - where --seeds is not given. The natural network of each
# model and seed comes first. It is listed for hat too, because it is hat's helper.
list_networks() {
  local model method eps seed
  for seed in "${SEEDS[@]:--}"; do
    for model in "${NETWORKS[@]}"; do
      if [[ " ${METHODS[*]} " =~ \ (nat|hat)\  ]]; then echo "$model nat 0 $seed"; fi
      for method in "${METHODS[@]}"; do
        if [ "$method" = nat ]; then continue; fi
        for eps in "${TRAIN_EPS[@]}"; do echo "$model $method $eps $seed"; done
      done
    done
  done
}

# Sets STEPS, the names of the steps and of their logs, and COMMANDS, their command lines, quoted for the shell. Reports
# wrong flags of any command before the first one runs.
plan_steps() {
  local networks lines=() line paths i model method eps seed name test natural=''
  mapfile -t networks < <(list_networks)
  test=(testCls.py --dataset "$DATASET" "${TEST_FLAGS[@]}" "${ALL_FLAGS[@]}" --resultDir "$OUT/results")
  for line in "${networks[@]}"; do
    read -r model method eps seed <<<"$line"
    # shellcheck disable=SC2086 # CLASSIFIER is several words
    lines+=("$(quoted trainCls.py --dataset "$DATASET" --method "$method" --model "$model" --eps "$eps" $CLASSIFIER \
      "${TRAIN_FLAGS[@]}" "${ALL_FLAGS[@]}" --saveDir "$OUT/clsCkpt")")
    if [ "$seed" != - ]; then lines[-1]+=" --seed $seed"; fi # of the training; all networks are tested with equal seeds
  done
  # `where` also gets a test command, so that its flags are checked.
  paths=$(printf '%s\n' "${lines[@]}" "$(quoted "${test[@]}" --targetModel "${NETWORKS[0]}" --targetWeight any)" |
    "$PYTHON" -m advmia where) || exit 2
  mapfile -t paths <<<"$paths"
  STEPS=() COMMANDS=()
  for i in "${!networks[@]}"; do
    read -r model method eps seed <<<"${networks[i]}"
    name=${DATASET}_${model}_$method
    if [ "$method" = nat ]; then natural=${paths[i]}; else name+=_eps${eps%/255}; fi # the names of logs have no slash
    if [[ $seed != [-0] ]]; then name+=_seed$seed; fi
    if [ "$method" = hat ]; then lines[i]+=" $(quoted --helperModel "$model" --helperWeight "$natural")"; fi
    add_step "train_$name" "$(quoted "$PYTHON") ${lines[i]}"
    if [ "$method" = nat ] && [[ " ${METHODS[*]} " != *" nat "* ]]; then continue; fi # it is only the helper of hat
    add_step "test_$name" "$(quoted "$PYTHON" "${test[@]}" --targetModel "$model" --targetWeight "${paths[i]}")"
  done
  add_step "tables_$DATASET" "$(quoted "$PYTHON" -m advmia tables "$OUT/results" --out "$OUT/tables")"
}

add_step() { # arguments: name, command
  STEPS+=("$1")
  COMMANDS+=("$2")
}

quoted() {
  local words
  printf -v words '%q ' "$@"
  echo "${words% }"
}

# Runs the steps in order and appends the output of each to its log. The first step that fails ends the sweep.
run_steps() {
  local i log status=0 lock
  mkdir -p "$OUT/logs"
  if command -v flock >/dev/null; then # the commands inherit the lock, since one may outlive a killed sweep
    exec {lock}>"$OUT/logs/.lock"
    flock -n "$lock" || fail "another sweep is writing to $OUT"
  fi
  for i in "${!STEPS[@]}"; do
    log=$OUT/logs/${STEPS[i]}.log
    echo "[$((i + 1))/${#STEPS[@]}] ${STEPS[i]}"
    printf '$ %s\n' "${COMMANDS[i]}" >>"$log"
    # tee -i ignores Ctrl-C, so the log gets what the command prints after it.
    bash -c "${COMMANDS[i]}" </dev/null 2>&1 | tee -ai "$log" || status=$?
    if [[ $status =~ ^(129|130|143)$ ]]; then # SIGHUP, Ctrl-C and SIGTERM
      echo "${0##*/}: stopped in ${STEPS[i]}; finished steps are kept, and the same command continues; log: $log" >&2
      exit $status
    elif [ $status != 0 ]; then
      echo "${0##*/}: ${STEPS[i]} failed with status $status; finished steps are kept; log: $log" >&2
      exit $status
    fi
  done
}
