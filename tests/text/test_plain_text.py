"""A pair as one text: the same tokens as its parts have."""

import pytest

pytest.importorskip("transformers")

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from humanpref.text.chat import judge_template
from humanpref.text.format import PROMPT, A, B, Pair, joint
from humanpref.text.plain_text import FixedText, fixed_text, padding_token, plain_tokenizer
from humanpref.text.tokens import tokenise

CHAT = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TEXTS = ("Hello there.", "(1) Yes!", "No?\n\nResponse: 12.", " spaces ", "", "\n", "ends\n\n")
PAIRS = [
    Pair(("Say hi.", "Again!"), ("Hi.", "Hi."), ("Hi!!", "No.")),
    *(Pair((text,), (TEXTS[i - 1],), (TEXTS[i - 2],)) for i, text in enumerate(TEXTS)),
]
GPT4 = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\p{L}+| ?\p{N}|\s+"
"""Like Llama 3 and Qwen: a period joins the line breaks after it."""


def tokenizer_of(kind, chat=True):
    """Train a tokenizer that merges line breaks with what is next to them."""
    backend = Tokenizer(models.BPE(byte_fallback=kind == "gemma"))
    if kind == "gemma":
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    else:
        split = pre_tokenizers.Split(Regex(GPT4), "isolated")
        levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, levels])
        backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|start|>", "<|end|>"]
    characters = sorted({*"".join(map(str, PAIRS)), *"PromptResponseABWhich?:\n. ▁"})
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind != "gemma" else characters
    trainer = BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([PLAIN.around(joint(pair)[0]) for pair in PAIRS] * 3, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|start|>", eos_token="<|end|>"
    )
    made.chat_template = CHAT if chat else None
    return made


PLAIN = FixedText(
    "Prompt:\n", {PROMPT: "\n\nPrompt:\n", A: "\n\nResponse A:\n", B: "\n\nResponse B:\n"}, "\n\nWh"
)


def parts_and_whole(tokenizer, template):
    """Token ids of every pair, by its parts and as one text."""
    sequences = [joint(pair)[0] for pair in PAIRS]
    fixed = fixed_text(template, tokenizer)
    plain = plain_tokenizer(tokenizer, fixed, 0, 1_000)
    parts = tokenise(sequences, tokenizer, 1_000, 0.2, "parts", template)
    texts = [fixed.around(sequence) for sequence in sequences]
    return [one.ids.tolist() for one in parts], texts, plain


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("kind", ["llama3", "gemma"])
def test_the_whole_text_has_the_tokens_of_its_parts(kind, chat, tmp_path):
    tokenizer = tokenizer_of(kind, chat)
    parts, texts, plain = parts_and_whole(tokenizer, judge_template(tokenizer, "", "Which?"))
    assert [plain(text).input_ids for text in texts] == parts
    joined = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert joined[0] != parts[0], "the tokenizer must merge across borders"
    plain.save_pretrained(tmp_path)
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert [saved(text).input_ids for text in texts] == parts
    assert saved.pad_token_id == 0
    assert saved.padding_side == "right"
    padded = saved(texts[:2], padding=True)
    assert set(padded) == {"input_ids", "attention_mask"}


def test_only_the_borders_are_cut(tmp_path):
    """Words of the fixed text inside a text keep their tokens."""
    tokenizer = tokenizer_of("llama3")
    template = judge_template(tokenizer, "", "Which?")
    text = "(1) Yes!\n\nWhich?\nuser\nPrompt:\nor not."
    sequence = joint(Pair((text,), ("a",), ("b",)))[0]
    fixed = fixed_text(template, tokenizer)
    plain = plain_tokenizer(tokenizer, fixed, 0, 1_000)
    (parts,) = tokenise([sequence], tokenizer, 1_000, 0.2, "parts", template)
    assert plain(fixed.around(sequence)).input_ids == parts.ids.tolist()


def test_an_added_token_is_a_border():
    tokenizer = tokenizer_of("llama3")
    tokenizer.add_tokens([AddedToken("\n\nResponse", normalized=False, special=False)])
    parts, texts, plain = parts_and_whole(tokenizer, judge_template(tokenizer, "", "Which?"))
    assert [plain(text).input_ids for text in texts] == parts
    assert tokenizer.convert_tokens_to_ids("\n\nResponse") in parts[0]


def test_padding_is_never_the_last_token():
    tokenizer = tokenizer_of("llama3")
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert padding_token(tokenizer, 9, 600) == end
    assert padding_token(tokenizer, end, 600) == start
    tokenizer.pad_token = "<pad>"
    assert padding_token(tokenizer, end, 600) == tokenizer.pad_token_id
    assert padding_token(tokenizer, tokenizer.pad_token_id, 600) == end
    embeddings = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<beyond>"})
    assert padding_token(tokenizer, 9, embeddings) == end
