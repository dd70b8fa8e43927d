"""Who owns what is in a package, and what changed: copyright file and changelog as Debian's policy has them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from email.parser import HeaderParser
from functools import cache
from pathlib import Path

from nvdra_packages import wheels as wheel_files
from nvdra_packages.layout import MAINTAINER, NAME, SITE_PACKAGES, BuildError
from nvdra_packages.lock import UNUSED, normal
from nvdra_packages.version import Release

LICENSES = {
    "cffi": "MIT-0",
    "cryptography": "Apache-2.0",  # or BSD-3-Clause, as the user chooses
    "grpcio": "Apache-2.0",
    "msgspec": "BSD-3-Clause",
    "nvidia-ml-py": "BSD-3-Clause",
    "prometheus-client": "Apache-2.0 AND BSD-2-Clause",
    "protobuf": "BSD-3-Clause",
    "pyyaml": "MIT",
    "sdnotify": "MIT",
    "typing-extensions": "PSF-2.0",
}
"""Project -> SPDX identifier, read by a person; a project that is not here ends the build."""

_BUNDLED = ("prometheus_client/decorator.py", "BSD-2-Clause")
"""A file of another project inside a wheel, and its licence; the text is the file's first comment."""

_TEXTS = (".py", "METADATA", "LICENSE", "LICENSE.txt")

_APACHE = """\
License: Apache-2.0
 On Debian systems, the full text of the Apache License, Version 2.0 can be
 found in the file /usr/share/common-licenses/Apache-2.0.
"""
_OURS = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: nvdra

Files: *
Copyright: 2026 nvdra contributors
License: Apache-2.0
"""


@dataclass(frozen=True)
class Project:
    """What a wheel says about the project it is of."""

    name: str
    version: str
    summary: str
    author: str
    needs: tuple[str, ...]
    """Names of the projects that it always needs."""
    license_text: str
    """Empty where the wheel has none."""
    modules: tuple[str, ...]
    """Top-level names below site-packages."""
    bundled_text: str = ""
    """The licence of the file ``_BUNDLED``, for the project that has it."""

    @property
    def license(self) -> str:
        """SPDX identifier. Raises BuildError for a project without an entry."""
        if self.name not in LICENSES:
            raise BuildError(
                f"{self.name}: its licence is not in notices.LICENSES; read it and add it"
            )
        return LICENSES[self.name]


@cache
def projects(wheels: Path) -> tuple[Project, ...]:
    """What is in a directory of wheels, one entry for all wheels of a project, sorted by name."""
    found: dict[str, Project] = {}
    for path in sorted(wheels.iterdir()):
        project = _read(path)
        found.setdefault(project.name, project)
    return tuple(found[name] for name in sorted(found))


def _read(path: Path) -> Project:
    files = dict(wheel_files.members(path))
    texts = {n: d.decode() for n, d in files.items() if n.endswith(_TEXTS)}
    metadata = next(text for name, text in texts.items() if name.endswith("METADATA"))
    head = HeaderParser().parsestr(metadata)
    needs = [n for n in head.get_all("Requires-Dist", []) if "extra ==" not in n]
    needed = [normal(re.split(r"[<>=!~\[ ;(]", need)[0]) for need in needs]
    licences = [t for n, t in texts.items() if re.search(r"/LICENSE(\.txt)?$", n)]
    header = next((t for n, t in texts.items() if n == "pynvml.py"), "")
    code = [n for n in files if ".dist-info/" not in n and n.endswith((".py", ".so"))]
    tops = {re.sub(r"(/|\.cpython-).*", "", name) for name in code}
    return Project(
        name=normal(head["Name"]),
        version=head["Version"],
        summary=head["Summary"],
        author=head["Author"]
        or re.sub(r" *<.*", "", head["Author-email"] or f"the {head['Name']} authors"),
        needs=tuple(sorted(set(needed) - UNUSED)),
        license_text=licences[0] if licences else _comment(header),
        modules=tuple(sorted(tops)),
        bundled_text=_comment(texts.get(_BUNDLED[0], "").partition('\n"""')[0]),
    )


def _comment(text: str) -> str:
    """The first comment of a module: nvidia-ml-py has its licence there."""
    lines = text.split("\n#####\n")[0].splitlines()
    return "\n".join(line.lstrip("#").removeprefix(" ") for line in lines)


def copyright_text(wheels: Path) -> str:
    """The copyright file: ours, then one paragraph for each project, with its licence in full."""
    parts = [_OURS]
    for project in projects(wheels):
        files = " ".join(f"{SITE_PACKAGES}/{name}*" for name in (*project.modules, project.name))
        text = f"Files: {files}\nCopyright: {_holder(project.license_text, project.author)}\n"
        if project.license.startswith("Apache-2.0"):
            parts.append(f"{text}License: Apache-2.0\n")
        else:
            parts.append(
                f"{text}License: {project.license}-{project.name}\n{_paragraphs(project.license_text)}"
            )
        if project.bundled_text:
            path, identifier = _BUNDLED
            parts.append(
                f"Files: {SITE_PACKAGES}/{path}\nCopyright: {_holder(project.bundled_text, project.author)}\n"
                f"License: {identifier}\n{_paragraphs(project.bundled_text)}"
            )
    return "\n".join([*parts, _APACHE])


def _holder(license_text: str, author: str) -> str:
    """The holder that the licence text names, or else the author."""
    found = re.search(r"^ *(Copyright .*)$", license_text, re.MULTILINE)
    is_filled_in = found and "[" not in found[1] and "{" not in found[1]
    return found[1].strip() if found and is_filled_in else author


def _paragraphs(text: str) -> str:
    """A text as the value of a field: each line indented, an empty one a dot."""
    lines = [line.rstrip() for line in textwrap.dedent(text).strip().splitlines()]
    return "".join(f" {line}\n" if line.strip() else " .\n" for line in lines)


def changelog(text: str, release: Release) -> str:
    """Debian's changelog with one entry: what CHANGELOG.md says of this release, or of what is not released yet."""
    found = re.search(rf"^## \[?{re.escape(release.version)}\b.*$", text, re.MULTILINE)
    start = found or re.search(r"^## Unreleased$", text, re.MULTILINE)
    if not start:
        raise BuildError(f"CHANGELOG.md: neither {release.version} nor Unreleased")
    section = re.split(r"^## ", text[start.end() :], flags=re.MULTILINE)[0]
    _, *parts = re.split(r"^### (.+)$", section, flags=re.MULTILINE)
    items = [
        f"{component}: {' '.join(item.split())}"
        for component, entries in zip(parts[::2], parts[1::2], strict=True)
        for item in re.findall(r"^- (.*(?:\n  .*)*)", entries, re.MULTILINE)
    ]
    bullets = [
        textwrap.fill(item, 78, initial_indent="  * ", subsequent_indent="    ") for item in items
    ]
    body = "\n".join(bullets or ["  * See CHANGELOG.md."])
    return f"{NAME} ({release.version}) stable; urgency=medium\n\n{body}\n\n -- {MAINTAINER}  {release.mail_date}\n"
