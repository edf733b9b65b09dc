"""Text as token ids. Plain text never becomes control tokens; a conversation gets those of its chat template."""

import re
from collections.abc import Iterable
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from longrecipe.system.errors import reason

# While a template is rendered, control tokens inside messages are replaced by letters of the last private-use plane.
_PRIVATE = 0x10F000


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The token ids of texts. A control token in a text, such as `<|im_start|>`, is encoded as ordinary text."""
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def encode_conversation(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], place: str) -> list[int]:
    """The token ids of a conversation, rendered with the tokenizer's chat template.

    Control tokens of the template stay control tokens; those inside a message are encoded as ordinary text.
    Args: messages: each with role and content of type str; place: file and row of the conversation, for error messages.
    Raises ValueError if the tokenizer has no chat template, or if the template does not accept the messages.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"{place}: this is a conversation, but the tokenizer has no chat template: add chat_template.jinja to the "
            "model's folder, or write the conversation as one string into a column `text`."
        )
    names = sorted(_control_tokens(tokenizer), key=len, reverse=True)
    letters = {name: chr(_PRIVATE + i) for i, name in enumerate(names)}
    pattern = re.compile("|".join(map(re.escape, names)) or "(?!)")
    hidden = [each | {"content": pattern.sub(lambda m: letters[m[0]], each["content"])} for each in messages]
    try:
        text = tokenizer.apply_chat_template(hidden, tokenize=False)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{place}: the chat template does not accept the messages ({reason(error)}): change them."
        ) from error
    if not text.endswith("\n"):
        text += "\n\n"
    # re.split with a group puts the letters at the odd places.
    parts = re.split("([" + "".join(letters.values()) + "])", text) if letters else [text]
    ids: list[int] = []
    for i, part in enumerate(parts):
        if i % 2:
            ids += encode(tokenizer, [names[ord(part) - _PRIVATE]])[0]
        elif part:
            ids += tokenizer(part, add_special_tokens=False, split_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> Iterable[str]:
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)
