"""The classes of the how-tos work as they stand there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs_blocks.blocks import ROOT, blocks_of

_BEGIN = """
from __future__ import annotations
from datetime import date
from typing import Annotated
from uuid import UUID
from altsync import *
"""

_BRAND = """
class Brand(Entity, table=True):
    brand_tag: Annotated[Tag, Key(made_from=("name",))]
    name: Annotated[Name, Embed]
    seeds = Seeds("brands")
    node = Node("Brand")
    vectors = Vectors("shop-brands")
"""

_PRODUCT = """
class Product(Entity, table=True):
    sku: Annotated[Tag, Key()]
    title: Annotated[Name, Embed]
    seeds = Seeds("products")
    node = Node("Product")
    vectors = Vectors("shop-products")
"""


@pytest.mark.parametrize(
    ("page", "before", "after", "columns"),
    [
        (
            "../../README.md",
            _BEGIN + _BRAND,
            'catalogue = Catalogue("shop", entities=[Brand, Product])\n',
            "sku title about brand price_cents attributes",
        ),
        (
            "add-a-field.md",
            _BEGIN + _BRAND,
            'catalogue = Catalogue("shop", entities=[Brand, Product])\n',
            "sku title brand year attributes",
        ),
        (
            "add-an-entity-type.md",
            _BEGIN + _BRAND + _PRODUCT,
            "",
            "store_code city opened attributes",
        ),
    ],
)
def test_the_classes_of_a_page_make_a_catalogue(
    tmp_path: Path, page: str, before: str, after: str, columns: str
) -> None:
    blocks = blocks_of((ROOT / "docs/howto" / page).resolve())
    block = next(b for b in blocks if b.body.startswith("class "))
    shown = "print(*catalogue.entity_types[-1].columns)\n"
    (tmp_path / "page.py").write_text(before + block.body + after + shown)
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (columns, "")
