import pytest

from stylize.console import counted, literal

TRICKS = {
    "esc\x1b[31mred": r"esc\x1b[31mred",
    "two\nlines\r": r"two\nlines\r",
    "\x9b31mred\x07": r"\x9b31mred\x07",
    "cod\u202egnp.exe": r"cod\u202egnp.exe",
    "a\u2066b\u200bc\ufeff": r"a\u2066b\u200bc\ufeff",
    "line\u2028break": r"line\u2028break",
    "byte\udcff": r"byte\udcff",
    "tab\tnul\0": r"tab\tnul\x00",
}
PLAIN = (
    "it's",
    "[red]x[/red]",
    "$x^{y$",
    ":smile:",
    "naïve",
    "日本語",
    "🎨",
    "a b",
    "back\\slash",
    "",
    "%s {0} <b>&amp;",
)


@pytest.mark.parametrize(("text", "shown"), TRICKS.items())
def test_what_does_not_print_is_escaped(text: str, shown: str) -> None:
    assert literal(text) == shown
    assert shown.encode()
    assert shown.isprintable()
    assert literal(shown) == shown


@pytest.mark.parametrize("text", PLAIN)
def test_what_prints_stays(text: str) -> None:
    assert literal(text) == text


def test_counts_have_their_plural() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(number, "class", "classes") for number in (1, 3)] == ["1 class", "3 classes"]
