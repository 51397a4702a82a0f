"""Domains that a column of a table names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tl_lightning.data.datamodules.domain_folders import asked_domains, refuse_shared
from tl_lightning.errors import DataError

__all__ = ["TableDomains"]


class TableDomains:
    """The part of a data module of tables that knows which domain was asked for."""

    table: str | None
    columns: dict[str, str | None]
    #: The source's domains, which cannot be the target's too.
    taken: list[str]

    def _asked(self, role: str, node: Mapping[str, Any], valid: Sequence[str]) -> list[str]:
        asked, setting = node.get("domain"), f"data.{role}.domain"
        if not valid:
            if asked is not None:
                raise DataError(
                    f"{setting}={asked}, but {self.table} has no column "
                    f"{self.columns['domain'] or 'domain'!r}; type {setting}=null, or "
                    "data.columns.domain=<the column's name>"
                )
            return []
        otherwise = ", or data.columns.domain=null to take all for one domain"
        places = dict.fromkeys(valid)
        names = asked_domains(asked, setting, valid, places, str(self.table), otherwise=otherwise)
        if role == "source":
            self.taken = names
        elif shared := [name for name in names if name in self.taken]:
            refuse_shared(shared[0], [name for name in valid if name not in shared])
        return names
