"""docs/configuration.md is what the code says."""

from __future__ import annotations

from docs.configuration import PAGE, page


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: make docs"
