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

jobs="mine_log mine_pairs prepare_pairs embed_phrases embed_images prepare_examples classify_images"
models="text_generator text_embedder pixel_embedder fusion"
commands="setup quickstart all test $jobs forget train index-eval export report samples similar submit"
commands="$commands flink template reprocess status promote rollback hold gc gate verify doctor bench lock"

usage() {
  cat <<'EOF'
PhraseLens classifies images with the help of the words it predicts for them.

usage: ./run.sh COMMAND [FLAGS]       ./run.sh COMMAND --help says more of each, and
                                      --verbose shows all flags and what libraries say,
                                      --log_format=text or json gives each line time and level

Start here
  quickstart          make sample data and run every stage on it: about 10 minutes on 2 cores
  all                 run every stage on your own click log, images and labels
  doctor              check this machine, and say what to do

Stages, in the order of `all`
  samples             draw scenes and a click log to try things on
  mine_log            click log of one day → a day, which merges with others
  mine_pairs          click log or days + images + labels → query–image pairs, images, queries
  prepare_pairs       images with their queries → training examples of the text generator
  train MODEL         MODEL is text_generator, text_embedder, pixel_embedder or fusion
  embed_phrases       queries → vectors, text embeddings and the phrase index
  embed_images        images → phrases, text embeddings, pixel embeddings
  prepare_examples    features → normalised training examples
  export              all models → one SavedModel: image bytes to labels and phrases
  classify_images     images → labels with their phrases
  report              every result → one HTML page, a model card and a data card

Elsewhere
  similar IMAGE…      find the images most like an image, by what people would type for it
  submit JOB          send one of the Beam jobs to Dataflow
  template JOB        write a Beam job's Flex Template for Dataflow
  flink up|submit JOB start a Flink cluster on this machine, and send Beam jobs to it

Every day
  reprocess           what new data needs, and nothing else → a snapshot of a date
  promote, rollback   put a snapshot of all models and datasets in use, or the one before it
  hold                keep the snapshot of a date out of use, or end that
  status WORKDIR      what is in use, what is missing, what waits for a person
  gate                compare a snapshot with the one in use: may it be promoted?
  gc                  delete the runs that no kept snapshot names

Care
  forget              delete images, and what people typed, from days
  setup [--gpu]       make the environment from the lock file (every command does so when needed)
  setup --airflow     make Airflow's own environment, to try the DAG of deploy/airflow
  test [--all] [ARGS] linters, types and tests; --all adds the slow ones; ARGS go to pytest
  test --fuzz SECONDS fuzz log parsing and image decoding; fails where an input crashes them
  test --damaged N    damage N images, and fail where mining keeps what training cannot read
  test --inputs       write docs/inputs.md: inputs that people have, and what happens with each
  verify PATH…        check datasets against their manifests
  index-eval          recall, speed and memory of each kind of phrase index
  bench NAME          run a benchmark of benchmarks/
  lock [--upgrade]    resolve the requirements*.txt ranges into lock files
  lock --check        install every lock file into an empty environment, and see that it works

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

nearest() { # WORD CHOICES…: the choice most like the word
  python3.11 - "$@" <<'EOF' || true
import difflib, sys
near = difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1, 0.5)
print(f"Did you mean {near[0]}?" if near else "See ./run.sh --help.")
EOF
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

module() { # MODULE ARGS…
  setup
  exec "$python" -m schemas.console.launch "$@"
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
  names=$(cd "$root/benchmarks" && ls ./*/*.py | sed -n '/__init__/d; s/.*\///; s/\.py$//p' | sort)
  ! is_help "${1:-}" || usage_of bench $names
  local file
  file=$(cd "$root" && ls benchmarks/*/"${1:-}.py" 2>/dev/null) ||
    fail "bench ${1:-}" "one of: ${names//$'\n'/, }" "$(nearest "${1:-}" $names)"
  setup
  # What we are compared with is no part of the product; pip adds it beside what is locked.
  case $1 in mining* | phrases | scale) install requirements-bench.lock ;; esac
  file=${file%.py}
  module "${file////.}" "${@:2}"
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
  -h | --help | help) usage ;;
  setup)
    setup "$@" # not before &&, which would go on after an error inside it
    echo "$venv is ready"
    ;;
  quickstart) module beam_jobs.runs.all_stages --samples --preset=quickstart --workdir=work/quickstart "$@" ;;
  all) module beam_jobs.runs.all_stages "$@" ;;
  test) run_tests "$@" ;;
  mine_log | mine_pairs | forget) module "beam_jobs.mining.$command" "$@" ;;
  prepare_pairs | embed_phrases | embed_images | prepare_examples | classify_images)
    module "beam_jobs.models.$command" "$@"
    ;;
  train)
    ! is_help "${1:-}" || usage_of train $models
    [[ " $models " == *" ${1:-} "* ]] ||
      fail "train ${1:-}" "one of: ${models// /, }" "$(nearest "${1:-}" $models)"
    module "model_code.models.$1.train" "${@:2}"
    ;;
  submit)
    ! is_help "${1:-}" || usage_of submit $jobs forget
    [[ " $jobs forget " == *" ${1:-} "* ]] ||
      fail "submit ${1:-}" "one of: ${jobs// /, }, forget" "$(nearest "${1:-}" $jobs forget)"
    module beam_jobs.dataflow.submit --job="$1" "${@:2}"
    ;;
  template) module deploy.templates "$@" ;;
  flink) module deploy.flink "$@" ;;
  export) module model_code.models.fusion.export "$@" ;;
  report) module model_code.report.pages "$@" ;;
  samples) module samples.make_samples "$@" ;;
  verify) module schemas.maintenance.verify "$@" ;;
  reprocess) module beam_jobs.runs.reprocess "$@" ;;
  status) module schemas.maintenance.status "$@" ;;
  gc) module schemas.maintenance.gc "$@" ;;
  promote | rollback | hold) module schemas.maintenance.promote "$command" "$@" ;;
  index-eval) module model_code.phrases.evaluate_index "$@" ;;
  similar) module beam_jobs.models.similar "$@" ;;
  gate) module model_code.gate.command "$@" ;;
  doctor)
    # It must run where nothing is installed yet, and say so.
    [ -x "$python" ] || python=python3.11
    exec "$python" -m schemas.console.launch phraselens.doctor "$@"
    ;;
  bench) bench "$@" ;;
  lock) lock "$@" ;;
  *) fail "$command" "a command" "$(nearest "$command" $commands)" ;;
esac
