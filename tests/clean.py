"""What a terminal may be given."""

from zoo.text import safe_text


def is_clean(error: object) -> bool:
    """Whether a message is one line, without a character that could steer a terminal or hide."""
    return safe_text(error) == str(error)
