"""Makes a page of the site for each cause and remedy of the catalogue: a hook of MkDocs.

The text is the docstring that `whynan explain` shows.
"""

from itertools import groupby
from typing import Any

from mkdocs.structure.files import File, Files

from whynan.diagnosis import catalogue
from whynan.diagnosis.catalogue import Cause, Remedy

_SECTIONS = {"Symptoms": "How it looks", "Given": "Given", "Bad": "Bad", "Good": "Good", "Code": "Code"}


def on_config(config: Any) -> Any:
    """Add the catalogue to the navigation."""
    causes = [
        {group: [{cause.slug: f"causes/{cause.slug}.md"} for cause in causes]}
        for group, causes in groupby(catalogue.all_causes(), key=lambda cause: cause.group)
    ]
    remedies = [{remedy.slug: f"remedies/{remedy.slug}.md"} for remedy in catalogue.all_remedies()]
    config.nav = [*config.nav[:3], {"Causes": ["causes/index.md", *causes]}, {"Remedies": remedies}, *config.nav[3:]]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages themselves."""
    for cause in catalogue.all_causes():
        files.append(File.generated(config, f"causes/{cause.slug}.md", content=page(cause)))
    for remedy in catalogue.all_remedies():
        files.append(File.generated(config, f"remedies/{remedy.slug}.md", content=page(remedy)))
    files.append(File.generated(config, "causes/index.md", content=overview()))
    return files


def overview() -> str:
    """Return the table of all causes."""
    rows = []
    for cause in catalogue.all_causes():
        helps = ", ".join(f"[{slug}](../remedies/{slug}.md)" for slug in cause.remedies)
        rows.append(f"| [{cause.slug}]({cause.slug}.md) | {cause.title} | {cause.group} | {helps} |")
    head = (
        "# Causes\n\nOn the command line: `whynan explain`.\n\n"
        "| cause | is | group | helps, best first |\n| --- | --- | --- | --- |"
    )
    return "\n".join((head, *rows)) + "\n"


def page(entry: Cause | Remedy) -> str:
    """Return an entry's page in Markdown."""
    found = catalogue.page_of(entry)
    parts = [f"# {entry.title}", f"`{entry.slug}`", found.text]
    for name, title in _SECTIONS.items():
        if name in found.sections:
            body = found.sections[name]
            parts += [f"## {title}", body if name == "Symptoms" else f"```python\n{body}\n```"]
    if isinstance(entry, Cause):
        lines = [f"- [{slug}](../remedies/{slug}.md): {_title(slug)}" for slug in entry.remedies]
        parts += ["## What helps, best first", "\n".join(lines)]
    else:
        causes = catalogue.causes_helped_by(entry.slug)
        lines = [f"- [{cause.slug}](../causes/{cause.slug}.md): {cause.title}" for cause in causes]
        parts += ["## Helps against", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _title(slug: str) -> str:
    remedy = catalogue.remedy(slug)
    return remedy.title if remedy else ""
