"""Words in messages: names shown literally, and counts of things."""


def literal(text: str) -> str:
    r"""Return a text with everything that does not print as itself escaped, as `repr` does: \x1b, \n, \u202e, \udcff.

    What stays can neither steer a terminal, nor begin a line, nor turn the text around it, nor fail to be encoded.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def option_name(field: str) -> str:
    """Return the command-line option of a setting that Python calls `field`: batch_size is --batch-size."""
    return "--lambda" if field == "pairing_weight" else f"--{field.replace('_', '-')}"


def counted(number: int, thing: str, things: str | None = None) -> str:
    """Return "1 image" or "2 images"; `things` is the plural where it is not the singular with an s."""
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"
