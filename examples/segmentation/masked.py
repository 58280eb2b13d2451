"""Images with masks, as a folder holds them, and what is wrong with those that do not fit together."""

import numpy as np
import torch
from PIL import Image

NOTHING = 255
LOOKED_AT = 50
"""Masks that tell whether there is a class but the background."""
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


class Masked(torch.utils.data.Dataset):
    """The pairs of a folder's `images` and `masks`; every other look at one is mirrored where it is to be trained on.

    Raises:
        SystemExit: a folder is missing, a mask has no image, no mask a class but 0; or one, when it is looked at, another size
            or other classes.
    """

    def __init__(self, folder, classes, limit=None, mirrored=False):
        self.classes, self.mirrored = classes, mirrored
        if missing := [folder / name for name in ("images", "masks") if not (folder / name).is_dir()]:
            raise SystemExit(f"{missing[0]} is no folder: {folder} has to hold images and masks")
        self.masks = sorted(path for path in (folder / "masks").iterdir() if not path.name.startswith("."))[:limit]
        by_name = {path.stem: path for path in (folder / "images").iterdir()}
        if alone := [path.name for path in self.masks if path.stem not in by_name]:
            raise SystemExit(
                f"{folder}: images has none for {len(alone)} of masks, as for {alone[0]}: the names have to be the same"
            )
        if not self.masks:
            raise SystemExit(f"{folder / 'masks'} has no files")
        self.images = [by_name[path.stem] for path in self.masks]
        held = {int(one) for path in self.masks[:LOOKED_AT] for one in np.unique(np.array(Image.open(path)))}
        if held == {0, NOTHING}:
            raise SystemExit(
                f"{folder / 'masks'} hold 0 and {NOTHING} alone, which is where there is no class: write 1 for the second"
            )

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, position):
        pixels = np.array(Image.open(self.images[position]).convert("RGB")) / np.float32(255)
        image, mask = torch.from_numpy((pixels - MEAN) / DEVIATION).permute(2, 0, 1), self._mask(position, pixels.shape[:2])
        return (image.flip(2), mask.flip(1)) if self.mirrored and torch.rand(()) < 0.5 else (image, mask)

    def _mask(self, position, shape):
        found, path = np.array(Image.open(self.masks[position])), self.masks[position]
        if found.ndim != 2:
            raise SystemExit(
                f"{path} is a picture of {found.shape[-1]} colours: a mask has one number a pixel, its class (PNG's L or P)"
            )
        if found.shape != shape:
            raise SystemExit(
                f"{path} has {found.shape[1]} x {found.shape[0]} pixels, and {self.images[position]} {shape[1]} x {shape[0]}"
            )
        held = np.unique(found)
        if (beyond := held[(held >= self.classes) & (held != NOTHING)]).size:
            raise SystemExit(f"{path} has class {beyond[0]}, beyond the {self.classes} of --classes, 0 to {self.classes - 1}")
        return torch.from_numpy(found).long()
