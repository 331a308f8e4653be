"""HTML and SVG elements: text is escaped unless it is markup already."""

from html import escape


class Html(str):
    """Markup that goes into a page as it is."""

    __slots__ = ()


def tag(element: str, /, *children: str, **attributes: str | float | bool | None) -> Html:
    """One element. `class_` is the class; '_' in other names is '-'; None and False are left out.

    Children that are no `Html` are escaped, attributes always.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if not children and element in ("img", "meta", "path", "line", "rect", "polyline", "br"):
        return Html(f"<{element}{given}/>")
    return Html(f"<{element}{given}>{join(*children)}</{element}>")


def join(*children: str) -> Html:
    """Elements and text one after the other."""
    return Html("".join(c if isinstance(c, Html) else escape(c, quote=False) for c in children))


def _text(value: str | float | bool) -> str:
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value), quote=True)
