"""A toy catalogue of a shop: three small entities that use every kind of declaration."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any
from uuid import UUID

from altsync import (
    AttachedTo,
    Attachment,
    BelongsTo,
    Catalogue,
    Embed,
    Entity,
    Filter,
    Key,
    Local,
    Name,
    Node,
    Relationships,
    Seeds,
    Similar,
    Text,
    Vectors,
)


class Brand(Entity, table=True):
    """A maker. Its key is made from its name."""

    brand_key: Annotated[str, Key(made_from=("name", "country"))]
    name: Annotated[Name, Embed]
    country: Annotated[Name | None, Filter] = None
    about: Annotated[Text | None, Embed] = None

    seeds = Seeds("brands")
    node = Node("Brand")
    vectors = Vectors("shop-brands")


class Shelf(Entity, table=True):
    """A place. Its key is the line's id, and its node has another name for it."""

    code: Annotated[str, Key(is_id=True)]
    title: Annotated[Name, Embed]

    seeds = Seeds("shelves")
    node = Node("Shelf", key="shelf_code")
    vectors = Vectors("shop-shelves", namespace="places")


class Product(Entity, table=True):
    """Something sold, of one brand and perhaps on a shelf."""

    sku: Annotated[str, Key()]
    title: Annotated[Name, Embed]
    about: Annotated[Text | None, Embed] = None
    brand: Annotated[str, BelongsTo(Brand, "MADE_BY"), Filter]
    shelf: Annotated[str | None, BelongsTo(Shelf, "STANDS_ON")] = None
    season: Annotated[str, BelongsTo("Season", "SOLD_IN"), Filter] = "all"
    price_cents: Annotated[int, Filter] = 0
    weight: Annotated[float | None, Filter] = None
    sold: Annotated[bool, Filter] = True
    since: date | None = None
    tags: Annotated[list[Name], Embed, Filter] = []
    supplier: Annotated[Text | None, Local()] = None
    sizes: dict[str, Any] = {}

    seeds = Seeds("products", file_name="season")
    node = Node("Product")
    vectors = Vectors("shop-products", namespace="brand")
    similar = Similar("LOOKS_LIKE", within="brand")


class Review(Attachment, table=True):
    """A customer's review of a product."""

    product_id: Annotated[UUID, AttachedTo(Product)]
    stars: int
    written_on: date | None = None

    seeds = Seeds("reviews")


catalogue = Catalogue(
    "shop",
    entities=[Brand, Shelf, Product],
    attachments=[Review],
    relationships=[Relationships(Product, "GOES_WITH", "REPLACES", seeds=Seeds("pairs"))],
)

BRAND = catalogue.type_of(Brand)
SHELF = catalogue.type_of(Shelf)
PRODUCT = catalogue.type_of(Product)
