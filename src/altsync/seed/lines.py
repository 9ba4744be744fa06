"""What a line of each kind of seed file must say. Fields not named here are kept as they are."""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from altsync.records import (
    Content,
    EntityType,
    FewShotExample,
    League,
    LeaguePart,
    Relation,
    Relationship,
    SportArchetype,
)
from altsync.wording import unknown

#: Longest seed id. With its type's prefix it stays far below the 512 bytes of a Pinecone id.
ID_LENGTH = 200

#: A tag is an id in every sink: ASCII, no spaces. https://docs.pinecone.io/guides/index-data
TAG = r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,199}$"

#: A category is a namespace of the vector index and part of a file's name.
CATEGORY = r"^[a-z0-9][a-z0-9_\-]{0,63}$"

#: What a line of ``relationships.jsonl`` may say.
SEEDED_RELATIONS = tuple(r.value for r in Relation if r is not Relation.SIMILAR_TO)

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

Id = Annotated[str, StringConstraints(min_length=1, max_length=ID_LENGTH)]
Tag = Annotated[str, StringConstraints(pattern=TAG)]
Text = Annotated[str, StringConstraints(min_length=1)]
#: A name is shown in tables. Texts over the limit of the embedder are refused by the reader.
Name = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Part(StrEnum):
    """The parts of a seed folder, in the order in which they are loaded."""

    ARCHETYPES = "archetypes"
    LEAGUES = "leagues"
    EXAMPLES = "examples"
    DOCUMENTS = "documents"
    CONTRACTS = "contracts"
    RELATIONSHIPS = "relationships"

    @property
    def entity_type(self) -> EntityType | None:
        """The mirrored type, or None for what stays in PostgreSQL."""
        return _ENTITY_TYPES.get(self)


_ENTITY_TYPES = {
    Part.ARCHETYPES: EntityType.SPORT_ARCHETYPE,
    Part.LEAGUES: EntityType.LEAGUE,
    Part.EXAMPLES: EntityType.FEW_SHOT_EXAMPLE,
}


Item = Content | LeaguePart | Relationship


class SeedLine(BaseModel):
    """What every line has."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    id: Id

    def item(self) -> Item:
        """The line as plain data."""
        raise NotImplementedError

    @property
    def archetype(self) -> str | None:
        """The archetype that the line names, for the kinds that do."""
        return None

    @property
    def rest(self) -> dict[str, Any]:
        """The fields that the model does not name."""
        return self.model_extra or {}


class ArchetypeLine(SeedLine):
    """A line of ``archetypes.jsonl``."""

    archetype_name: Tag
    display_name: Name
    code_pattern: Name
    description: Text | None = None
    characteristics: dict[str, Any] = Field(default_factory=dict)

    def item(self) -> SportArchetype:
        """The archetype."""
        return SportArchetype(
            self.archetype_name,
            self.display_name,
            self.code_pattern,
            self.description,
            self.characteristics,
            self.rest,
        )


class LeagueLine(SeedLine):
    """A line of ``leagues/*.jsonl``. Without a tag, one is made from the name."""

    league_name: Name
    sport_name: Name
    sport_archetype: Name
    location: Name | None = None
    tier: Name | None = None
    status: Name = "active"
    description: Text | None = None
    league_tag: Tag | None = None

    @property
    def archetype(self) -> str:
        """The league's."""
        return self.sport_archetype

    def item(self) -> League:
        """The league, with an empty tag when the line gives none."""
        return League(
            self.league_tag or "",
            self.league_name,
            self.sport_name,
            self.sport_archetype,
            self.location,
            self.tier,
            self.status,
            self.description,
            self.rest,
        )


class ExampleLine(SeedLine):
    """A line of ``examples/<category>.jsonl``. Its id is its id in every sink."""

    id: Tag
    category: Annotated[str, StringConstraints(pattern=CATEGORY)]
    input_text: Text
    output_text: Text
    sport_archetype: Name | None = None
    tags: list[Name] = Field(default_factory=list)

    @property
    def archetype(self) -> str | None:
        """The example's, when it is of one."""
        return self.sport_archetype

    def item(self) -> FewShotExample:
        """The example."""
        return FewShotExample(
            self.id,
            self.category,
            self.input_text,
            self.output_text,
            self.sport_archetype,
            tuple(self.tags),
            self.rest,
        )


class DocumentLine(SeedLine):
    """A line of ``documents.jsonl``; ``league`` is the league's seed id."""

    league: Id
    title: Name
    kind: Name | None = None
    body: Text | None = None

    def item(self) -> LeaguePart:
        """The document."""
        return LeaguePart(
            self.league, self.title, {"kind": self.kind, "body": self.body}, self.rest
        )


class ContractLine(SeedLine):
    """A line of ``contracts.jsonl``; ``league`` is the league's seed id."""

    league: Id
    title: Name
    counterparty: Name | None = None
    contract_type: Name | None = None
    status: Name = "active"
    start_date: date | None = None
    end_date: date | None = None

    @field_validator("start_date", "end_date", mode="before")
    @classmethod
    def _iso_date(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            # fromisoformat alone also takes 20260131, 2026-W05-6 and, with a time, 2026-01-31T00.
            if not _DATE.fullmatch(value):
                raise ValueError
            return date.fromisoformat(value)
        except ValueError:
            raise ValueError("give a date as 2026-01-31") from None

    @field_validator("end_date")
    @classmethod
    def _not_before_its_start(cls, value: date | None, info: ValidationInfo) -> date | None:
        start = info.data.get("start_date")
        if value and start and value < start:
            raise ValueError(f"{value} is before the start_date {start}")
        return value

    def item(self) -> LeaguePart:
        """The contract."""
        fields = {
            "counterparty": self.counterparty,
            "contract_type": self.contract_type,
            "status": self.status,
            "start_date": self.start_date,
            "end_date": self.end_date,
        }
        return LeaguePart(self.league, self.title, fields, self.rest)


class RelationshipLine(SeedLine):
    """A line of ``relationships.jsonl``; its ends are leagues' seed ids."""

    type: str
    source: Id
    target: Id
    strength: Annotated[float, Field(ge=0, le=1)] | None = None

    @field_validator("type")
    @classmethod
    def _seeded_type(cls, value: str) -> str:
        if value == Relation.SIMILAR_TO:
            raise ValueError("SIMILAR_TO is computed from vectors and cannot be seeded")
        if value not in SEEDED_RELATIONS:
            raise ValueError(unknown("relationship", value, SEEDED_RELATIONS))
        return value

    @field_validator("target")
    @classmethod
    def _two_leagues(cls, value: str, info: ValidationInfo) -> str:
        if value == info.data.get("source"):
            raise ValueError("a league has no relationship with itself")
        return value

    def item(self) -> Relationship:
        """The relationship."""
        return Relationship(self.source, self.target, Relation(self.type), self.strength, self.rest)


LINES: dict[Part, type[SeedLine]] = {
    Part.ARCHETYPES: ArchetypeLine,
    Part.LEAGUES: LeagueLine,
    Part.EXAMPLES: ExampleLine,
    Part.DOCUMENTS: DocumentLine,
    Part.CONTRACTS: ContractLine,
    Part.RELATIONSHIPS: RelationshipLine,
}

#: Fields that a line may leave out. An example's category is the name of its file.
OPTIONAL: dict[Part, frozenset[str]] = {
    part: frozenset(
        name
        for name, field in model.model_fields.items()
        if not field.is_required() or (part, name) == (Part.EXAMPLES, "category")
    )
    for part, model in LINES.items()
}
