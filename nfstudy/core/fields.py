"""What all records of a study file are: frozen, strict, and made of numbers with bounds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from nfstudy.core.hints import shown

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


def expected(error: Mapping[str, Any]) -> str:
    """Return what should be there by one of pydantic's error records, such as `greater than 0`."""
    return str(error["msg"]).removeprefix("Input should be ")


def first_mistake(error: ValidationError) -> str:
    """Return the first of a record's mistakes as `PATH: got ...; expected: ...`."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: got {shown(first['input'])}; expected: {expected(first)}"


class Record(BaseModel):
    """A frozen record that refuses unknown keys and converts no types (but whole numbers to floats)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class OpenRecord(Record):
    """A record with further fields that are declared elsewhere, each read as strictly as its own.

    The further fields are those of the records that `further_records` returns; each has its default where it is not
    given, and is an attribute of this record like any other.
    """

    model_config = ConfigDict(extra="allow")

    if TYPE_CHECKING:  # A type checker cannot know the further fields.

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    @abstractmethod
    def further_records(cls) -> list[type[Record]]:
        """Return the records whose fields this one has too."""

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """Return name -> pydantic's description of every field, the record's own first."""
        further = (record.model_fields for record in cls.further_records())
        return {name: found for fields in (cls.model_fields, *further) for name, found in fields.items()}

    @model_validator(mode="wrap")
    @classmethod
    def _read_all(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Mapping):
            return handler(value)
        rest: dict[str, Any] = dict(value)
        further: dict[str, Any] = {}
        mistakes: list[InitErrorDetails] = []
        for record in cls.further_records():
            given = {name: rest.pop(name) for name in record.model_fields if name in rest}
            try:
                further |= dict(record.model_validate(given))
            except ValidationError as error:
                mistakes += _details(error)
        unknown = [name for name in rest if name not in cls.model_fields]
        mistakes += [InitErrorDetails(type="extra_forbidden", loc=(name,), input=rest.pop(name)) for name in unknown]
        try:
            made = handler({**rest, **further})
        except ValidationError as error:
            raise ValidationError.from_exception_data(cls.__name__, [*_details(error), *mistakes]) from None
        if mistakes:
            raise ValidationError.from_exception_data(cls.__name__, mistakes)
        return made


def _details(error: ValidationError) -> Iterator[InitErrorDetails]:
    """Yield what pydantic makes an error of."""
    for details in error.errors(include_url=False):
        kept = {key: details[key] for key in ("type", "loc", "input", "ctx") if key in details}
        yield InitErrorDetails(**kept)  # type: ignore[typeddict-item]
