"""Check a line against the declaration of its part. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from altsync import projection
from altsync.catalogue.parts import KEY_PATTERN, SLUG_PATTERN, Item, Part
from altsync.entities import Content, EntityType
from altsync.seed.lines import RAW_LENGTH, Line, Raw, Rejected, shown
from altsync.seed.parsing import Refused, parse
from altsync.tokens import INPUT_LIMITS, TooLong, most_tokens, too_long
from altsync.wording import unknown

if TYPE_CHECKING:
    from altsync.catalogue.lines import SeedLine

#: Keys of the entities that a line may name, by the field that names one.
KnownKeys = Mapping[str, frozenset[str]]


def check(
    raw: Raw,
    known: KnownKeys | None,
    model: str | None = None,
    *,
    cut_long: bool = False,
) -> Line | Rejected:
    """Return a line with its entity, or the reason why it is rejected.

    ``known`` has the keys of the parents that it may name. A text over the limit of ``model`` is
    rejected, unless ``cut_long`` allows to cut it.
    """
    file, number, read, whole, _id_hint, _fingerprint, problem = raw
    if problem is not None:
        return Rejected(file.label, number, None, problem, "")
    try:
        data = parse(read, whole=whole)
        emptied = _drop_empty(data, file.part)
        line = _validate(file.part.line, {**file.defaults, **data})
        item = line.item()
        if known is not None and file.part.entity_type:
            _check_parents(line, file.part.entity_type, known)
        over = _too_long(item, model) if may_be_too_long(raw, model) else None
        if over is not None and not cut_long:
            raise Refused(_long_fields(item, over), str(over), line.id)
        return Line(file.label, number, line.id, item, read[:RAW_LENGTH], emptied, over is not None)
    except Refused as refused:
        return Rejected(
            file.label, number, refused.field, refused.reason, shown(read), refused.seed_id
        )


def _check_parents(line: SeedLine, entity_type: EntityType, known: KnownKeys) -> None:
    """Refuse a line that names a parent which is not loaded."""
    for parent in entity_type.parents:
        if parent.parent is None:
            continue
        key = getattr(line, parent.column)
        keys = known.get(parent.column, frozenset())
        if key is not None and key not in keys:
            raise Refused(parent.column, unknown(parent.name, key, sorted(keys)), line.id)


def may_be_too_long(raw: Raw, model: str | None) -> bool:
    """Return whether a line's text may be over the limit: a text is shorter than its line."""
    limit = INPUT_LIMITS.get(model or "")
    return limit is not None and len(raw.read) > limit.tokens


def _too_long(item: Item, model: str | None) -> TooLong | None:
    """Return by how much the text of a line is over the model's limit."""
    if model is None or not isinstance(item, Content):
        return None
    return too_long(projection.embedding_text(item), model)


def _long_fields(item: Item, over: TooLong) -> str:
    """Name the longest fields of a text, as many as bring it over the limit."""
    assert isinstance(item, Content)
    sizes = {name: most_tokens(text) for name, text in projection.embedded_fields(item).items()}
    rest = sum(sizes.values())
    enough = rest * over.limit / over.tokens
    fields: list[str] = []
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if rest <= enough:
            break
        fields.append(name)
        rest -= sizes[name]
    return ", ".join(fields)


#: Characters of a cell without content. Others, such as U+2028, are kept.
_BLANK = " \t\r\n\xa0"


def _drop_empty(data: dict[str, Any], part: Part) -> tuple[str, ...]:
    """Remove optional fields that are null or blank; return the names of the blank ones.

    A blank value of a required field becomes an empty text, which is rejected.
    """
    gaps = [name for name in part.optional_lists if _has_gaps(data.get(name))]
    if not gaps and not any(map(_is_blank, data.values())):
        return ()
    absent = [n for n, value in data.items() if _is_blank(value) and n in part.line.model_fields]
    emptied = []
    for name in absent:
        if name not in part.optional:
            data[name] = data[name] and ""  # null stays null
        elif data.pop(name) is not None:
            emptied.append(name)
    for name in gaps:
        if any(one is not None and _is_blank(one) for one in data[name]):
            emptied.append(name)
        data[name] = [one for one in data[name] if not _is_blank(one)]
    return tuple(emptied)


def _is_blank(value: Any) -> bool:
    """Return whether a value is null, or a text of nothing but spaces, tabs and line ends."""
    return value is None or (isinstance(value, str) and not value.strip(_BLANK))


def _has_gaps(values: Any) -> bool:
    return isinstance(values, list) and any(map(_is_blank, values))


def _validate(model: type[SeedLine], data: dict[str, Any]) -> SeedLine:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_context=False)
        seed_id = data.get("id")
        more = ""
        if others:
            fields = dict.fromkeys(_field(one["loc"]) for one in others)
            more = f" (and {len(others)} more: {', '.join(fields)})"
        raise Refused(
            _field(first["loc"]) or None,
            _reason(first) + more,
            seed_id if isinstance(seed_id, str) else None,
        ) from None


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _reason(error: ErrorDetails) -> str:
    if len(error["loc"]) == 1 and error["input"] in (None, ""):
        absent = "null" if error["input"] is None else "empty"
        return f"Field required, and may not be {absent}"
    for pattern, wanted in _WANTED.items():
        if error["msg"].endswith(f"'{pattern}'"):
            given = str(error["input"])
            cut = given if len(given) <= GIVEN_SHOWN else f"{given[:GIVEN_SHOWN]}…"
            return f"{cut!r} is not allowed: use {wanted}"
    return error["msg"].removeprefix("Value error, ")


#: Characters that a refusal shows of a value.
GIVEN_SHOWN = 60

#: The patterns of fields in words.
_WANTED = {
    KEY_PATTERN: "letters, digits and _ . : -, at most 200, a letter or digit first",
    SLUG_PATTERN: "small letters, digits, _ and -, at most 64, a letter or digit first",
}
