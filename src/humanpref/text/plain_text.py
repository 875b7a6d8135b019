"""Write a decoder's input as one plain text, and build a tokenizer that turns it into the same
tokens as the package.

The package tokenizes every turn separately, and puts fixed tokens between turns
(`humanpref.text.tokens`). In the joined text, an ordinary tokenizer would merge characters across
the borders of turns: Llama 3 and Qwen have one token for a period and two line breaks. The plain
tokenizer cuts at the borders and adds no special tokens, since the text contains them.
"""

import itertools
import re
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from humanpref.text.format import Sequence
from humanpref.text.tokens import Template


class FixedText(NamedTuple):
    """The fixed tokens of a `Template`, as text."""

    prefix: str
    before: dict[int, str]
    suffix: str

    def around(self, sequence: Sequence) -> str:
        """Return the texts of a sequence with the fixed text around and between them.

        Examples
        --------
        >>> from humanpref.text.format import Pair, joint
        >>> fixed = FixedText("P: ", {1: " P: ", 2: " A: ", 3: " B: "}, " ?")
        >>> fixed.around(joint(Pair(("Hi",), ("Hello.",), ("Yes?",)))[0])
        'P: Hi A: Hello. B: Yes? ?'
        """
        first, *others = sequence
        later = [self.before[segment.part] + segment.text for segment in others]
        return self.prefix + first.text + "".join(later) + self.suffix


def fixed_text(template: Template, tokenizer: Any) -> FixedText:
    """Decode the fixed tokens of a template."""
    before = {part: tokenizer.decode(ids) for part, ids in template.before.items()}
    return FixedText(tokenizer.decode(template.prefix), before, tokenizer.decode(template.suffix))


def plain_tokenizer(tokenizer: Any, fixed: FixedText, padding: int, max_length: int) -> Any:
    """Return a tokenizer for the texts that `FixedText.around` returns. It needs no options when it
    is called.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        The tokenizer with which the package tokenizes single turns. It is not changed.
    fixed : FixedText
        The fixed text.
    padding : int
        The token with which shorter texts of a batch are padded on the right.
    max_length : int
        The number of tokens above which the returned tokenizer warns.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = False
    backend.no_truncation()
    backend.no_padding()
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    if borders := _borders(tokenizer, fixed, backend.normalizer):
        cut = pre_tokenizers.Split(Regex("|".join(borders)), "isolated")
        others = [] if backend.pre_tokenizer is None else [backend.pre_tokenizer]
        backend.pre_tokenizer = pre_tokenizers.Sequence([cut, *others])
    special = tokenizer.special_tokens_map.items()
    named = {key: token for key, token in special if not isinstance(token, list)}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=tokenizer.chat_template,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **named | {"pad_token": tokenizer.convert_ids_to_tokens(padding)},
    )


def padding_token(tokenizer: Any, last: int, embeddings: int) -> int:
    """Choose a padding token other than the token with which every text ends. Otherwise,
    transformers would mistake that last token for padding.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        Its own padding token is preferred, then its other special tokens.
    last, embeddings : int
        The last token of every text, and the number of tokens that the model knows.
    """
    special = [tokenizer.pad_token_id, tokenizer.eos_token_id, *tokenizer.all_special_ids]
    usable = (i for i in itertools.chain(special, range(embeddings)) if i is not None)
    return next(i for i in usable if i != last and i < embeddings)


def _borders(tokenizer: Any, fixed: FixedText, normalizer: Any) -> list[str]:
    """Return regular expressions for the fixed text that borders on turns, after normalization.

    A tokenizer cuts its input at added tokens first, and then splits each piece in between. If the
    fixed text contains added tokens, the expressions therefore match only what lies between a turn
    and the nearest added token.
    """
    added = sorted(map(str, tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
    tokens = re.compile("|".join(map(re.escape, added)) or r"(?!)")

    def piece(text: str) -> str:
        normal = normalizer.normalize_str(text) if normalizer else text
        return "".join(f"\\x{{{ord(character):x}}}" for character in normal)

    found = {}
    for text in fixed.before.values():
        first, *others = tokens.split(text)
        found[first] = piece(first) + (r"\z" if others else "")
        if others:
            found[others[-1]] = r"\A" + piece(others[-1])
    first, last = tokens.split(fixed.suffix)[0], tokens.split(fixed.prefix)[-1]
    found |= {last: r"\A" + piece(last), first: piece(first) + r"\z"}
    return [pattern for text, pattern in found.items() if text]
