"""PASCAL VOC's annotations, an XML file for each image, as COCO's.

A folder has `JPEGImages`, `Annotations` and `ImageSets/Main`, whose files list the names of images, one a line.
"""

from xml.etree import ElementTree


def as_coco(listed):
    """What COCO would say of the images in the list `listed`, a file in `ImageSets/Main`.

    Categories are numbered by name, of all images of the folder, so that every list has the same. VOC counts pixels from 1,
    and a box ends with its last one. What it calls difficult is neither trained on nor missed, as what COCO calls a crowd.
    """
    folder = listed.parents[2] / "Annotations"
    files = {path.stem: ElementTree.parse(path) for path in sorted(folder.glob("*.xml"))}
    kinds = sorted({one.findtext("name") for file in files.values() for one in file.iterfind("object")})
    said = {"images": [], "annotations": [], "categories": [{"id": i, "name": name} for i, name in enumerate(kinds, 1)]}
    for number, line in enumerate(filter(str.strip, listed.read_text().splitlines())):
        file = files[line.split()[0]]
        width, height = (int(file.findtext(f"size/{side}")) for side in ("width", "height"))
        name = f"JPEGImages/{file.findtext('filename')}"
        said["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        for one in file.iterfind("object"):
            sides = ("xmin", "ymin", "xmax", "ymax")
            left, top, right, bottom = (float(one.findtext(f"bndbox/{side}")) for side in sides)
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            said["annotations"].append(
                {
                    "id": len(said["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1 + kinds.index(one.findtext("name")),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(one.findtext("difficult", "0")),
                }
            )
    return said
