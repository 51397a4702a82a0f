"""Folders domain/class/picture: Office-31, Office-Home, PACS, VisDA, DomainNet and one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.data.datamodules.image_files import FileData
from tl_lightning.data.io.folders import Complain, class_folders, find_root, refuse, scan_classes
from tl_lightning.data.layout import Layout, pooled, read_layout, split_of
from tl_lightning.errors import DataError, nearest

__all__ = ["DomainFolders", "asked_domains", "is_domain", "read_domain", "refuse_shared"]


class DomainFolders(FileData):
    """Domains of one data set, each a folder of class folders; any of them to any other.

    Args:
        folders: Names that the data set's folder may have below ``root``.
        known: The data set's domains, each with other names for it; empty for any folders.
            Capitals, spaces and ``_ - .`` in a domain's name make no difference.
        elsewhere: Where the data set is to be had, for the error when it is not found.
        kwargs: As in :class:`FileData`. ``domain`` is a name or a list of several.
    """

    has_domains = True

    def __init__(
        self,
        *,
        folders: Sequence[str],
        known: Mapping[str, Sequence[str]],
        elsewhere: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folders = folders
        self.known = known
        self.elsewhere = elsewhere
        self.taken: list[Path] = []

    def read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the asked domain, or several as one."""
        root, setting = self.base(role, node)
        found = find_root(
            root, self.folders, self._what(), self._accepts, setting=setting, otherwise=self._way()
        )
        places = {path.name: path for path in class_folders(found)}
        valid = [name for name, path in places.items() if is_domain(path)]
        names = asked_domains(
            node.get("domain"), f"data.{role}.domain", valid, places, str(found), self._names
        )
        chosen = [places[name] for name in names]
        if role == "source":
            self.taken = chosen
        elif shared := [path.name for path in chosen if path in self.taken]:
            refuse_shared(shared[0], [name for name in valid if name not in shared])
        layouts = {path.name: read_domain(path, setting, self.complain) for path in chosen}
        return "+".join(names), pooled(layouts, self.complain)

    def _accepts(self, folder: Path) -> bool:
        inner = class_folders(folder)
        if self.known:
            spellings = {name for domain in self.known for name in self._names(domain)}
            inner = [path for path in inner if _plain(path.name) in spellings]
        return any(map(is_domain, inner))

    def _names(self, folder: str) -> set[str]:
        """Return all names, spelled plainly, of the domain in a folder of this name."""
        for domain, others in self.known.items():
            spellings = {_plain(name) for name in (domain, *others)}
            if _plain(folder) in spellings:
                return spellings
        return {_plain(folder)}

    def _what(self) -> str:
        domains = ", ".join(self.known)
        return f"{self.name} ({{{domains}}}/<class>/*.jpg)" if domains else "<domain>/<class>/*.jpg"

    def _way(self) -> str:
        if not self.elsewhere:
            return ""
        place = Path(self.root) / str(self.name)
        return f"get it from {self.elsewhere} and put its domains in {place}"


def asked_domains(
    asked: Any,
    setting: str,
    valid: Sequence[str],
    places: Mapping[str, Any],
    where: str,
    names: Callable[[str], set[str]] = lambda name: {_plain(name)},
    otherwise: str = "",
) -> list[str]:
    """Return which of ``places`` were asked for, in the order asked.

    Args:
        asked: A name or a list of several.
        setting: The key that it came from, for the errors.
        valid: The domains to propose.
        places: What may be asked for.
        where: What holds the domains, for the errors.
        names: All names of a domain, spelled plainly.
        otherwise: Another way out where nothing was asked for.

    Raises:
        DataError: If nothing was asked for, or a name is unknown or there twice.
    """
    wanted = [str(name) for name in (asked if isinstance(asked, list | tuple) else [asked])]
    example = valid[0] if valid else "<name>"
    if asked is None or not wanted:
        raise DataError(
            f"{setting}={'null' if asked is None else asked} names no domain; {where} holds "
            f"{', '.join(valid)}; type {setting}={_quoted(example)}{otherwise}"
        )
    chosen = []
    for name in wanted:
        alike = [place for place in places if _plain(name) in names(place)]
        match = [name] if name in places else alike
        if len(match) > 1:
            raise DataError(
                f"{setting}={name} may be any of {', '.join(match)} in {where}; type its name as "
                f"it stands there, or remove the others"
            )
        if not match:
            hint = nearest(name, valid)
            raise DataError(
                f"{setting}={name} is no domain in {where}, which holds {', '.join(valid)}; "
                + (hint if "did you mean" in hint else f"type {setting}={_quoted(example)}")
            )
        chosen += match
    if len(set(chosen)) < len(chosen):
        twice = next(name for name in chosen if chosen.count(name) > 1)
        raise DataError(
            f"{setting}=[{','.join(wanted)}] names the domain {twice} twice; type each once"
        )
    return chosen


