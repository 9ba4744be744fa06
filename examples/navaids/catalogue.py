"""Radio beacons for aircraft, the countries that they stand in, and their kinds."""

from __future__ import annotations

from typing import Annotated

from altsync import (
    BelongsTo,
    Catalogue,
    Embed,
    Entity,
    Filter,
    Key,
    Local,
    Name,
    Names,
    Node,
    Relationships,
    Seeds,
    Similar,
    Slug,
    Tag,
    Text,
    Vectors,
)


class Country(Entity, table=True):
    """A country or territory, by its ISO 3166 code."""

    iso_code: Annotated[Tag, Key(is_id=True)]
    country_name: Annotated[Name, Embed, Filter]
    continent: Annotated[Slug, Filter]

    seeds = Seeds("countries")
    node = Node("Country")
    vectors = Vectors("navaids-countries")
    names = Names("country", "countries", by="country_name")


class Kind(Entity, table=True):
    """What a beacon sends."""

    kind_tag: Annotated[Tag, Key(made_from=("title",))]
    title: Annotated[Name, Embed]
    about: Annotated[Text, Embed]

    seeds = Seeds("kinds")
    node = Node("Kind")
    vectors = Vectors("navaids-kinds")


class Navaid(Entity, table=True):
    """A beacon. Its vector's namespace is its continent."""

    beacon: Annotated[Tag, Key()]
    ident: Annotated[Name, Filter]
    beacon_name: Annotated[Name, Embed]
    kind: Annotated[Tag, BelongsTo(Kind, "OF_KIND"), Filter]
    country: Annotated[Tag, BelongsTo(Country, "STANDS_IN"), Filter]
    continent: Annotated[Slug, Filter]
    frequency_khz: Annotated[int, Filter]
    latitude: float
    longitude: float
    elevation_ft: int | None = None
    airport: Annotated[Name | None, Embed, Filter] = None
    variation: Annotated[float | None, Local()] = None

    seeds = Seeds("navaids", file_name="continent")
    node = Node("Navaid")
    vectors = Vectors("navaids-beacons", namespace="continent")
    similar = Similar("SOUNDS_LIKE", within="country")
    names = Names("beacon", "beacons", by="beacon_name")

    def embedding_text(self) -> str:
        """Return the name, what it is, and the airport that it serves."""
        serves = f", serves {self.airport}" if self.airport else ""
        kind = self.kind.replace("_", "-").upper()
        return f"{self.beacon_name}, a {kind} beacon{serves}."


catalogue = Catalogue(
    "navaids",
    entities=[Country, Kind, Navaid],
    relationships=[Relationships(Navaid, "NEXT_TO", seeds=Seeds("next_to"))],
)
