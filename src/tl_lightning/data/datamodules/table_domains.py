"""Domains given by a column of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tl_lightning.data.datamodules.domain_folders import asked_domains, refuse_shared
from tl_lightning.errors import DataError

__all__ = ["TableDomains"]


class TableDomains:
    """Mixin that resolves the requested domains of a data module based on a table."""

    table: str | None
    columns: dict[str, str | None]
    #: Domains of the source, which the target cannot use.
    taken: list[str]

    def _asked(self, role: str, node: Mapping[str, Any], valid: Sequence[str]) -> list[str]:
        asked, setting = node.get("domain"), f"data.{role}.domain"
        if not valid:
            if asked is not None:
                raise DataError(
                    f"{setting}={asked}, but {self.table} has no column "
                    f"{self.columns['domain'] or 'domain'!r}; set {setting}=null, or "
                    "data.columns.domain=<the column's name>"
                )
            return []
        otherwise = ", or data.columns.domain=null to treat all samples as one domain"
        known = dict.fromkeys(valid)
        names = asked_domains(asked, setting, valid, known, str(self.table), otherwise=otherwise)
        if role == "source":
            self.taken = names
        elif shared := [name for name in names if name in self.taken]:
            refuse_shared(shared[0], [name for name in valid if name not in shared])
        return names
