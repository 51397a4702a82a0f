"""Stanford Dogs: 120 breeds, and a second domain of the same breeds, real or synthetic.

A. Khosla, N. Jayadevaprakash, B. Yao and L. Fei-Fei, "Novel Dataset for Fine-Grained Image
Categorization", First Workshop on Fine-Grained Visual Categorization, CVPR 2011. The pictures are
from ImageNet, and all of them from its training set: ImageNet backbones have seen them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tl_lightning.data.base import TransferData
from tl_lightning.data.dataset import Domain
from tl_lightning.data.download import download, extract
from tl_lightning.data.folder import check_signatures, class_folders, find_root, scan_classes
from tl_lightning.data.layout import Layout, read_layout, split_of
from tl_lightning.data.shift import SyntheticShift
from tl_lightning.errors import DataError, nearest

__all__ = ["Dogs", "fetch", "read_dogs"]

URL = "http://vision.stanford.edu/aditya86/ImageNetDogs"
# Lengths and SHA-256 as TensorFlow Datasets records them for its `stanford_dogs`.
ARCHIVES = {
    "lists.tar": (481_280, "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c"),
    "images.tar": (793_579_520, "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58"),
}
ELSEWHERE = "another mirror of Stanford Dogs (its images.tar and lists.tar)"
SHIFT_KEYS = {"blur", "brightness", "saturation", "tint", "noise", "seed"}
FOLDERS = ("dogs", "stanford_dogs", "StanfordDogs", "stanford-dogs")
WHAT = (
    "Stanford Dogs (Images/<class>/*.jpg with or without train_list.mat and test_list.mat, "
    "or train/<class>/*.jpg with or without val/ and test/)"
)


class Dogs(TransferData):
    """Stanford Dogs to another domain of the same breeds.

    With ``target.root`` null the target is synthetic: of every class's training pictures the
    source has one half and the target the other, disjoint one under :class:`SyntheticShift`; the
    target's test pictures are the test pictures under the same shift.

    Args:
        root: The dataset's folder or the one above it.
        download: Whether to fetch the official archives (757 MB) if ``root`` does not hold it.
        val_fraction: Share of the training pictures held out for validation, where the folder
            has no ``val/``.
        source: ``{root}``: another folder than ``root`` for the source, or null.
        target: ``{root, shift}``: a real folder of the same classes, or null and the arguments of
            :class:`SyntheticShift`; or None for no target.
        kwargs: As in :class:`TransferData`.
    """

    def __init__(
        self,
        *,
        root: str,
        download: bool,
        val_fraction: float,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _only("data.source", source, {"root"})
        _only("data.target", target or {}, {"root", "shift"})
        self.root = root
        self.download = download
        self.val_fraction = val_fraction
        self.source = source
        self.target = target

    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, unless ``target`` is None, the target."""
        root, layout = self._read_source()
        if self.target is None:
            return {"source": self._domain("dogs", layout)}
        if self.target.get("root") is not None:
            target_root, target = self._read_target(layout.classes)
            if target_root.resolve() == root.resolve():
                raise DataError(
                    f"data.target.root={self.target['root']} is the source's own folder {root}: "
                    "both domains would hold the same pictures; type another folder, or "
                    "data.target.root=null for a synthetic shift"
                )
            domain = self._domain(target_root.name, target)
            return {"source": self._domain("dogs", layout), "target": domain}
        return self._synthetic(layout, self.target.get("shift"))

    def _read_source(self) -> tuple[Path, Layout]:
        own = self.source.get("root")
        root, setting = (self.root, "data.root") if own is None else (own, "data.source.root")
        try:
            found = find_root(
                root,
                FOLDERS,
                WHAT,
                _is_dataset,
                setting=setting,
                otherwise="data.download=true to fetch 757 MB",
            )
        except DataError:
            if not self.download:
                raise
            found = fetch(Path(root).expanduser() / "stanford_dogs")
        return found, read_dogs(found, setting)

    def _read_target(self, classes: tuple[str, ...]) -> tuple[Path, Layout]:
        assert self.target is not None
        setting = "data.target.root"
        what = f"{WHAT[:-1]}, or <class>/*.jpg)"
        found = find_root(self.target["root"], FOLDERS, what, _is_any, setting=setting)
        return found, read_dogs(found, setting).renumbered(classes, setting)

    def _synthetic(self, layout: Layout, arguments: Any) -> Mapping[str, Domain]:
        if arguments is None:
            raise DataError(
                "data.target.root and data.target.shift are both null: the target would look "
                "exactly like the source; type data.target.root=/a/folder, give data.target.shift "
                "its keys, or type data.target=null for no target"
            )
        _only("data.target.shift", arguments, SHIFT_KEYS, every=True)
        shift = SyntheticShift(**arguments)
        first, second = layout.with_test().halves()
        source = self._domain("dogs", first)
        target = self._domain("dogs_synthetic", second)
        note = (
            f"{shift.describe()}; not a real domain: source and target train on disjoint halves of "
            f"every class, and the target's test pictures are the source's under the shift"
        )
        changed = {
            split: replace(getattr(target, split), change=shift)
            for split in ("train", "val", "test")
        }
        note = "; ".join(part for part in (note, target.note) if part)
        return {"source": source, "target": replace(target, note=note, **changed)}

    def _domain(self, name: str, layout: Layout) -> Domain:
        train, val, test, note = layout.splits(self.val_fraction)
        return Domain(name, layout.classes, train, val, test, note)


