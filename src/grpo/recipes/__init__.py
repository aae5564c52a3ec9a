"""Recipes: tested configurations, shipped as YAML with comments that give the reasons."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["names", "summary", "text"]


def names() -> list[str]:
    """Return the names of all recipes, in alphabetical order."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files("grpo.recipes").iterdir() if entry.name.endswith(".yaml")
    )


def text(name: str) -> str:
    """Return the YAML of the recipe `name`, comments included."""
    return files("grpo.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def summary(name: str) -> str:
    """Return the first line of a recipe, its summary."""
    return text(name).splitlines()[0].lstrip("# ")
