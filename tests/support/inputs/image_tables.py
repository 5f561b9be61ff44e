"""Images in tables and tar files, written and read as units."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.images.plan import plan_images
from transforms.images.readers import read_unit
from transforms.images.units import IMAGE_FIELDS
from transforms.rows.tabular import BadRows

MAPPING = {field: field for field in IMAGE_FIELDS}


def read(paths, format_="auto", mapping=MAPPING):
    units = plan_images("images", paths, format_, mapping, "stem").units
    rows, bad = [], []
    for unit in units:
        for batch in read_unit(unit):
            if isinstance(batch, BadRows):
                bad += [(batch.reason, detail) for detail in batch.details]
            else:
                rows += [(row["key"], row["image"]) for row in batch.to_pylist()]
    return rows, bad


def write_tar(path, files):
    with tarfile.open(path, "w:gz" if str(path).endswith("gz") else "w") as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return str(path)


def write_parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)
