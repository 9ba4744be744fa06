"""The check of ``make lint`` finds what it excludes, and no more."""

from __future__ import annotations

from tests.lint_words import above, in_markdown, in_python

SOURCE = '''\
"""Module."""
#: Who writes it.
def ghost_of(row: object) -> None:
    """What is written. Return it: where it is.

    Those are read. What is read? The echo.
    """
    raise ValueError("whoever asks")
'''


def test_sentences_and_words_of_a_module_are_found_with_their_lines() -> None:
    assert sorted(in_python(SOURCE)) == [
        (2, "Who"),
        (3, "ghost"),
        (4, "What"),
        (6, "Those"),
        (6, "echo"),
        (8, "whoever"),
    ]


def test_code_questions_and_other_words_of_a_page_are_left_out() -> None:
    page = (
        "# What is it?\n\n`ghost`\n\n```bash\necho 1\n```\n- Where it is.\nRecommended. Nobody.\n"
    )
    assert sorted(in_markdown(page)) == [(8, "Where"), (9, "Nobody"), (9, "nobody")]


def test_a_ceiling_holds_for_a_file_and_moves_with_it() -> None:
    ceilings = {"kept": 2, "gone": 3}
    existing = {"kept", "moved"}.__contains__
    assert above({"kept": 2, "moved": 3}, ceilings, existing) == []
    assert above({"kept": 3, "moved": 3}, ceilings, existing) == ["kept"]
    assert above({"kept": 2, "moved": 4}, ceilings, existing) == ["moved"]
