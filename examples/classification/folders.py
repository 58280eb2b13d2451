"""Images by class, as a folder of folders holds them, and what is wrong with one that does not."""

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
SHORTER = 1.15  # the shorter side of an image in sides of the square that is cut from it


class Folders(torch.utils.data.Dataset):
    """The images of a folder of folders, one a class; to be trained on, they are cut at random and every other is mirrored.

    Raises:
        SystemExit: there are fewer than two such folders, or no files in them; or a file is no image, when it is looked at.
    """

    def __init__(self, folder, size, limit=None, varied=False):
        self.classes = sorted(path.name for path in _visible(folder) if path.is_dir())
        if len(self.classes) < 2:
            has = f"has {self.classes[0]} alone" if self.classes else "has none"
            raise SystemExit(
                f"{folder} {has}: it has to have a folder of images for each class, of which there are two or more"
            )
        found = [(path, label) for label, name in enumerate(self.classes) for path in _visible(folder / name)]
        if not found:
            raise SystemExit(f"{folder} has no images in its folders {', '.join(self.classes)}")
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
        self.found, self.size, self.varied = [found[place] for place in order[:limit]], size, varied

    def __len__(self):
        return len(self.found)

    def __getitem__(self, position):
        path, label = self.found[position]
        try:
            image = Image.open(path).convert("RGB")
        except UnidentifiedImageError:
            raise SystemExit(f"{path} is no image: take it out of the folder") from None
        scale = SHORTER * self.size / min(image.size)
        image = image.resize([max(self.size, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
        room = [side - self.size for side in image.size]
        left, top = (int(torch.randint(free + 1, ())) if self.varied else free // 2 for free in room)
        pixels = np.asarray(image.crop((left, top, left + self.size, top + self.size)), np.float32) / 255
        pixels = torch.from_numpy((pixels - MEAN) / DEVIATION).permute(2, 0, 1)
        return pixels.flip(2) if self.varied and torch.rand(()) < 0.5 else pixels, label


def _visible(folder):
    """What is in `folder`, but for files that systems put there for themselves."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
