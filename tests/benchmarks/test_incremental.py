"""What a day costs is measured by the real commands."""

import re

import pytest

from benchmarks.runs import incremental


@pytest.mark.slow
def test_a_day_without_new_images_embeds_none(tmp_path, capfd):
    flags = ["--images=600", "--added=0", "--days=1", "--image_size=48", "--num_shards=1"]
    network = ["--backbone=small_resnet", "--network_size=32"]
    assert incremental.run([f"--workdir={tmp_path}", *flags, *network]) == 0
    printed = capfd.readouterr().out
    found = dict(re.findall(r"^\| (\w+) \| (.+) \|$", printed, re.MULTILINE))
    stages = ["mine_pairs", "embed_phrases", "embed_images", "export_model"]
    assert set(found) >= {*stages, "classify_images", "all"}
    _, all_images, _, new, known, *_ = found["embed_images"].split(" | ")
    assert (new, known) == ("0", all_images)
