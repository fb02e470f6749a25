"""A table: name -> class, and choices that are their own config; knows no entry of any table."""

from collections.abc import Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from interp_arith.cards import card
from interp_arith.errors import RequestError, unknown

T = TypeVar("T")


class Choice(BaseModel):
    """A frozen choice: it validates itself, refuses unknown fields, and round-trips through YAML.

    Raises:
        RequestError: a field is unknown, missing or not allowed; the first complaint, in one line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """The fields that are not at their defaults: evaluated, the repr is the choice again."""
        return ((name, getattr(self, name)) for name in self._changed_fields())

    def in_brief(self) -> str:
        """Its kind and what is not at its default, in one line."""
        said = [f"{name} = {_in_words(getattr(self, name))}" for name in self._changed_fields()]
        return " · ".join([str(getattr(self, "kind", "")), ", ".join(said)]).strip(" ·") or "as usual"

    def _repr_html_(self) -> str:
        name, fields = type(self).__name__, type(self).model_fields
        kept = {name: _in_words(getattr(self, name)) for name in fields if name not in self._changed_fields()}
        kept.pop("kind", None)
        return card(self._title(), name, self._card_rows(), (f"{len(kept)} more at their defaults", kept))

    def _title(self) -> str:
        return str(getattr(self, "kind", "settings"))

    def _card_rows(self) -> dict[str, str]:
        return {name: _in_words(getattr(self, name)) for name in self._changed_fields()}

    def _changed_fields(self) -> list[str]:
        fields = type(self).model_fields.items()
        return [
            name
            for name, field in fields
            if getattr(self, name) != field.get_default(call_default_factory=True)
        ]

    @model_validator(mode="wrap")
    @classmethod
    def _complain_in_one_line(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise RequestError(_first_complaint(cls, error)) from None


class Registry(Mapping[str, type[T]], Generic[T]):
    """A visible table of the classes of one kind.

    Args:
        noun: what an entry is, for messages ("task").
        *entries: classes with a literal `kind` field, which is their name in the table.
    """

    def __init__(self, noun: str, *entries: type[T]) -> None:
        self.noun = noun
        self._entries: dict[str, type[T]] = {entry.model_fields["kind"].default: entry for entry in entries}  # type: ignore[attr-defined]

    def __getitem__(self, name: str) -> type[T]:
        """The class of that name; RequestError with the nearest names otherwise."""
        if name not in self._entries:
            raise unknown(self.noun, str(name), self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def make(self, name: str, **fields: Any) -> T:
        """The choice of that name, its other fields given or at their defaults."""
        return self[name](**fields)

    def parse(self, value: Any) -> Any:
        """A plain mapping with a `kind` becomes the choice that it names; anything else passes through.

        Raises:
            RequestError: the mapping has no `kind`, or one that is not in the table.
        """
        if not isinstance(value, Mapping):
            return value
        if "kind" not in value:
            raise RequestError(f"{self.noun}: no kind given; there are: {', '.join(self)}")
        return self[str(value["kind"])].model_validate(value)  # type: ignore[attr-defined]


def _in_words(value: Any) -> str:
    """A field's value for people."""
    if isinstance(value, Choice):
        return value.in_brief()
    if isinstance(value, tuple | list):
        return ", ".join(map(_in_words, value)) or "none"
    return "none" if value is None else str(value)


def _first_complaint(cls: type[Choice], error: ValidationError) -> str:
    """Where, what was given, what is allowed."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    where = ".".join(str(part) for part in first["loc"])
    name = str(cls.model_fields["kind"].default) if "kind" in cls.model_fields else cls.__name__
    if first["type"] == "extra_forbidden":
        return str(unknown(f"field of {name}", where, cls.model_fields))
    if first["type"] in ("value_error", "missing"):
        return f"{name}: {where}: {message}" if where else f"{name}: {message}"
    return f"{name}: {where} = {first['input']!r}: {message}"
