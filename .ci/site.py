"""Hooks of `mkdocs build`: what lies outside docs/ and belongs to the site."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
"""File in the root → page of the site."""
LINKED = re.compile(r"\]\(\.\./([\w./-]+)\)")
"""A link from a page in docs/ to a file outside of it."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and the files that pages link to."""
    linked = {name for page in files.documentation_pages() for name in LINKED.findall(page.content_string)}
    for name in sorted(linked - PAGES.keys()):
        files.append(File.generated(config, f"files/{name}", abs_src_path=str(ROOT / name)))
    for name, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Point links of pages of the root into docs/, and links of docs/ to files outside of it to their copies."""
    if page.file.src_uri in PAGES.values():
        return markdown.replace("](docs/", "](")
    return LINKED.sub(lambda link: f"]({PAGES.get(link[1], f'files/{link[1]}')})", markdown)
