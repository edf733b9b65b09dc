"""Text as token ids: plain text stays text, and a conversation gets the control tokens of its chat template."""

import re
from collections.abc import Iterable
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from longrecipe.system.errors import reason

# Control tokens inside a message are replaced by letters of the last private plane while its template is rendered.
_PRIVATE = 0x10F000


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The token ids of texts. What reads like a control token, for instance `<|im_start|>`, is text like any other."""
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def encode_conversation(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], place: str) -> list[int]:
    """The token ids of a conversation, rendered with the tokenizer's chat template.

    The template's control tokens are control tokens; what reads like one inside a message is text.
    Args: messages, each with role and content of type str; place, of the conversation in error messages.
    Raises ValueError if the tokenizer has no chat template, or if the template refuses the messages.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"{place}: this is a conversation, and the tokenizer has no chat template: add chat_template.jinja to the "
            "model's folder, or write the conversation as one string into a column `text`."
        )
    names = sorted(_control_tokens(tokenizer), key=len, reverse=True)
    letters = {name: chr(_PRIVATE + i) for i, name in enumerate(names)}
    pattern = re.compile("|".join(map(re.escape, names)) or "(?!)")
    hidden = [each | {"content": pattern.sub(lambda m: letters[m[0]], each["content"])} for each in messages]
    try:
        text = tokenizer.apply_chat_template(hidden, tokenize=False)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{place}: the chat template refuses the messages ({reason(error)}): change them.") from error
    if not text.endswith("\n"):
        text += "\n\n"
    # Odd parts are the letters.
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
