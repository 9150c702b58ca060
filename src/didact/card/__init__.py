"""The card of a dataset: what it is made of, what was left out and why, how large and how varied it is, as far as
that can be counted. Facts first (`facts.py`, JSON), then two ways to show them (`page.py`, Markdown and HTML).
"""

from didact.card.facts import facts
from didact.card.made import Made, public, public_names, turn_of
from didact.card.page import DATA, card_html, card_json, card_markdown

__all__ = ["DATA", "Made", "card_html", "card_json", "card_markdown", "facts", "public", "public_names", "turn_of"]
