"""Loads what the stages of a process need, while another process mines: TensorFlow, networks."""

import importlib
from collections.abc import Iterable, Sequence

from beam_jobs import embed_images, job, worker_options
from model_code import inference_settings
from transforms import models


def preload(argv: Sequence[str], modules: Iterable[str]) -> None:
    """Loads the image networks where this process is to run them.

    Args:
      argv: the command line of embed_images.
      modules: those of all stages, to import.

    Raises:
      PhraseLensError: flags, models or the device are wrong.
    """
    the_job = embed_images.JOB
    config, options = job.parse(the_job.name, the_job.config, the_job.doc, argv, True)
    if not worker_options.in_this_process(options):
        return
    settings = inference_settings.of_config(worker_options.fit(config, options))
    folders = [models.ModelFolder.of(path) for path in (config.generator, config.pixel_embedder)]
    models.load("image_embedder", *folders, settings=settings)
    for module in modules:
        importlib.import_module(module)
