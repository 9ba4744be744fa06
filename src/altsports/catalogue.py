"""Declare leagues, sport archetypes and few-shot examples."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any
from uuid import UUID

from pydantic import ValidationInfo, field_validator
from sqlalchemy import Index

from altsync import (
    AttachedTo,
    Attachment,
    BelongsTo,
    Catalogue,
    Embed,
    Entity,
    Filter,
    Key,
    Name,
    Names,
    Node,
    References,
    Relationships,
    Seeds,
    Similar,
    Slug,
    Tag,
    Text,
    Vectors,
)

#: The archetypes that leagues may name without being loaded; seeds may add more.
KNOWN_ARCHETYPES = frozenset({"racing", "combat", "team_sport", "precision", "large_field"})


class SportArchetype(Entity, table=True):
    """A family of sports that share the shape of their events."""

    __tablename__ = "sport_archetype"

    archetype_name: Annotated[Tag, Key(), Embed, Filter]
    display_name: Annotated[Name, Embed, Filter]
    code_pattern: Annotated[Name, Filter]
    description: Annotated[Text | None, Embed] = None
    characteristics: dict[str, Any] = {}

    seeds = Seeds("archetypes")
    node = Node("SportArchetype", key="name")
    vectors = Vectors("altsports-archetypes")
    names = Names("archetype", "archetypes", by="display_name")

    def embedding_text(self) -> str:
        """Return the name, and what the family is like."""
        head = f"{self.display_name} ({self.archetype_name.replace('_', ' ')})."
        return f"{head} {self.description}" if self.description else head


class League(Entity, table=True):
    """A league or competition."""

    __tablename__ = "league"
    __table_args__ = (Index("league_archetype", "sport_archetype"),)

    league_tag: Annotated[Tag, Key(made_from=("league_name", "location"))]
    league_name: Annotated[Name, Embed, Filter]
    sport_name: Annotated[Name, Embed, Filter]
    sport_archetype: Annotated[
        Name,
        BelongsTo(SportArchetype, "BELONGS_TO_ARCHETYPE", known=KNOWN_ARCHETYPES),
        Embed,
        Filter,
    ]
    location: Annotated[Name | None, Embed, Filter] = None
    tier: Annotated[Name | None, Filter] = None
    status: Annotated[Name, Filter] = "active"
    description: Annotated[Text | None, Embed] = None

    seeds = Seeds("leagues")
    node = Node("League")
    vectors = Vectors("altsports-leagues", namespace="default")
    similar = Similar("SIMILAR_TO", within="sport_archetype", enter=0.80, leave=0.77, top=10)

    def embedding_text(self) -> str:
        """Return what the league is and what it is like, in plain words.

        Tier and status are left out: they change often, filter well, and mean little to a model.
        """
        where = f" in {self.location}" if self.location else ""
        kind = self.sport_archetype.replace("_", " ")
        head = f"{self.league_name}: {self.sport_name} ({kind}){where}."
        return f"{head} {self.description}" if self.description else head


class FewShotExample(Entity, table=True):
    """An input with the output wanted for it; the category is its vector namespace."""

    __tablename__ = "few_shot_example"
    __table_args__ = (Index("few_shot_example_category", "category"),)

    example_id: Annotated[Tag, Key(is_id=True)]
    category: Annotated[Slug, BelongsTo("ExampleCategory", "IN_CATEGORY"), Filter]
    input_text: Annotated[Text, Embed]
    output_text: Annotated[Text, Embed]
    sport_archetype: Annotated[
        Name | None, References(SportArchetype, known=KNOWN_ARCHETYPES), Filter
    ] = None
    tags: Annotated[list[Name], Embed, Filter] = []

    seeds = Seeds("examples", file_name="category")
    node = Node("FewShotExample")
    vectors = Vectors("altsports-examples", namespace="category")
    names = Names("example", "examples", by="example_id")

    def embedding_text(self) -> str:
        """Return both texts and the tags."""
        tags = f"\nTags: {', '.join(self.tags)}" if self.tags else ""
        return f"{self.input_text}\n{self.output_text}{tags}"


class Document(Attachment, table=True):
    """A rulebook, fact sheet, feed specification … of a league."""

    __tablename__ = "document"

    league_id: Annotated[UUID, AttachedTo(League)]
    kind: Name | None = None
    body: Text | None = None

    seeds = Seeds("documents")


class Contract(Attachment, table=True):
    """An agreement about a league's data or media."""

    __tablename__ = "contract"

    league_id: Annotated[UUID, AttachedTo(League)]
    counterparty: Name | None = None
    contract_type: Name | None = None
    status: Name = "active"
    start_date: date | None = None
    end_date: date | None = None

    seeds = Seeds("contracts")

    @field_validator("end_date")
    @classmethod
    def _not_before_its_start(cls, value: date | None, info: ValidationInfo) -> date | None:
        start = info.data.get("start_date")
        if value and start and value < start:
            raise ValueError(f"{value} is before the start_date {start}")
        return value


catalogue = Catalogue(
    "sports",
    entities=[SportArchetype, League, FewShotExample],
    attachments=[Document, Contract],
    relationships=[
        Relationships(League, "COMPETES_WITH", "SAME_ARCHETYPE", seeds=Seeds("relationships"))
    ],
    questions="altsports.demo:questions",
)

SPORT_ARCHETYPE = catalogue.type_of(SportArchetype)
LEAGUE = catalogue.type_of(League)
FEW_SHOT_EXAMPLE = catalogue.type_of(FewShotExample)

__all__ = [
    "FEW_SHOT_EXAMPLE",
    "KNOWN_ARCHETYPES",
    "LEAGUE",
    "SPORT_ARCHETYPE",
    "Contract",
    "Document",
    "FewShotExample",
    "League",
    "SportArchetype",
    "catalogue",
]
