"""Images in <domain>/<class> folders: Office-31, Office-Home, PACS, VisDA, DomainNet, custom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_lightning.data.datamodules.image_files import ImageFilesDataModule
from tl_lightning.data.io.folders import (
    SPLIT_NAMES,
    OnProblem,
    class_folders,
    find_root,
    image_files,
    raise_problem,
    scan_classes,
)
from tl_lightning.data.io.labels import composed_form
from tl_lightning.data.layout import Layout, listed_layout, pooled, read_layout
from tl_lightning.data.named_domains import OTHERS
from tl_lightning.errors import DataError, nearest

__all__ = [
    "DomainFoldersDataModule", "asked_domains", "asked_table_domains", "is_domain",
    "named_or_others", "read_domain", "refuse_shared",
]  # fmt: skip


class DomainFoldersDataModule(ImageFilesDataModule):
    """Domains of one dataset, each a folder of class folders.

    Args:
        folders: Usual names of the dataset folder below ``root``.
        known: Domains of the dataset with alternative names for each; empty to accept any
            folders. Case, spaces and ``_ - .`` in domain names are ignored.
        elsewhere: Where to download the dataset, for the error if it is not found.
        kwargs: See :class:`ImageFilesDataModule`. ``domain`` is a name or a list of names, of the
            source also ``others``: all domains except those of the target.
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

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the requested domain, or several merged into one."""
        root, setting = self.pair.base(domain)
        found = find_root(
            root, self.folders, self._what(), lambda folder: self._accepts(folder, domain),
            setting=setting, otherwise=self._hint(),
        )  # fmt: skip
        folders = {path.name: path for path in class_folders(found)}
        valid = [name for name, path in folders.items() if is_domain(path)]
        asked = named_or_others(domain, node, valid, self.pair.node("target"), self._names)
        names = asked_domains(
            asked, f"data.{domain}.domain", valid, folders, str(found), self._names
        )
        chosen = [folders[name] for name in names]
        if domain == "source":
            self.taken = chosen
        elif shared := [path.name for path in chosen if path in self.taken]:
            refuse_shared(shared[0], [name for name in valid if name not in shared])
        layouts = {path.name: self._layout(domain, path, setting) for path in chosen}
        return "+".join(names), pooled(layouts, self.pair.on_problem, node.get("domain"))

    def _layout(self, domain: str, path: Path, setting: str) -> Layout:
        if domain == "target" and not any(file.is_file() for file in _lists(path).values()):
            found = self.pair.without_labels(path, "data.target.domain")
            if found is not None:
                return found
        return read_domain(path, setting, self.pair.on_problem)

    def _accepts(self, folder: Path, domain: str) -> bool:
        inner = class_folders(folder)
        if self.known:
            spellings = {name for domain in self.known for name in self._names(domain)}
            inner = [path for path in inner if _normalised(path.name) in spellings]
        # The images of a target may be directly in the folder of the domain.
        return any(map(is_domain, inner)) or (domain == "target" and any(map(image_files, inner)))

    def _names(self, folder: str) -> set[str]:
        """Return all normalised names of the domain in a folder of this name."""
        for domain, others in self.known.items():
            spellings = {_normalised(name) for name in (domain, *others)}
            if _normalised(folder) in spellings:
                return spellings
        return {_normalised(folder)}

    def _what(self) -> str:
        domains = ", ".join(self.known)
        return f"{self.name} ({{{domains}}}/<class>/*.jpg)" if domains else "<domain>/<class>/*.jpg"

    def _hint(self) -> str:
        if not self.elsewhere:
            return ""
        folder = Path(self.pair.root) / str(self.name)
        return f"download it from {self.elsewhere} and put its domains in {folder}"


def asked_domains(
    asked: Any,
    setting: str,
    valid: Sequence[str],
    places: Mapping[str, Any],
    where: str,
    names: Callable[[str], set[str]] = lambda name: {_normalised(name)},
    otherwise: str = "",
) -> list[str]:
    """Return the keys of ``places`` that were requested, in the requested order.

    Args:
        asked: A name or a list of names.
        setting: Configuration key of ``asked``, for errors.
        valid: Domains to suggest in errors.
        places: All domains that may be requested.
        where: Folder or table with the domains, for errors.
        names: Returns all normalised names of a domain.
        otherwise: Alternative to suggest if no domain was requested.

    Raises:
        DataError: If no domain was requested, or a name is unknown, ambiguous or repeated.
    """
    wanted = list(asked) if isinstance(asked, list | tuple) else [asked]
    if other := [name for name in wanted if not isinstance(name, str) and asked is not None]:
        raise DataError(
            f"{setting}={asked} contains {other[0]}, which is not a text; put names in quotes, as "
            f"in {setting}: ['01', '1e3'] of a YAML file"
        )
    example = valid[0] if valid else "<name>"
    if asked is None or not wanted:
        raise DataError(
            f"{setting}={'null' if asked is None else asked} selects no domain; {where} contains "
            f"{', '.join(valid)}; set {setting}={_quoted(example)}{otherwise}"
        )
    chosen: list[str] = []
    for name in wanted:
        alike = [place for place in places if _normalised(name) in names(place)]
        match = [name] if name in places else alike
        if len(match) > 1:
            raise DataError(
                f"{setting}={name} is ambiguous: {where} contains {', '.join(match)}; use the "
                f"exact name, or remove the others"
            )
        if not match:
            hint = nearest(name, valid)
            raise DataError(
                f"{setting}={name} is not a domain of {where}, which contains {', '.join(valid)}; "
                + (hint if "did you mean" in hint else f"set {setting}={_quoted(example)}")
            )
        chosen += match
    if len(set(chosen)) < len(chosen):
        repeated = next(name for name in chosen if chosen.count(name) > 1)
        raise DataError(
            f"{setting}=[{','.join(wanted)}] contains the domain {repeated} more than once; "
            "list each domain once"
        )
    return chosen


def named_or_others(
    domain: str,
    node: Mapping[str, Any],
    valid: Sequence[str],
    target: Mapping[str, Any],
    names: Callable[[str], set[str]] = lambda name: {_normalised(name)},
) -> Any:
    """Return the requested domains; for ``source.domain=others`` those that the target is not.

    Args:
        domain: ``source`` or ``target``.
        node: Its settings.
        valid: Names of all domains.
        target: Settings of the target.
        names: Returns all normalised names of a domain.

    Raises:
        DataError: If ``others`` is requested without a domain of the target, or none is left.
    """
    asked = node.get("domain")
    if domain == "target" or asked != OTHERS or OTHERS in valid:
        return asked
    wanted = target.get("domain")
    if not wanted:
        raise DataError(
            "data.source.domain=others means all domains except that of the target, but "
            f"data.target.domain is not set; set data.target.domain={valid[0]}, or list the "
            "domains of the source"
        )
    held_out = {
        _normalised(str(name)) for name in (wanted if isinstance(wanted, list) else [wanted])
    }
    rest = [name for name in valid if not held_out & names(name)]
    if not rest:
        raise DataError(
            f"data.source.domain=others is empty, as data.target.domain={wanted} are all domains; "
            "leave out one of them"
        )
    return rest


def asked_table_domains(
    domain: str,
    asked: Any,
    valid: Sequence[str],
    table: str,
    column: str | Sequence[str] | None,
    source: Sequence[str],
) -> list[str]:
    """Return the domains of a table that are requested for the source or the target.

    Args:
        domain: ``source`` or ``target``.
        asked: Its ``domain`` setting.
        valid: Domains in the table; none if it has no such column.
        table: Path of the table, for errors.
        column: The column's name.
        source: Domains of the source, which the target cannot use.

    Raises:
        DataError: If the request cannot be met.
    """
    setting = f"data.{domain}.domain"
    if not valid:
        if asked is not None:
            raise DataError(
                f"{setting}={asked}, but {table} has no column {column or 'domain'!r}; set "
                f"{setting}=null, or data.columns.domain=<the column's name>"
            )
        return []
    otherwise = ", or data.columns.domain=null to treat all samples as one domain"
    known = dict.fromkeys(valid)
    names = asked_domains(asked, setting, valid, known, table, otherwise=otherwise)
    if shared := [name for name in names if name in source]:
        refuse_shared(shared[0], [name for name in valid if name not in shared])
    return names


def refuse_shared(name: str, others: Sequence[str]) -> None:
    """Raise DataError for a domain that is both source and target."""
    example = _quoted(others[0]) if others else "<another>"
    raise DataError(
        f"the domain {name} is in both data.source.domain and data.target.domain; set "
        f"data.target.domain={example}, or data.target=null for no target"
    )


def read_domain(
    path: Path, setting: str = "data.root", on_problem: OnProblem = raise_problem
) -> Layout:
    """Read a domain by its lists, or as ``images/<class>``, ``<split>/<class>`` or ``<class>``.

    Raises:
        DataError: If no class folders are found or a list cannot be read; recoverable problems
            are passed to ``on_problem``.
    """
    lists = _lists(path)
    present = [file for file in lists.values() if file.is_file()]
    if len(present) == 2:
        return _listed(path, lists, setting, on_problem)
    if present:
        missing = next(file for file in lists.values() if file not in present)
        on_problem(
            f"found {present[0]}, but not {missing.name}; add it to use the official split, or "
            f"remove {present[0].name} to split by a hash of the names"
        )
    inner = path / "images"
    # A class may be named "images" as well; it then contains files, not folders.
    return read_layout(inner if class_folders(inner) else path, setting, on_problem)


def _lists(path: Path) -> dict[str, Path]:
    """Return where the lists of a domain would be."""
    return {split: path.parent / f"{path.name}_{split}.txt" for split in ("train", "test")}


def _listed(path: Path, lists: Mapping[str, Path], setting: str, on_problem: OnProblem) -> Layout:
    scanned = scan_classes(path, setting=setting, on_problem=on_problem)
    available = {
        f"{path.name}/{file.parent.name}/{file.name}": (name, file)
        for name, files in scanned.items()
        for file in files
    }
    advice = (
        f"extract {path.name} again, remove the lists to split by a hash of the names, or set "
        f"{setting}=/another/folder"
    )
    names = {file: _read_list(file) for file in lists.values()}
    return listed_layout(path, available, names, on_problem, where=path, advice=advice)


def _read_list(path: Path) -> list[str]:
    """Return the paths in a list with lines ``<domain>/<class>/<image>.jpg <number>``."""
    names = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path}: {error}; download it again") from error
    for number, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(" ")
        if line.strip() and not (name.count("/") == 2 and label.isdigit()):
            raise DataError(
                f"line {number} of the list {path} is {line.strip()!r}, not "
                "<domain>/<class>/<image>.jpg <number>; download the list again, or remove it"
            )
        if line.strip():
            names.append(name)
    return names


def is_domain(folder: Path) -> bool:
    """Return whether a folder has class folders with files, directly or in images/, train/, ..."""
    inner = class_folders(folder)
    deeper = [
        subfolder
        for path in inner
        if path.name.lower() in {"images", *SPLIT_NAMES}
        for subfolder in class_folders(path)
    ]
    return any(any(file.is_file() for file in path.iterdir()) for path in (*inner, *deeper))


def _normalised(name: str) -> str:
    """Return a name normalised for comparison.

    >>> _normalised("Real World") == _normalised("real_world") == _normalised("RealWorld")
    True
    """
    return "".join(letter for letter in composed_form(name).lower() if letter not in " _-.")


def _quoted(name: str) -> str:
    """Return a name quoted for the command line if necessary.

    >>> _quoted("photo"), _quoted("Real World")
    ('photo', '"Real World"')
    """
    return f'"{name}"' if " " in name else name
