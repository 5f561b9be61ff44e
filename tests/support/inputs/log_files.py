"""Click logs and captions in the layouts that public data sets have, as the bytes of files."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

CLICKTURE = b"""bgQg0sM1x5JtYA\tred shoes\t12
bgQg0sM1x5JtYA\tshoes "size 6\t1
c81RffVaZqgk7A\thalf dome\t3
"""
CONVERSIONS = b"\t".join(
    b"converted_at conversion_type keyword photo_id anonymous_user_id conversion_country".split()
)
CONVERSIONS += b"""
2020-02-28 09:33:51.412\tdownload\tmountain\t4IDqcNj827I\tf0f3a1c8\tUS
2020-02-28 09:34:02.001\tdownload\t"the ""big"" one"\tXMyPniM9LF0\tf0f3a1c8\tDE
"""
KEYWORDS = b"\t".join(
    b"photo_id keyword ai_service_1_confidence ai_service_2_confidence suggested_by_user".split()
)
KEYWORDS += b"""
4IDqcNj827I\tmountain\t99.5\t\tf
4IDqcNj827I\tpeak\t\t\tt
"""
PHOTOS = b"photo_id\tphoto_url\tphoto_image_url\nXMyPniM9LF0\thttps://u/p\thttps://u/i\n"
WIT_COLUMNS = (
    "language",
    "page_url",
    "image_url",
    "page_title",
    "section_title",
    "hierarchical_section_title",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "mime_type",
    "original_height",
    "original_width",
    "is_main_image",
    "attribution_passes_lang_id",
    "page_changed_recently",
    "context_page_description",
    "context_section_description",
)


def wit(*rows):
    lines = ["\t".join(WIT_COLUMNS)]
    lines += ["\t".join(row.get(name, "") for name in WIT_COLUMNS) for row in rows]
    return ("\n".join(lines) + "\n").encode()


WIT = wit(
    {
        "language": "en",
        "image_url": "https://w/a.jpg",
        "page_title": "Half Dome",
        "caption_reference_description": '"Half Dome, ""seen"" from\nGlacier Point"',
        "is_main_image": "true",
    },
    {
        "language": "de",
        "image_url": "https://w/b.jpg",
        "page_title": "Berge",
        "caption_alt_text_description": "Gipfel",
        "is_main_image": "false",
    },
    {"language": "fr", "image_url": "https://w/c.jpg", "is_main_image": "false"},
)
CAPTIONS = b'a very "typical" bus station\thttp://lh6.g.com/bus.jpg\nsun\thttps://p.com/s.jpg\n'
COCO = {
    "info": {"year": 2017},
    "images": [
        {"id": 391895, "file_name": "000000391895.jpg", "width": 640},
        {"id": 7, "file_name": "val2017/000000000007.png"},
    ],
    "annotations": [
        {"image_id": 391895, "id": 1, "caption": "A man on a moped."},
        {"image_id": 7, "id": 2, "caption": "Ein Gepäckträger"},
        {"image_id": 8, "id": 3, "caption": "of no image"},
        {"image_id": 7, "id": 4},
    ],
}
WEBVISION = b"""google/q0001/SlPnqBN.jpg 0
flickr/q0012/4231.8.jpeg 3
google/q0002/x.jpg 0
lost.jpg 0
google/q0001/y.jpg 0
google/q0001/z.jpg 0
"""
QUERIES = {
    "queries_google.txt": b"1 tench\n2 Tinca tinca\n12 hen\n",
    "queries_flickr.txt": b"1 tench fish\n12 hen bird\n",
}
OPEN_IMAGES = b"""ImageID,Source,LabelName,Confidence
000002b66c9c498e,verification,/m/014l8n,0
000002b66c9c498e,machine,/m/02wvth,0.7
000002b97e5471a0,verification,/m/019_nn,1
000002b97e5471a0,verification,/m/nobody,1
"""
CLASSES = b'/m/014l8n,Box\n/m/02wvth,"Fiat 500 ""topolino"""\n/m/019_nn,Sp\xc3\xa4tzle\n'


def parquet(**columns):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


def tar(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


IMG2DATASET = parquet(
    url=["http://a", "http://b"],
    caption=["red shoe", "lost"],
    key=["000000000", "000000001"],
    status=["success", "failed_to_download"],
)
TAR = tar(
    **{
        "000000000.jpg": b"jpeg",
        "000000000.txt": b"red shoe",
        "000000000.json": b'{"caption": "from json"}',
        "d/1.json": json.dumps({"caption": "blue \ud83d\ude00"}).encode(),
        "000000002.jpg": b"jpeg",
        "000000003.json": b"[1]",
        "000000004.json": b'{"caption": null}',
    }
)
