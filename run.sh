#!/usr/bin/env bash
# Everything that PhraseLens does starts here: `./run.sh --help`.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$(realpath -m "${PHRASELENS_VENV:-$root/.venv}")
python=$venv/bin/python

# Modules come from this folder and never from the one where the command was typed.
export PYTHONPATH=$root PYTHONSAFEPATH=1 PATH=$venv/bin:$PATH
# Text, file names and the command line are UTF-8, whatever the locale says.
export PYTHONUTF8=1
# TensorFlow's errors arrive as exceptions; its log calls even a missing GPU driver an error.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3} GRPC_VERBOSITY=${GRPC_VERBOSITY:-ERROR}

export PHRASELENS_PROGRAM=./run.sh

usage() {
  python3.11 -m phraselens.cli || true
  cat <<'EOF'

Of this repository
  setup [--gpu]         makes the environment from the lock file (every command does so when needed)
  setup --airflow       makes Airflow's own environment, to try the DAG of deploy/airflow
  test [--all] [ARGS]   linters, types and tests; --all adds the slow ones; ARGS go to pytest
  test --fuzz SECONDS   fuzzes log parsing and image decoding; fails where an input crashes them
  test --damaged N      damages N images, and fails where mining keeps what training cannot read
  test --inputs         writes docs/use/inputs.md: inputs that people have, and what happens with each
  bench NAME            runs a benchmark of benchmarks/; --write PAGE: into docs/measured/PAGE.md
  lock [--upgrade]      resolves the requirements*.txt ranges into lock files
  lock --check          installs every lock file into an empty environment, and sees that it works

Examples
  ./run.sh quickstart
  ./run.sh all --log 'log/*.parquet' --images 'images/**' --labels labels.csv --workdir work/mine
  ./run.sh all … --dry_run                          the commands, without running them
  ./run.sh train fusion --examples work/mine/examples --output work/mine/fusion
  ./run.sh classify_images --model work/mine/model --images 'new/*.jpg' --output work/mine/new
  ./run.sh submit embed_images … --project P --region R --temp_location gs://BUCKET/tmp
  ./run.sh test tests/unit -k manifest

Environment
  PHRASELENS_VENV     where the environment lives, instead of .venv beside this script
  PHRASELENS_AIRFLOW_VENV  where Airflow's lives, instead of .venv-airflow
  PHRASELENS_FLINK    where Flink's jars, logs and state live, instead of ~/.cache/phraselens/flink
EOF
}

usage_of() { # COMMAND [CHOICES…]: its lines of the help above, and what may follow it; ends
  echo "usage: ./run.sh $1 ${2:+NAME }[FLAGS]"
  echo
  usage | grep -E "^  $1( |$)"
  [ $# -lt 2 ] || printf '\nNAME is one of:\n%s\nmore of each: ./run.sh %s NAME --help\n' \
    "$(printf '  %s\n' "${@:2}")" "$1"
  exit
}

is_help() { # WORDS…
  [[ " $* " == *" --help "* || " $* " == *" -h "* ]]
}

fail() { # ITEM EXPECTED REMEDY
  echo "error: $1: expected $2. $3" >&2
  exit 2
}

# pip's lines as a line now and then: how many of the packages have arrived.
show_fetched() { # TOTAL
  local line fetched=0 start=$SECONDS shown=$SECONDS
  while IFS= read -r line; do
    case $line in
      Collecting* | "Requirement already"*) fetched=$((fetched + 1)) ;;
      "Installing collected"*) echo "  all $1 packages after $((SECONDS - start)) s; unpacking…" ;;
    esac
    if ((SECONDS - shown >= 10 && fetched < $1)); then
      shown=$SECONDS
      echo "  $fetched of $1 packages after $((SECONDS - start)) s"
    fi
  done
}

# A lock names every package, so nothing may be resolved: asked to, pip takes the newest release of
# what another package wants with an extra, and refuses it for want of a hash. Packages that come as
# source are built with what requirements-build.lock has put here, for the same reason.
fetch() { # LOCK
  local install=("$python" -m pip install --disable-pip-version-check --require-hashes)
  install+=(--no-deps --no-build-isolation --requirement "$root/$1")
  if [ -t 1 ]; then "${install[@]}"; else
    "${install[@]}" --progress-bar off | show_fetched "$(grep -c '^[a-z0-9].*==' "$root/$1")"
  fi
}

# The lock file is copied into the environment last: an equal copy says that all is installed.
install() { # LOCK
  cmp -s "$root/$1" "$venv/$1" && return
  python3.11 -c "" 2>/dev/null || fail "python3.11" "Python 3.11 on PATH" \
    "Install it (Debian, Ubuntu: apt install python3.11 python3.11-venv) and try again."
  echo "Installing $1 into $venv (up to 3 GB, some minutes)…"
  python3.11 -m venv "$venv"
  fetch requirements-build.lock >/dev/null
  fetch "$1"
  "$python" -m pip check --disable-pip-version-check
  cp "$root/$1" "$venv/$1"
}

setup() { # [--gpu | --airflow]
  ! is_help "$@" || usage_of setup
  case ${1:-} in
    --gpu)
      [ ! -e "$venv/requirements.lock" ] || fail "$venv" "no CPU environment" \
        "faiss-cpu and faiss-gpu overwrite each other: remove it, or set PHRASELENS_VENV."
      install requirements-gpu.lock
      ;;
    "") if [ -e "$venv/requirements-gpu.lock" ]; then install requirements-gpu.lock; else
      install requirements.lock
    fi ;;
    --airflow)
      # Airflow wants other versions of much that we use, so it lives by itself.
      venv=$(realpath -m "${PHRASELENS_AIRFLOW_VENV:-$root/.venv-airflow}")
      python=$venv/bin/python
      install requirements-airflow.lock
      ;;
    *) fail "$1" "--gpu, --airflow or nothing" "See ./run.sh --help." ;;
  esac
}

