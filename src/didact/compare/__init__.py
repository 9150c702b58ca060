"""Methods side by side on one run: the same rows, the same questions; what is not told apart is a tie."""

from __future__ import annotations

from didact.compare.facts import facts
from didact.compare.page import html, markdown, table
from didact.compare.work import compare

__all__ = ["compare", "facts", "html", "markdown", "table"]
