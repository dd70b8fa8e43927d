"""The manual page of a command: what its own ``--help`` says, framed. Needs the dependencies of the command here."""

from __future__ import annotations

import re
import sys
import time

from nvdra_packages.layout import CONFIG, DOCS, TOP, run
from nvdra_packages.version import Release


def page(command: str, module: str, function: str, release: Release) -> str:
    """The page in troff, section 8."""
    program = f"import sys; sys.path.insert(0, {str(TOP)!r}); from {module} import {function}; {function}()"

    def help_text(*words: str) -> str:
        env = {"COLUMNS": "72", "LC_ALL": "C.UTF-8"}
        return run([sys.executable, "-IBc", program, *words, "--help"], env=env).replace(
            "-c ", f"{command} ", 1
        )

    general = help_text()
    names = re.findall(r"^    ([a-z][a-z-]+)\s", general, re.MULTILINE)
    date = time.strftime("%Y-%m-%d", time.gmtime(release.epoch))
    summary = " ".join(general.split("\n\n")[1].split())
    parts = [
        f'.TH {command.upper()} 8 "{date}" "nvdra {release.version}" "nvdra"',
        f".SH NAME\n{command} \\- {_escaped(summary)}",
        f".SH DESCRIPTION\n{_preformatted(general)}",
        *(f".SH COMMAND {name.upper()}\n{_preformatted(help_text(name))}" for name in names),
        f".SH FILES\n.TP\n/{CONFIG}\nsettings\n.TP\n/{DOCS}\ndocumentation",
        ".SH SEE ALSO\n.BR systemctl (1),\n.BR journalctl (1)",
    ]
    return "\n".join(parts) + "\n"


def _preformatted(text: str) -> str:
    return f".nf\n{_escaped(text.strip())}\n.fi"


def _escaped(text: str) -> str:
    """Troff takes backslashes, hyphens and lines that begin with a dot or a quote for its own."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)
