"""How the pages are built. What the reference pages list is written from the code first, so it cannot differ."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

import reference_pages  # noqa: E402 - the paths above come first

import prime  # noqa: E402 - the same

reference_pages.write(HERE / "reference")

project = "Prime"
author = "The Prime maintainers"
project_copyright = author
release = version = prime.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest"]
INCLUDED = ["reference/actor_names.md", "reference/configuration_keys.md", "reference/error_classes.md"]
exclude_patterns = ["_build", *INCLUDED]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "code"  # what docstrings put between single backticks
autodoc_typehints = "description"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "Prime"
