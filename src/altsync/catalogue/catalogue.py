"""A catalogue: the entities, relationships and attachments of one installation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from sqlalchemy import Table
from sqlmodel import SQLModel

from altsync.catalogue import build, edges, lines
from altsync.catalogue.checks import check_classes, check_part
from altsync.catalogue.entity import Attachment, Entity
from altsync.catalogue.fields import fail
from altsync.catalogue.markers import Relationships
from altsync.catalogue.parts import Part
from altsync.entities import EdgeTable, EntityType


class Catalogue:
    """The mirrored classes. The constructor checks them and raises ``CatalogueError``.

    Parents come first in ``entities``. Seeding loads entities in this order, then attachments and
    relationships. ``questions`` names a function as ``module:name``: it takes the ``Application``
    and returns the tables that ``altsync demo`` shows at its end.
    """

    def __init__(
        self,
        name: str,
        *,
        entities: Sequence[type[Entity]],
        attachments: Sequence[type[Attachment]] = (),
        relationships: Sequence[Relationships] = (),
        questions: str | None = None,
    ) -> None:
        self.name = name
        #: The folder of the catalogue's module, which also holds the catalogue's revisions.
        self.folder: Path | None = None
        self.questions = questions
        self.classes = tuple(entities)
        if not entities:
            raise fail(name, "entities is empty: list at least one class")
        check_classes(name, "entities", entities, Entity)
        check_classes(name, "attachments", attachments, Attachment)
        related = self._related(relationships)
        self._by_class: dict[type, EntityType] = {
            cls: build.entity_type(cls, related.get(cls)) for cls in entities
        }
        self.entity_types = tuple(self._by_class.values())
        self.by_table = {one.value: one for one in self.entity_types}
        self._check_parents()
        for cls, one in self._by_class.items():
            edges.add_indexes(cls, one.parents, one.similar)
            if one.edges:
                edges.make_edge_table(one.edges, one)
        self.attachments = tuple(build.attachment(cls, self._by_class) for cls in attachments)
        self._attachment_classes = tuple(attachments)
        self.parts = tuple(self._parts(relationships))
        self._check_unique(relationships)

    def type_of(self, cls: type[Entity]) -> EntityType:
        """Return the type that a class declares; ``LookupError`` when it is not in here."""
        return self._by_class[cls]

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Return all tables of the catalogue, parents first."""
        names = [one.value for one in self.entity_types]
        names += [one.edges.table for one in self.entity_types if one.edges]
        names += [str(one) for one in self.attachments]
        return tuple(SQLModel.metadata.tables[name] for name in names)

    def part(self, name: str) -> Part:
        """Return a part by its name; ``LookupError`` when there is none."""
        return self._parts_by_name[name]

    @cached_property
    def _parts_by_name(self) -> dict[str, Part]:
        return {part.value: part for part in self.parts}

    def _related(self, declared: Sequence[Relationships]) -> dict[type, EdgeTable]:
        found: dict[type, EdgeTable] = {}
        for one in declared:
            if one.entity not in self.classes:
                given = getattr(one.entity, "__name__", one.entity)
                raise fail(f"Relationships({given})", "its class is not in entities")
            if one.entity in found:
                raise fail(f"Relationships({one.entity.__name__})", "is declared twice")
            found[one.entity] = edges.edge_table(
                one.entity, one.types, one.seeds.part, one.entity.similar
            )
        for cls in self.classes:
            if cls.similar is not None and cls not in found:
                found[cls] = edges.edge_table(cls, (), None, cls.similar)
        return found

    def _parts(self, relationships: Sequence[Relationships]) -> list[Part]:
        found = [
            Part(one.part, lines.entity_line(cls, one), entity_type=one)
            for cls, one in self._by_class.items()
        ]
        found += [
            Part(table.part, lines.attachment_line(cls, table), attachment=table)
            for cls, table in zip(self._attachment_classes, self.attachments, strict=True)
        ]
        for declared in relationships:
            one = self._by_class[declared.entity]
            check_part(f"Relationships({declared.entity.__name__}): seeds", declared.seeds.part)
            found.append(Part(declared.seeds.part, lines.relationship_line(one), related=one))
        return found

    def _check_parents(self) -> None:
        labels = {one.label for one in self.entity_types}
        loaded: set[str] = set()
        for cls, one in self._by_class.items():
            for parent in one.parents:
                where = f"{cls.__name__}.{parent.column}"
                if parent.parent is not None and parent.parent not in loaded:
                    raise fail(
                        where, f"its parent {parent.parent} must stand before it in entities"
                    )
                if parent.parent is None and parent.label in labels:
                    raise fail(
                        where,
                        f"{parent.label!r} is the label of an entity: name its class, "
                        "and for a parent of the same type use Relationships",
                    )
            loaded.add(one.value)

    def _check_unique(self, relationships: Sequence[Relationships]) -> None:
        """Raise ``CatalogueError`` for two classes with one table, label, index or part."""
        names = [cls.__name__ for cls in self.classes]
        owners = [*names, *(cls.__name__ for cls in self._attachment_classes)]
        owners += [f"Relationships({one.entity.__name__})" for one in relationships]
        for what, where, values in (
            ("table", names, [one.value for one in self.entity_types]),
            ("label", names, [one.label for one in self.entity_types]),
            ("index", names, [one.index_name for one in self.entity_types]),
            ("part of the seeds", owners, [part.value for part in self.parts]),
        ):
            first: dict[str, str] = {}
            for name, value in zip(where, values, strict=True):
                if value in first:
                    raise fail(name, f"{first[value]} has the {what} {value!r} too: rename one")
                first[value] = name
