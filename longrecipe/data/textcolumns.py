"""Rows as documents: which columns contain the text, and conversations as lists of messages."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from longrecipe.data.textrows import Row
from longrecipe.data.textwalk import Report

# Columns that contain a document. The first set with text is read, and its columns are joined by newlines.
COLUMNS = (
    ("text",),
    ("system", "messages"),
    ("system", "conversations"),
    ("system", "conversation"),
    ("system", "instruction", "input", "context", "output"),
    ("system", "instruction", "input", "context", "response"),
    ("problem", "solution"),
    ("system", "system_prompt", "prompt", "response"),
    ("system", "system_prompt", "prompt", "completion"),
    ("context", "question", "answer"),
    ("system", "system_prompt", "question", "response"),
    ("content",),
)
_CONVERSATIONS = ("messages", "conversations", "conversation")
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
_KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool", "ipython", "function", "observation")
# These may be missing or empty.
_OPTIONAL = frozenset(["system", "system_prompt", "input", "context"])
# After this many rows without a known column, the rest of a file is not read.
_PATIENCE = 100


class Document(NamedTuple):
    """A document and its place for error messages: plain text, or the messages of a conversation."""

    content: str | list[dict[str, Any]]
    place: str


class NoColumnError(ValueError):
    """No row has the column that was asked for."""


class NoTextError(ValueError):
    """The rows have known columns, but no text in them."""


def known_columns(text_column: str | None) -> set[str]:
    """The names of all columns that may be read."""
    return {text_column} if text_column else {name for names in COLUMNS for name in names}


def documents_of(
    rows: Iterable[Row], source: str, text_column: str | None = None, *, report: Report | None = None
) -> Iterator[Document]:
    """The documents of rows, at most one per row.

    Each row is read from the first set in COLUMNS that it has text for, so an empty column does not hide another one.
    Args: source, the file or dataset for error messages; text_column, the only column to read; report, which counts the
    rows without text. Raises ValueError if no row has a known column, if all known columns are empty, and for a value
    that is neither text nor a conversation.
    """
    report = Report() if report is None else report
    sets = ((text_column,),) if text_column else COLUMNS
    n_documents, n_empty, empty, names = 0, 0, set(), {}
    for columns, place, not_read in rows:
        names |= dict.fromkeys((*columns, *not_read))
        content, place = None, f"{source}, {place}"
        for chosen in sets:
            if all(name in columns for name in _required(chosen)):
                content = _content(columns, chosen, place)
                if content:
                    break
                empty.update(_required(chosen))
        if content:
            n_documents += 1
            used = " + ".join(name for name in chosen if not _is_empty(columns.get(name)))
            report.columns[used] = report.columns.get(used, 0) + 1
            yield Document(content, place)
            continue
        n_empty += 1
        if n_empty == _PATIENCE and not n_documents and not empty:
            break
    if n_empty and not n_documents:
        raise _no_text(source, text_column, names, sorted(empty))
    if n_empty:
        report.skip("empty row", count=n_empty)


def clean(text: str) -> str:
    """Text with `\\n` as line ends and without a byte order mark; lone surrogates are replaced by U+FFFD."""
    if not text.isascii():
        text = text.removeprefix("\ufeff").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _required(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name not in _OPTIONAL] or list(names)


def _no_text(source: str, text_column: str | None, names: Iterable[str], empty: list[str]) -> ValueError:
    there = ", ".join(str(name)[:40] for name in names) or "no columns"
    if empty:
        return NoTextError(f"{source}: no row has text (empty columns: {', '.join(empty)}); there are {there}.")
    if text_column:
        return NoColumnError(f"text_column = {text_column!r}: {source} has no such column; there are {there}.")
    known = "; or ".join(" and ".join(_required(names)) for names in COLUMNS)
    return ValueError(
        f"{source} has the columns {there}: a document is read from {known}. Set text_column to another column, or "
        "move the file out of the folder."
    )


def _content(columns: Mapping[str, Any], chosen: tuple[str, ...], place: str) -> str | list[dict[str, Any]] | None:
    """The text or the messages in the chosen columns of a row; None if they are empty."""
    values = {name: columns[name] for name in chosen if not _is_empty(columns.get(name))}
    main = [name for name in _required(chosen) if name in values]
    if not main:
        return None
    if any(_is_conversation(values[name]) for name in main):
        return _joined(values, place)
    if main[0] in _CONVERSATIONS:
        raise ValueError(
            f"{place}: column {main[0]!r} is {_described(values[main[0]])}, not a list of messages with role and "
            "content; to read text from it, set text_column to its name."
        )
    if all(_is_number(values[name]) for name in main):
        raise _not_text(place, main[0], values[main[0]])
    for name, value in values.items():
        if not isinstance(value, str) and not _is_number(value):
            raise _not_text(place, name, value)
    return clean("\n".join(map(str, values.values())))


def _not_text(place: str, name: str, value: Any) -> ValueError:
    return ValueError(
        f"{place}: column {name!r} is {_described(value)}, not text; write a string into it, for example "
        "by joining the parts with newlines, or set text_column to another column."
    )


def _joined(values: Mapping[str, Any], place: str) -> list[dict[str, Any]] | None:
    """The messages of a conversation in several columns, with a system prompt first."""
    messages: list[dict[str, Any]] = []
    for name, value in values.items():
        if _is_conversation(value):
            messages += [_message(each, f"{place}, {name}") for each in _listed(value)]
        elif name in ("system", "system_prompt") and isinstance(value, str):
            messages.append({"role": "system", "content": clean(value)})
        else:
            raise ValueError(
                f"{place}: column {name!r} is {_described(value)} next to a conversation; make it a list of messages."
            )
    if [each["role"] for each in messages[:2]] == ["system", "system"]:
        # Many templates allow only one system message.
        contents = dict.fromkeys(each["content"] for each in messages[:2])
        messages = [messages[1] | {"content": "\n".join(contents)}, *messages[2:]]
    return messages if any(each["content"].strip() for each in messages) else None


def _message(message: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A message with role and content of type str; the form with `from` and `value` is converted."""
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    role = _ROLES.get(role, role)
    if role not in _KNOWN_ROLES:
        raise ValueError(f"{place}: role {role!r} is unknown; allowed are {', '.join((*_KNOWN_ROLES, *_ROLES))}.")
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        content = "\n".join(str(part["text"]) for part in content)
    if content is not None and not isinstance(content, str):
        raise ValueError(f"{place}: the content of a message is {_described(content)}; write a string into it.")
    # A template may use other keys, such as tool_calls. File formats fill missing keys with None; these are left out.
    more = {key: value for key, value in message.items() if value is not None and key not in ("from", "value")}
    return more | {"role": role, "content": clean(content or "")}


def _is_conversation(value: Any) -> bool:
    messages = _listed(value)
    return bool(messages) and all(
        isinstance(each, Mapping) and ("role" in each or "from" in each) and ("content" in each or "value" in each)
        for each in messages
    )


def _listed(value: Any) -> list | None:
    """A list of messages, or None. Older versions of `datasets` give one dict of lists, which is converted."""
    if isinstance(value, Mapping) and value and all(isinstance(each, list) for each in value.values()):
        if len({len(each) for each in value.values()}) == 1:
            return [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
        return None
    return value if isinstance(value, list) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


def _described(value: Any) -> str:
    article = "an" if type(value).__name__[0] in "aeio" else "a"
    return f"{article} {type(value).__name__} ({str(value)[:40]})"
