#!/usr/bin/env bash
# Everything that PhraseLens does starts here: `./run.sh --help`.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$(realpath -m "${PHRASELENS_VENV:-$root/.venv}")
python=$venv/bin/python

# Modules come from this folder and never from the one where the command was typed.
export PYTHONPATH=$root PYTHONSAFEPATH=1 PATH=$venv/bin:$PATH
# TensorFlow's errors arrive as exceptions; its log calls even a missing GPU driver an error.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3} GRPC_VERBOSITY=${GRPC_VERBOSITY:-ERROR}

jobs="mine_log mine_pairs prepare_pairs embed_phrases embed_images prepare_examples classify_images"
models="text_generator text_embedder pixel_embedder fusion"
commands="setup quickstart all test $jobs forget train index-eval export report samples similar submit"
commands="$commands flink template reprocess promote rollback gc gate verify doctor bench lock"

usage() {
  cat <<'EOF'
PhraseLens classifies images with the help of the words it predicts for them.

usage: ./run.sh COMMAND [FLAGS]       ./run.sh COMMAND --help says more of each, and
                                      --verbose shows all flags and what libraries say

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
  gate                compare a snapshot with the one in use: may it be promoted?
  gc                  delete the runs that no kept snapshot names

Care
  forget              delete images, and what people typed, from days
  setup [--gpu]       make the environment from the lock file (every command does so when needed)
  setup --airflow     make Airflow's own environment, to try the DAG of deploy/airflow
  test [--all] [ARGS] linters, types and tests; --all adds the slow ones; ARGS go to pytest
  test --fuzz SECONDS fuzz log parsing and image decoding; fails where an input crashes them
  test --inputs       write docs/inputs.md: inputs that people have, and what happens with each
  verify PATH…        check datasets against their manifests
  index-eval          recall, speed and memory of each kind of phrase index
  bench NAME          run a benchmark of benchmarks/
  lock [--upgrade]    resolve the requirements*.txt ranges into lock files

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

# The lock file is copied into the environment last: an equal copy says that all is installed.
install() { # LOCK
  cmp -s "$root/$1" "$venv/$1" && return
  python3.11 -c "" 2>/dev/null || fail "python3.11" "Python 3.11 on PATH" \
    "Install it (Debian, Ubuntu: apt install python3.11 python3.11-venv) and try again."
  echo "Installing $1 into $venv (up to 3 GB, some minutes)…"
  python3.11 -m venv "$venv"
  local quiet=--quiet
  [ -t 1 ] && quiet=
  "$python" -m pip install $quiet --disable-pip-version-check --require-hashes -r "$root/$1"
  cp "$root/$1" "$venv/$1"
}

setup() { # [--gpu | --airflow]
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
  exec "$python" -m "$@"
}

run_tests() { # [--all] ARGS… | --fuzz SECONDS | --inputs
  setup_dev
  cd "$root"
  if [ "${1:-}" = --fuzz ]; then
    [[ ${2:-} =~ ^[0-9]+$ ]] || fail "test --fuzz ${2:-}" "seconds" "Try ./run.sh test --fuzz 600."
    install requirements-fuzz.lock
    exec "$python" -m tests.fuzz --seconds "$2"
  fi
  [ "${1:-}" != --inputs ] || exec "$python" -m tests.inputs
  local marker=(-m "not slow")
  if [ "${1:-}" = --all ]; then
    marker=()
    shift
  fi
  "$python" -m ruff check .
  "$python" -m ruff format --check .
  "$python" -m mypy
  "$python" -m pytest "${marker[@]}" "$@"
}

bench() { # NAME ARGS…
  local names
  names=$(cd "$root/benchmarks" && ls | sed -n '/^__/d; s/\.py$//p')
  [ -e "$root/benchmarks/${1:-}.py" ] ||
    fail "bench ${1:-}" "one of: ${names//$'\n'/, }" "$(nearest "${1:-}" $names)"
  setup
  # What we are compared with is no part of the product; pip adds it beside what is locked.
  case $1 in mining* | phrases | scale) install requirements-bench.lock ;; esac
  module "benchmarks.$1" "${@:2}"
}

lock() { # ARGS of uv pip compile
  setup_dev
  cd "$root"
  local kind constraint
  for kind in "" -gpu -dev -bench -fuzz -airflow; do
    case $kind in "" | -airflow) constraint=() ;; *) constraint=(--constraint requirements.lock) ;; esac
    uv pip compile --quiet --python-version 3.11 --generate-hashes --annotation-style line \
      --custom-compile-command "./run.sh lock" "${constraint[@]}" \
      "requirements$kind.txt" --output-file "requirements$kind.lock" "$@"
    echo "wrote requirements$kind.lock"
  done
}

command=${1:---help}
shift || true
case $command in
  -h | --help | help) usage ;;
  setup) setup "$@" && echo "$venv is ready" ;;
  quickstart) module beam_jobs.pipeline --samples --preset=quickstart --workdir=work/quickstart "$@" ;;
  all) module beam_jobs.pipeline "$@" ;;
  test) run_tests "$@" ;;
  mine_log | mine_pairs | prepare_pairs | embed_phrases | embed_images | prepare_examples | \
    classify_images | forget)
    module "beam_jobs.$command" "$@"
    ;;
  train)
    [[ " $models " == *" ${1:-} "* ]] ||
      fail "train ${1:-}" "one of: ${models// /, }" "$(nearest "${1:-}" $models)"
    module "model_code.train_$1" "${@:2}"
    ;;
  submit)
    [[ " $jobs forget " == *" ${1:-} "* ]] ||
      fail "submit ${1:-}" "one of: ${jobs// /, }, forget" "$(nearest "${1:-}" $jobs forget)"
    module beam_jobs.submit --job="$1" "${@:2}"
    ;;
  template) module deploy.templates "$@" ;;
  flink) module deploy.flink "$@" ;;
  export) module model_code.export_model "$@" ;;
  report) module model_code.report "$@" ;;
  samples) module samples.make_samples "$@" ;;
  verify) module schemas.verify "$@" ;;
  reprocess) module beam_jobs.reprocess "$@" ;;
  gc) module schemas.gc "$@" ;;
  promote | rollback) module schemas.promote "$command" "$@" ;;
  index-eval) module model_code.index_eval "$@" ;;
  similar) module model_code.similar "$@" ;;
  gate) module model_code.gate "$@" ;;
  doctor)
    # It must run where nothing is installed yet, and say so.
    [ -x "$python" ] || python=python3.11
    exec "$python" -m model_code.doctor "$@"
    ;;
  bench) bench "$@" ;;
  lock) lock "$@" ;;
  *) fail "$command" "a command" "$(nearest "$command" $commands)" ;;
esac
