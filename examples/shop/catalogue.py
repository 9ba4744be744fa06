"""What this shop keeps in PostgreSQL, Neo4j and Pinecone: brands and their products."""

from __future__ import annotations

from typing import Annotated

from altsync import (
    BelongsTo,
    Catalogue,
    Embed,
    Entity,
    Filter,
    Key,
    Name,
    Node,
    Seeds,
    Similar,
    Tag,
    Text,
    Vectors,
)


class Brand(Entity, table=True):
    """Who makes it. Its key is made from its name."""

    brand_tag: Annotated[Tag, Key(made_from=("name",))]
    name: Annotated[Name, Embed]
    about: Annotated[Text | None, Embed] = None

    seeds = Seeds("brands")
    node = Node("Brand")
    vectors = Vectors("shop-brands")


class Product(Entity, table=True):
    """What is sold. Products of one brand that read alike are related."""

    sku: Annotated[Tag, Key()]
    title: Annotated[Name, Embed]
    about: Annotated[Text | None, Embed] = None
    brand: Annotated[Tag, BelongsTo(Brand, "MADE_BY"), Filter]
    price_cents: Annotated[int, Filter] = 0
    tags: Annotated[list[Name], Filter] = []

    seeds = Seeds("products")
    node = Node("Product")
    vectors = Vectors("shop-products", namespace="brand")
    similar = Similar("SIMILAR_TO", within="brand")


catalogue = Catalogue("shop", entities=[Brand, Product])
