#!/bin/sh
# Flink starts a Python worker with this, in the environment of its TaskManager.
exec python -m deploy.flink_worker "$@" >>"$FLINK_WORKER_LOG" 2>&1