def refuse_shared(name: str, others: Sequence[str]) -> None:
    """Refuse a domain that is source and target.

    Raises:
        DataError: Always.
    """
    example = _quoted(others[0]) if others else "<another>"
    raise DataError(
        f"the domain {name} is in data.source.domain and in data.target.domain: the same pictures "
        f"in both domains; type data.target.domain={example}, or data.target=null for no target"
    )


def read_domain(path: Path, setting: str = "data.root", complain: Complain = refuse) -> Layout:
    """Read one domain: by its lists beside it, as ``images/<class>``, with splits, or plain.

    Raises:
        DataError: If there are no class folders or a list cannot be read; ``complain`` decides on
            lesser faults.
    """
    lists = {split: path.parent / f"{path.name}_{split}.txt" for split in ("train", "test")}
    there = [file for file in lists.values() if file.is_file()]
    if len(there) == 2:
        return _listed(path, lists, setting, complain)
    if there:
        lacking = next(file for file in lists.values() if file not in there)
        complain(
            f"{there[0]} is there, but not {lacking.name}; add it for the official split, or "
            f"remove {there[0].name} for a split by hash"
        )
    inner = path / "images"
    # A class may be named so too: then it holds pictures, not folders.
    return read_layout(inner if class_folders(inner) else path, setting, complain)


def _listed(path: Path, lists: Mapping[str, Path], setting: str, complain: Complain) -> Layout:
    scanned = scan_classes(path, setting=setting, complain=complain)
    there = {
        f"{path.name}/{name}/{file.name}": (name, file)
        for name, files in scanned.items()
        for file in files
    }
    splits = []
    seen: set[str] = set()
    for file in lists.values():
        listed = _read_list(file)
        absent = [name for name in listed if name not in there]
        if absent:
            complain(
                f"{len(absent)} of {len(listed)} pictures of {file} are not in {path}: "
                f"{', '.join(absent[:5])}; unpack {path.name} again, or remove the lists for a "
                f"split by hash, or type {setting}=/another/folder"
            )
        both = [name for name in listed if name in seen]
        if both:
            complain(
                f"{len(both)} pictures of {file} are in {lists['train'].name} too: "
                f"{', '.join(both[:5])}; remove them from one of the lists"
            )
        members: dict[str, list[Path]] = {name: [] for name in scanned}
        for name in sorted(set(listed) - set(absent) - seen):
            members[there[name][0]].append(there[name][1])
        seen |= set(listed)
        splits.append(split_of(path, tuple(scanned), members))
    return Layout(tuple(scanned), splits[0], None, splits[1])


def _read_list(path: Path) -> list[str]:
    """Return the paths of a list ``domain/class/picture.jpg number``; the folder is the class."""
    names = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the official list {path}: {error}; get it again") from error
    for number, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(" ")
        if line.strip() and not (name.count("/") == 2 and label.isdigit()):
            raise DataError(
                f"line {number} of the official list {path} is {line.strip()!r}, not "
                "<domain>/<class>/<picture>.jpg <number>; get the list again, or remove it"
            )
        if line.strip():
            names.append(name)
    return names


def is_domain(folder: Path) -> bool:
    """Return whether pictures stand in class folders in there (or in images/ or train/)."""
    inner = class_folders(folder)
    deeper = [
        place
        for path in inner
        if path.name in ("images", "train", "val", "test")
        for place in class_folders(path)
    ]
    return any(any(file.is_file() for file in path.iterdir()) for path in (*inner, *deeper))


def _plain(name: str) -> str:
    """Return a name without what spellings differ in.

    >>> _plain("Real World") == _plain("real_world") == _plain("RealWorld")
    True
    """
    return "".join(letter for letter in name.lower() if letter not in " _-.")


def _quoted(name: str) -> str:
    """Return a name as a shell takes it after ``key=``.

    >>> _quoted("photo"), _quoted("Real World")
    ('photo', '"Real World"')
    """
    return f'"{name}"' if " " in name else name
