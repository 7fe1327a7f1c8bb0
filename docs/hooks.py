"""What the site needs beside mkdocs.yml: pages from the top of the repository, and which names are the public API."""

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
INTO_DOCS = re.compile(r'(?<=\]\()docs/|(?<=src=")docs/')
BESIDE = re.compile(r"(?<=\]\()(?!docs/|https?:|#)")
OUT_OF_DOCS = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)([^)]*)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add those pages, with links as they would be in docs/."""
    for name, page in PAGES.items():
        text = (PROJECT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=INTO_DOCS.sub("", BESIDE.sub("../", text))))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to those pages into the site; of links to other files outside docs/ only the text stays."""
    if "/" in page.file.src_uri:
        return markdown
    return OUT_OF_DOCS.sub(_link_in_site, markdown)


def _link_in_site(link: re.Match[str]) -> str:
    text, target, anchor = link.groups()
    return f"[{text}]({PAGES[target]}{anchor})" if target in PAGES else text


class PublicNames(griffe.Extension):
    """Makes public what a package's `__init__.pyi` re-exports, for mkdocstrings."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Export the names that come from the package's own modules."""
        aliases = [member for member in pkg.members.values() if isinstance(member, griffe.Alias)]
        pkg.exports = [alias.name for alias in aliases if alias.target_path.startswith(f"{pkg.path}.")]
