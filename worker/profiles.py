"""Category profiles from a TOML or JSON file: one table a category.

[bag]
alpha_accept = 0.01            # bound on counterfeits called authentic
alpha_reject = 0.02            # bound on genuine items called counterfeit
prior_genuine = 0.5            # declared share of genuine items
min_references = 2
quality = { min_sharpness = 0.1 }

[[bag.views]]
view = "serial"
quality = { max_glare = 0.02 }  # of this view; what is not said is the category's
required = true
critical = true
masked = [[0.3, 0.4, 0.7, 0.6]]  # left, top, right, bottom as fractions: digits differ by nature
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from worker.core.policy import CategoryProfile, QualityLimits, ViewRequirement
from worker.errors import AssayError

Share = Annotated[float, Field(ge=0, le=1)]
Open = Annotated[float, Field(gt=0, lt=1)]


class InvalidProfiles(AssayError):
    """The file cannot be read as profiles; the message names the file, the place and the fault."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Quality(_Strict):
    min_sharpness: Annotated[float, Field(ge=0)] = 0.0
    min_brightness: Share = 0.0
    max_brightness: Share = 1.0
    max_clipped: Share = 1.0
    max_glare: Share = 1.0
    min_placed: Share = 0.0


class _View(_Strict):
    view: Annotated[str, Field(min_length=1, max_length=64)]
    required: bool = True
    critical: bool = False
    masked: tuple[tuple[Share, Share, Share, Share], ...] = ()
    quality: _Quality | None = None

    @model_validator(mode="after")
    def _has_area(self) -> _View:
        for left, top, right, bottom in self.masked:
            if left >= right or top >= bottom:
                raise ValueError("a masked region is left, top, right, bottom, with left < right and top < bottom")
        return self


class _Profile(_Strict):
    views: Annotated[tuple[_View, ...], Field(min_length=1)]
    alpha_accept: Open = 0.01
    alpha_reject: Open = 0.02
    prior_genuine: Open = 0.5
    min_references: Annotated[int, Field(ge=1)] = 2
    quality: _Quality = _Quality()

    @model_validator(mode="after")
    def _names_each_view_once(self) -> _Profile:
        names = [view.view for view in self.views]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"view {twice[0]!r} is listed twice")
        return self


_FILE = TypeAdapter(dict[str, _Profile])


def read_profiles(path: Path) -> list[CategoryProfile]:
    """Read every profile of a .toml or .json file. Raises InvalidProfiles."""
    try:
        found = _FILE.validate_python(_parsed(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InvalidProfiles(f"{path}: {place}: {first['msg']}") from error
    return [_profile(category, given) for category, given in found.items()]


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise InvalidProfiles(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of either parser, and of text that is not UTF-8
        raise InvalidProfiles(f"{path} is no {path.suffix.lstrip('.') or 'JSON'}: {error}") from error


def _profile(category: str, given: _Profile) -> CategoryProfile:
    return CategoryProfile(
        category=category,
        views=tuple(_requirement(view, given.quality) for view in given.views),
        alpha_accept=given.alpha_accept,
        alpha_reject=given.alpha_reject,
        prior_genuine=given.prior_genuine,
        min_references=given.min_references,
        quality=QualityLimits(**given.quality.model_dump()),
    )


def _requirement(view: _View, quality: _Quality) -> ViewRequirement:
    """A view's own limits, and the category's where it says nothing."""
    said = view.quality.model_dump(exclude_unset=True) if view.quality else {}
    return ViewRequirement(
        view=view.view,
        required=view.required,
        critical=view.critical,
        masked=view.masked,
        quality=QualityLimits(**{**quality.model_dump(), **said}) if said else None,
    )
