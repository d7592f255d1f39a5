"""Pages that are written twice, as Markdown and as HTML; what somebody else wrote in them stays plain text."""

import base64
import html
import re
import unicodedata
from typing import Any

STYLE = """:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 54rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h1, h2, h3 { line-height: 1.25; margin: 1.6em 0 .4em }
h1 { font-size: 1.6rem; margin-top: .5em }
h2 { font-size: 1.3rem; border-bottom: 1px solid rgb(128 128 128 / .5) }
h3 { font-size: 1.05rem }
p { margin: .4em 0; white-space: pre-line }
pre { font: .85rem/1.4 ui-monospace, monospace; padding: .7em; white-space: pre-wrap }
pre { background: rgb(128 128 128 / .15); border-radius: 4px }
div { overflow-x: auto }
table { border-collapse: collapse; overflow-wrap: normal }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid rgb(128 128 128 / .4) }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: nowrap }
img { max-width: 100%; height: auto }"""


# A page: the kind of each block and its content, text for "h1", "h2", "h3", "p", "strong" and "pre", texts for "list",
# rows of texts for "table", and for "image" what it shows, its file and its bytes. The first one is the "h1".
Blocks = list[tuple[str, Any]]


def markdown(page: Blocks) -> str:
    """A page as Markdown, in which nothing that somebody wrote means anything to Markdown or HTML."""
    return "\n\n".join(_markdown(kind, content) for kind, content in page) + "\n"


def _markdown(kind: str, content: Any) -> str:
    if kind == "pre":
        text = _readable(content)
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        return f"{fence}text\n{text}\n{fence}"
    if kind == "table":
        rows = ["| " + " | ".join(map(_escaped, row)) + " |" for row in content]
        return "\n".join([rows[0], "| --- |" + " ---: |" * (len(content[0]) - 1), *rows[1:]])
    if kind == "list":
        return "\n".join(f"- {_escaped(item)}" for item in content)
    if kind == "image":
        return f"![{_escaped(content[0])}]({content[1]})"
    begin, end = {"h1": ("# ", ""), "h2": ("## ", ""), "h3": ("### ", ""), "strong": ("**", "**"), "p": ("", "")}[kind]
    return begin + _escaped(content) + end


def _escaped(text: str) -> str:
    """One line for Markdown."""
    text = html.escape(" ".join(_readable(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", text)


def web_page(page: Blocks) -> str:
    """A page as HTML that needs no other file."""
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(page[0][1])}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>",
            *(_html(kind, content) for kind, content in page),
            "</body>\n</html>\n",
        ]
    )


def _html(kind: str, content: Any) -> str:
    if kind == "table":
        rows = ["".join(f"<td>{_text(item)}</td>" for item in row) for row in content]
        rows[0] = rows[0].replace("td>", "th>")
        return "<div><table>\n" + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</table></div>"
    if kind == "list":
        return "<ul>\n" + "\n".join(f"<li>{_text(item)}</li>" for item in content) + "\n</ul>"
    if kind == "image":
        alt, _, png = content
        return f'<p><img alt="{_text(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'
    return f"<{kind}>{_text(content)}</{kind}>"


def _text(text: str) -> str:
    """Text for HTML."""
    return html.escape(_readable(text))


def _readable(text: str) -> str:
    """Text without colour codes and other characters that nobody can see, and with one kind of line end."""
    text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text).replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    return text.encode(errors="backslashreplace").decode()
