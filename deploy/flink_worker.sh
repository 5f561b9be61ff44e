#!/bin/sh
# Flink starts a Python worker with this, in the environment of its TaskManager.
# Paths in the job's flags are as the command's, which may be relative.
cd "${PHRASELENS_FOLDER:-.}" && exec python -P "${0%.sh}.py" "$@" >>"$FLINK_WORKER_LOG" 2>&1
