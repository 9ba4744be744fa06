"""The parts of a seed folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from altsync.entities import Attached, Content, EntityType, Relationship

if TYPE_CHECKING:
    from altsync.catalogue.lines import SeedLine

#: Longest seed id. With its type's prefix it stays far below the 512 bytes of a Pinecone id.
ID_LENGTH = 200

#: A key is an id in every sink: ASCII, no spaces. https://docs.pinecone.io/guides/index-data
KEY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,199}$"

#: A name of a namespace, or of a file.
SLUG_PATTERN = r"^[a-z0-9][a-z0-9_\-]{0,63}$"

#: The plain data of a line.
Item = Content | Attached | Relationship


class AttachmentTable(str):
    """A table of rows that belong to entities and stay in PostgreSQL, by its name.

    ``owner`` is the entity's type, ``owner_column`` the column of its id and ``owner_field`` the
    field of a line. ``columns`` are the declared ones beside the title, with PostgreSQL's types.
    """

    part: str
    owner: EntityType
    owner_column: str
    owner_field: str
    columns: Mapping[str, str]
    optional: frozenset[str]

    def __new__(cls, name: str, **declared: Any) -> AttachmentTable:
        """Create a table by its name."""
        made = super().__new__(cls, name)
        made.__dict__.update(declared)
        return made


class Part(str):
    """A part of a seed folder, by the name of its file or folder.

    One of ``entity_type``, ``attachment`` and ``related`` is set: the type of its lines.
    ``optional`` are the fields that a line may leave out, ``optional_lists`` the lists among them.
    """

    entity_type: EntityType | None
    attachment: AttachmentTable | None
    related: EntityType | None
    line: type[SeedLine]
    optional: frozenset[str]
    optional_lists: tuple[str, ...]

    def __new__(
        cls,
        name: str,
        line: type[SeedLine],
        *,
        entity_type: EntityType | None = None,
        attachment: AttachmentTable | None = None,
        related: EntityType | None = None,
    ) -> Part:
        """Make a part by its name."""
        made = super().__new__(cls, name)
        made.__dict__.update(
            line=line, entity_type=entity_type, attachment=attachment, related=related
        )
        given = {entity_type.file_name_column} if entity_type else set()
        made.optional = frozenset(
            one
            for one, field in line.model_fields.items()
            if not field.is_required() or one in given
        )
        lists = entity_type.list_columns if entity_type else ()
        made.optional_lists = tuple(one for one in lists if one in made.optional)
        return made

    def __copy__(self) -> Part:
        return self

    def __deepcopy__(self, memo: Any) -> Part:
        return self

    @property
    def value(self) -> str:
        """Return the name as a plain ``str``."""
        return str.__str__(self)

    @property
    def table(self) -> str:
        """Return the table that the part is loaded into."""
        if self.related is not None:
            return self.related.edge_table.table
        return (self.entity_type or self.attachment or "").__str__()
