"""A Python worker of a TaskManager: what Beam's containers run as `boot`, which no wheel holds.

Asks the TaskManager where to take work from, and becomes Beam's worker, which ends with it.
"""

import argparse
import os

import grpc
from apache_beam.portability.api import beam_provision_api_pb2 as provision_pb2
from apache_beam.portability.api import beam_provision_api_pb2_grpc as provision_grpc
from apache_beam.runners.worker import sdk_worker_main
from google.protobuf import json_format, text_format


def environment(worker_id: str, provision_endpoint: str) -> dict[str, str]:
    """The variables that Beam's worker reads."""
    with grpc.insecure_channel(provision_endpoint) as channel:
        info = provision_grpc.ProvisionServiceStub(channel).GetProvisionInfo(
            provision_pb2.GetProvisionInfoRequest(), metadata=[("worker_id", worker_id)]
        )
    return {
        "WORKER_ID": worker_id,
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.info.control_endpoint),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.info.logging_endpoint),
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.info.pipeline_options),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser("flink_worker", allow_abbrev=False)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    args, _ = parser.parse_known_args()
    os.environ.update(environment(args.id, args.provision_endpoint))
    sdk_worker_main.main([])