setup_dev() {
  [ ! -e "$venv/requirements-gpu.lock" ] || fail "$venv" "a CPU environment for development" \
    "Name another one: PHRASELENS_VENV=.venv-dev"
  install requirements-dev.lock
  cp "$root/requirements.lock" "$venv/requirements.lock" # requirements-dev.lock contains it
}

start() { # COMMAND ARGS…
  if [ ! -x "$python" ] && command -v python3.11 >/dev/null; then
    # What needs no environment is answered before one is made.
    local status=0
    python3.11 -m phraselens.cli "$@" || status=$?
    [ $status -ne 64 ] || exit 0
    [ $status -eq 0 ] || exit $status
  fi
  setup
  exec "$python" -m phraselens "$@"
}

run_tests() { # [--all] ARGS… | --fuzz SECONDS | --damaged FILES | --inputs
  ! is_help "${1:-}" || usage_of test
  setup_dev
  cd "$root"
  if [ "${1:-}" = --fuzz ]; then
    [[ ${2:-} =~ ^[0-9]+$ ]] || fail "test --fuzz ${2:-}" "seconds" "Try ./run.sh test --fuzz 600."
    install requirements-fuzz.lock
    exec "$python" -m tests.fuzz --seconds "$2"
  fi
  [ "${1:-}" != --damaged ] || exec "$python" -m tests.fuzz.damaged_images "${@:2}"
  [ "${1:-}" != --inputs ] || exec "$python" -m tests.inputs
  local marker=(-m "not slow")
  if [ "${1:-}" = --all ]; then
    marker=()
    shift
  fi
  "$python" -m ruff check .
  "$python" -m ruff format --check .
  "$python" -m mypy
  # All tests are for two cores; a few are there sooner without a second process.
  local processes=()
  [ $# -gt 0 ] || processes=(-n 2 --dist worksteal)
  "$python" -m pytest "${marker[@]}" "${processes[@]}" "$@"
}

bench() { # NAME ARGS…
  local names
  names=$(cd "$root/benchmarks" && grep -l '^def run(' ./*/*.py | sed 's/.*\///; s/\.py$//' | sort)
  ! is_help "${1:-}" || usage_of bench $names
  local file
  file=$(cd "$root" && ls benchmarks/*/"${1:-}.py" 2>/dev/null) ||
    fail "bench ${1:-}" "one of: ${names//$'\n'/, }" "See ./run.sh bench --help."
  setup
  # What we are compared with is no part of the product; pip adds it beside what is locked.
  case $1 in
    mining* | phrases | scale) install requirements-bench.lock ;;
    growth) setup_dev ;; # for the emulator of Cloud Storage
  esac
  file=${file%.py}
  exec "$python" -m schemas.console.launch "${file////.}" "${@:2}"
}

lock() { # ARGS of uv pip compile | --check [FOLDER]
  ! is_help "$@" || usage_of lock
  if [ "${1:-}" = --check ]; then
    check_locks "${2:-}"
    return
  fi
  setup_dev
  cd "$root"
  local kind constraint
  for kind in "" -build -gpu -dev -bench -fuzz -airflow; do
    case $kind in "" | -airflow) constraint=() ;; *) constraint=(--constraint requirements.lock) ;; esac
    uv pip compile --quiet --python-version 3.11 --generate-hashes --annotation-style line \
      --custom-compile-command "./run.sh lock" "${constraint[@]}" \
      "requirements$kind.txt" --output-file "requirements$kind.lock" "$@"
    echo "wrote requirements$kind.lock"
  done
}

# Installs every lock into an empty environment and compares: a release of somebody else's that
# breaks an installation shows here first.
check_locks() { # [FOLDER]
  local folder kind start locks
  folder=${1:-$(mktemp -d)}
  for kind in "" -gpu -dev -bench -fuzz -airflow; do
    venv=$folder/env$kind python=$folder/env$kind/bin/python
    [ ! -e "$venv" ] || fail "$venv" "a folder without environments" "Name another one."
    locks=(requirements-build.lock "requirements$kind.lock")
    start=$SECONDS
    case $kind in -bench | -fuzz) # what is added to an environment
      install requirements.lock
      locks+=(requirements.lock)
      ;;
    esac
    install "requirements$kind.lock"
    echo "requirements$kind.lock: installed in $((SECONDS - start)) s"
    cd "$root"
    "$python" -m phraselens.doctor --locks "${locks[@]}"
    [ "$kind" = -airflow ] || "$python" -m phraselens.doctor
    [ -n "${1:-}" ] || rm -rf "$venv"
  done
}

command=${1:---help}
shift || true
case $command in
  -h | --help | --help-all | help) usage ;;
  setup)
    setup "$@" # not before &&, which would go on after an error inside it
    echo "$venv is ready"
    ;;
  test) run_tests "$@" ;;
  bench) bench "$@" ;;
  lock) lock "$@" ;;
  doctor)
    # It must run where nothing is installed yet, and say so.
    [ -x "$python" ] || python=python3.11
    exec "$python" -m phraselens doctor "$@"
    ;;
  *) start "$command" "$@" ;;
esac