def fetch(root: Path) -> Path:
    """Download the official archives into ``root`` and unpack them there (if not done yet)."""
    # The lists come first: Images/ without them would be split in another way.
    for archive, inside, folder in (("lists.tar", "", "lists"), ("images.tar", "Images", "Images")):
        if not (root / folder).is_dir():
            size, digest = ARCHIVES[archive]
            path = download(
                f"{URL}/{archive}",
                root / archive,
                checksum=f"sha256:{digest}",
                size=size,
                elsewhere=ELSEWHERE,
            )
            extract(path, root / folder, inside=inside)
    return root


def read_dogs(root: Path, setting: str = "data.root") -> Layout:
    """Read the classes and splits of a folder of dogs, in any of the layouts accepted.

    Raises:
        DataError: If classes are missing or empty, the splits' classes differ, the official lists
            name absent pictures, or a file is not a picture.
    """
    official = (root / "Images").is_dir()
    layout = _read_official(root, setting) if official else read_layout(root, setting)
    check_signatures(layout.paths(), setting=setting)
    return layout


def _read_official(root: Path, setting: str) -> Layout:
    scanned = scan_classes(root / "Images", setting=setting)
    classes = tuple(scanned)
    lists = next((d for d in (root / "lists", root) if (d / "train_list.mat").is_file()), None)
    if lists is None:
        return Layout(classes, split_of(root, classes, scanned), None, None)
    there = {f"{name}/{path.name}": path for name, paths in scanned.items() for path in paths}
    splits = []
    for split in ("train", "test"):
        listed = _read_list(lists / f"{split}_list.mat", setting)
        absent = [name for name in listed if name not in there]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(listed)} pictures of {lists / f'{split}_list.mat'} are not "
                f"in {root / 'Images'}: {', '.join(absent[:5])}; unpack images.tar again, or "
                f"remove the lists for a split by hash, or type {setting}=/another/folder"
            )
        members: dict[str, list[Path]] = {name: [] for name in classes}
        for name in sorted(listed):
            members[name.split("/")[0]].append(there[name])
        splits.append(split_of(root, classes, members))
    return Layout(classes, splits[0], None, splits[1])


def _read_list(path: Path, setting: str) -> list[str]:
    from scipy.io import loadmat

    try:
        return [str(entry[0][0]) for entry in loadmat(path)["file_list"]]
    except (OSError, KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise DataError(
            f"cannot read the official list {path}: {error}; unpack lists.tar again, or type "
            f"{setting}=/another/folder"
        ) from error


def _is_dataset(folder: Path) -> bool:
    return any(len(class_folders(folder / name)) > 0 for name in ("Images", "train"))


def _is_any(folder: Path) -> bool:
    """Accept plain class folders too, unless one of them is a dataset of its own."""
    inner = class_folders(folder)
    return _is_dataset(folder) or (len(inner) > 1 and not any(map(_is_dataset, inner)))


def _only(key: str, given: Mapping[str, Any], known: set[str], every: bool = False) -> None:
    for name in given:
        if name not in known:
            raise DataError(f"{key} has no key {name!r}; {nearest(str(name), known)}")
    lacking = sorted(known - set(given))
    if every and lacking:
        raise DataError(f"{key} lacks {', '.join(lacking)}; type {key}.{lacking[0]}=<value>")
