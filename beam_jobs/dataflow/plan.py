"""What a job sent to Dataflow consists of: steps, environments with hints, options, staged files.

Made of the very messages that are sent, so that a plan before and a job after can be compared.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, TestOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.transforms.resources import ResourceHint

# Options that Beam sets by itself, that differ with every run, or that hold no choice of anybody.
UNSHOWN = {
    "beam_plugins",
    "dataflow_endpoint",
    "dry_run",
    "gcp_oauth_scopes",
    "no_auth",
    "pipelineProtoHash",
    "pipelineUrl",
    "setup_file",
    "staging_location",
    "temp_location",
}


@dataclasses.dataclass(frozen=True)
class Environment:
    """Where steps run.

    Attributes:
      image: the workers' container image.
      hints: resource hints: name → value.
      files: names of the staged files that its workers install.
    """

    image: str
    hints: Mapping[str, str]
    files: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A job.

    Attributes:
      name: the job's name.
      steps: the labels of the graph's steps as its job file draws them.
      environments: those that steps run in; the one without hints first.
      hinted: label of each elementary step with hints → the number of its environment.
      options: pipeline options that are not Beam's defaults.
      experiments, service_options: as sent.
      staged: name of each staged file → bytes, or None where they were not looked at.
    """

    name: str
    steps: tuple[str, ...]
    environments: tuple[Environment, ...]
    hinted: Mapping[str, int]
    options: Mapping[str, Any]
    experiments: tuple[str, ...]
    service_options: tuple[str, ...]
    staged: Mapping[str, int | None]


def drawn(draw: Callable[[beam.Pipeline], None], options: PipelineOptions) -> Plan:
    """The plan of a graph that is drawn and sent nowhere.

    Args:
      draw: draws it.
      options: of the pipeline; names DataflowRunner.
    """
    from apache_beam.runners.dataflow.internal import apiclient

    options.view_as(TestOptions).dry_run = True
    pipeline = beam.Pipeline(options=options)
    draw(pipeline)
    job = cast(Any, pipeline.run()).job
    apiclient.DataflowApplicationClient._apply_sdk_environment_overrides(
        job.proto_pipeline, {}, job.options
    )
    files = staged_files(job.proto_pipeline)
    environment = apiclient.Environment(
        packages=list(files),
        options=job.options,
        environment_version=apiclient._FNAPI_ENVIRONMENT_MAJOR_VERSION,
        proto_pipeline_staged_url="",
        proto_pipeline=job.proto_pipeline,
    )
    sent = type(environment.proto).to_dict(environment.proto, preserving_proto_field_name=False)
    staged = files | {"pipeline.pb": job.proto_pipeline.ByteSize()}
    return plan_of(job.google_cloud_options.job_name, sent, job.proto_pipeline, staged)


def plan_of(
    name: str,
    environment: Mapping[str, Any],
    graph: beam_runner_api_pb2.Pipeline,
    staged: Mapping[str, int | None],
) -> Plan:
    """Reads a job.

    Args:
      name: the job's name.
      environment: the `environment` of the job as sent, in JSON.
      graph: the graph, which is sent as pipeline.pb.
      staged: staged files.
    """
    components = graph.components
    transforms = components.transforms
    roots = [child for root in graph.root_transform_ids for child in transforms[root].subtransforms]
    ids = sorted(
        {t.environment_id for t in transforms.values() if t.environment_id},
        key=lambda id_: (bool(components.environments[id_].resource_hints), id_),
    )
    hinted = {
        t.unique_name: ids.index(t.environment_id)
        for t in transforms.values()
        if t.environment_id
        and not t.subtransforms
        and components.environments[t.environment_id].resource_hints
    }
    options = environment["sdkPipelineOptions"]
    chosen = {item["key"] for item in options["display_data"]}
    return Plan(
        name=name,
        steps=tuple(transforms[id_].unique_name for id_ in roots),
        environments=tuple(_environment(components.environments[id_]) for id_ in ids),
        hinted=dict(sorted(hinted.items())),
        options={
            key: value
            for key, value in sorted(options["options"].items())
            if key in chosen and key not in UNSHOWN and not key.startswith("experiment")
        },
        experiments=tuple(sorted(environment.get("experiments", ()))),
        service_options=tuple(sorted(environment.get("serviceOptions", ()))),
        staged=dict(sorted(staged.items())),
    )


def _environment(proto: beam_runner_api_pb2.Environment) -> Environment:
    names = {ResourceHint.get_by_urn(urn): urn for urn in proto.resource_hints}
    hints = {
        name: proto.resource_hints[names[hint]].decode()
        for name, hint in sorted(ResourceHint._name_to_known_hints.items())
        if hint in names and name.islower()
    }
    payload = beam_runner_api_pb2.DockerPayload.FromString(proto.payload)
    files = tuple(_staged_name(file) for file in proto.dependencies)
    return Environment(payload.container_image, hints, files)


def _staged_name(file: beam_runner_api_pb2.ArtifactInformation) -> str:
    role = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(file.role_payload)
    return role.staged_name


def staged_files(graph: beam_runner_api_pb2.Pipeline) -> dict[str, int | None]:
    """The files that a graph's environments are to get from this machine: name → bytes."""
    found: dict[str, int | None] = {}
    for environment in graph.components.environments.values():
        for file in environment.dependencies:
            if file.type_urn == common_urns.artifact_types.FILE.urn:
                path = beam_runner_api_pb2.ArtifactFilePayload.FromString(file.type_payload).path
                found[_staged_name(file)] = os.path.getsize(path)
    return found


def describe(plan: Plan, local: Sequence[str] = ()) -> str:
    """A plan, for people.

    Args:
      plan: the job.
      local: flags with paths that workers could not see.
    """
    lines = [f"  job {plan.name}, {len(plan.steps)} steps:"]
    lines += [f"    {step}" for step in plan.steps]
    for number, environment in enumerate(plan.environments):
        hints = ", ".join(f"{name}={value}" for name, value in environment.hints.items())
        lines.append(f"  environment {number}: {environment.image}")
        lines.append(f"    hints: {hints or 'none'}")
        lines.append(f"    installs: {', '.join(environment.files) or 'nothing, it is all there'}")
        lines += [f"    step: {step}" for step, where in plan.hinted.items() if where == number]
    lines.append("  options:")
    lines += [f"    {key}: {value}" for key, value in plan.options.items()]
    lines.append(f"    experiments: {', '.join(plan.experiments)}")
    if plan.service_options:
        lines.append(f"    service options: {', '.join(plan.service_options)}")
    lines.append("  staged files:")
    lines += [f"    {name}: {size:,} bytes" for name, size in plan.staged.items()]
    if local:
        lines.append(f"  would be refused, workers see gs:// only: {' '.join(local)}")
    return "\n".join([*lines, "  --dry_run: nothing was sent"])
