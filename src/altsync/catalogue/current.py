"""Find the catalogue of this process once, when it is first needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from altsync.catalogue.named import FILE, SETTING, reference
from altsync.errors import ConfigurationError

if TYPE_CHECKING:
    from altsync.catalogue.catalogue import Catalogue
    from altsync.catalogue.parts import Part
    from altsync.entities import EntityType

#: The catalogue of this process, once it is loaded, and those of ``using``: the last one counts.
_loaded: list[Catalogue] = []


def current() -> Catalogue:
    """Return the catalogue of this process. Raises ``ConfigurationError``."""
    if not _loaded:
        _loaded.append(_find())
    return _loaded[-1]


@contextmanager
def using(catalogue: Catalogue) -> Iterator[None]:
    """Run with another catalogue, for tests."""
    _loaded.append(catalogue)
    try:
        yield
    finally:
        _loaded.remove(catalogue)


def entity_types() -> tuple[EntityType, ...]:
    """Return the mirrored types in the order in which they are loaded and locked."""
    return current().entity_types


def entity_type(name: str) -> EntityType:
    """Return a type by its table's name; ``LookupError`` when there is none."""
    return current().by_table[name]


def searched_types() -> tuple[EntityType, ...]:
    """Return the types that are searched for neighbours."""
    return tuple(one for one in entity_types() if one.similar)


def related_types() -> tuple[EntityType, ...]:
    """Return the types that have relationships among themselves."""
    return tuple(one for one in entity_types() if one.edges)


def children_of(parent: EntityType) -> tuple[EntityType, ...]:
    """Return the types that declare a type as a parent in the graph."""
    return tuple(
        one for one in entity_types() if any(edge.parent == parent for edge in one.graph_parents)
    )


def parts() -> tuple[Part, ...]:
    """Return the parts of a seed folder, in the order in which they are loaded."""
    return current().parts


def part_of(entity_type: EntityType) -> Part:
    """Return the part of a seed folder that holds the lines of a type."""
    return current().part(entity_type.part)


def _find() -> Catalogue:
    named = reference()
    if named is None:
        raise ConfigurationError(f"no catalogue: set {SETTING}=module:name, or write {FILE}")
    return _load(named)


def _load(named: str) -> Catalogue:
    module, _, name = named.partition(":")
    here, package = Path.cwd(), module.partition(".")[0]
    is_here = (here / package).is_dir() or (here / f"{package}.py").is_file()
    if is_here and str(here) not in sys.path:
        sys.path.insert(0, str(here))
    try:
        found = getattr(import_module(module), name or "catalogue")
    except ConfigurationError:
        raise
    except Exception as error:  # a mistake in the catalogue's own module
        raise ConfigurationError(_described(error, named)) from error
    return _checked(found, named)


def _described(error: Exception, named: str) -> str:
    """Return the text of an error in a catalogue's module, with the module's line that failed."""
    text = str(error).strip().partition("\n")[0]
    if not isinstance(error, ImportError | AttributeError):
        text = f"{type(error).__name__}: {text}"
    module = named.partition(":")[0]
    engine, file = str(Path(__file__).parents[1]), f"/{module.replace('.', '/')}.py"
    places = [
        one
        for one in extract_tb(error.__traceback__)
        if one.filename.endswith(file) and not one.filename.startswith(engine)
    ]
    if places:
        return f"catalogue: {module}, line {places[-1].lineno}, {places[-1].line}: {text}"
    return f"{SETTING}: {named!r} is no module:name of a catalogue: {text}"


def _checked(found: Any, named: str) -> Catalogue:
    from altsync.catalogue.catalogue import Catalogue

    if not isinstance(found, Catalogue):
        raise ConfigurationError(f"{SETTING}: {named} is no Catalogue, but {type(found).__name__}")
    file = getattr(sys.modules.get(named.partition(":")[0]), "__file__", None)
    found.folder = Path(file).resolve().parent if file else None
    return found
