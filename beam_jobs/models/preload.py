"""Loads what the stages of a process need, while another process mines: TensorFlow, networks."""

import gc
import importlib
from collections.abc import Iterable, Sequence

from beam_jobs.frame import job, parsing, worker_options
from beam_jobs.models import embed_images, embed_phrases
from model_code.runtime import settings as inference_settings
from model_code.runtime.settings import EmbeddingSettings
from transforms.inference import batches as inference
from transforms.inference import folders as models


def preload(phrases: Sequence[str], images: Sequence[str], modules: Iterable[str]) -> None:
    """Loads the image networks, where this process is to run them and its stages agree on how.

    Args:
      phrases, images: the command lines of embed_phrases and embed_images.
      modules: those of all stages, to import.

    Raises:
      PhraseLensError: flags, models or the device are wrong.
    """
    settings, config = _settings(embed_images.JOB, images)
    others, _ = _settings(embed_phrases.JOB, phrases)
    if settings is None or others is None or _how(settings) != _how(others):
        return
    folders = [models.ModelFolder.of(path) for path in (config.generator, config.pixel_embedder)]
    models.load(inference.image_embedder, *folders, settings=settings)
    for module in modules:
        importlib.import_module(module)
    # All this stays: later collections need not look at it.
    gc.freeze()


def _settings(of: job.Job, argv: Sequence[str]):
    """On what and how the networks of a job run, None where not in this process; and its config."""
    config, options = parsing.parse(of.name, of.config, of.doc, argv, of.runs_networks)
    if not worker_options.in_this_process(options):
        return None, config
    return inference_settings.of_config(worker_options.fit(config, options)), config


def _how(settings: EmbeddingSettings) -> tuple[str, int, str]:
    """What the first stage of a process that uses TensorFlow decides for all of them."""
    return settings.device, settings.tf_threads, settings.precision
